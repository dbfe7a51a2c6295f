"""Histograms and quantiles, and what Statistics and the metrics page make of them."""

from __future__ import annotations

import logging
import math
from random import Random

import pytest
import trio

from actors.metrics.latencies import (
    SLICE_SECONDS,
    SLICES,
    WINDOW_SECONDS,
    Histogram,
    Summary,
    VersionLatencies,
)
from actors.metrics.page import Metrics, Processor
from actors.settings.command_line import parse
from actors.settings.flag_values import BadOption
from actors.settings.metrics_settings import MetricsSettings
from actors.settings.options import ServerOptions
from protocol.status import ServerError, internal
from repo.devices.port import MemoryUse
from repo.metric_controls import first_response_buckets
from repo.pbtxt import parse_config
from simulation.world import SimulatedModel, World
from tests.actors.grpc_rig import DECOUPLED, PLAIN, model
from tests.actors.http_rig import HttpWorld, generate, infer


def test_a_histogram_counts_by_upper_bounds() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.observe([0.0, 1.0, 1.5, 2.0, 4.5])

    reading = histogram.read()

    assert (reading.bounds, reading.counts, reading.total) == ((1.0, 2.0, 4.0), (2, 2, 0, 1), 9.0)


def test_quantiles_are_within_one_percent() -> None:
    random = Random(0)
    values = sorted(random.lognormvariate(6.0, 2.0) for _ in range(10_000))
    summary = Summary()
    summary.observe(values, 1.0)

    for quantile, found in summary.read((0.0, 0.5, 0.9, 0.99, 0.999, 1.0), 1.0).quantiles:
        right = values[max(0, math.ceil(quantile * len(values)) - 1)]
        assert found == pytest.approx(right, rel=0.0101)


def test_quantiles_forget_and_totals_do_not() -> None:
    summary = Summary()
    for second in range(0, 600, 10):
        summary.observe([float(second + 1)], float(second), times=2)

    reading = summary.read((0.5, 1.0), 599.0)
    assert reading.quantiles[1][1] == pytest.approx(591, rel=0.0101)
    assert reading.quantiles[0][1] == pytest.approx(561, rel=0.0101)
    assert (reading.count, reading.total) == (120, 2 * sum(range(1, 600, 10)))

    late = summary.read((0.5,), 590.0 + WINDOW_SECONDS)
    assert math.isnan(late.quantiles[0][1])
    assert late.count == 120


def test_a_summary_never_keeps_more_than_its_slices() -> None:
    summary = Summary()
    for slice_number in range(10 * SLICES):
        summary.observe([1.0], slice_number * SLICE_SECONDS)

    assert len(summary._slices) == SLICES


def test_nothing_at_all_took_no_time() -> None:
    summary = Summary()
    summary.observe([0.0, 0.0, 5.0], 0.0)

    assert summary.read((0.5,), 0.0).quantiles == [(0.5, 0.0)]
    assert math.isnan(Summary().read((0.5,), 0.0).quantiles[0][1])


def test_only_what_is_wanted_is_kept() -> None:
    nothing = VersionLatencies(buckets_ms=None, summaries=False)
    nothing.responded([1.0])
    nothing.took("queue", [1.0], 0.0)
    assert nothing.read((0.5,), 0.0).first_response is None
    assert nothing.read((0.5,), 0.0).summaries == {}

    everything = VersionLatencies(buckets_ms=(100.0,), summaries=True)
    everything.responded([0.05, 0.2])
    everything.took("queue", [0.001], 0.0, times=3)
    everything.took("compute_infer", [0.001], 0.0, times=0)
    reading = everything.read((0.5,), 0.0)
    assert reading.first_response is not None
    assert reading.first_response.counts == (1, 1)
    assert reading.summaries["queue"].count == 3
    assert reading.summaries["queue"].total == pytest.approx(3000.0)
    assert reading.summaries["compute_infer"].count == 0


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_what_the_flag_says() -> None:
    assert MetricsSettings.parse([]) == MetricsSettings(
        counter_latencies=True,
        histogram_latencies=False,
        summary_latencies=False,
        quantiles=(0.5, 0.9, 0.95, 0.99, 0.999),
    )
    settings = MetricsSettings.parse([
        "counter_latencies=false", "histogram_latencies=true", "summary_latencies=true",
        "summary_quantiles=0.25:0.1,0.75:0.01", "unknown=1",
    ])  # fmt: skip
    assert settings == MetricsSettings(False, True, True, (0.25, 0.75))


def test_malformed_quantiles_are_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    pairs = "summary_quantiles=0.5:0.05,x:1,0.5,2:0.1,0.9:7,nan:0.1,0.9:0.1"

    assert MetricsSettings.parse([pairs]).quantiles == (0.5, 0.9)
    assert len(caplog.records) == 5
    assert MetricsSettings.parse(["summary_quantiles=x"]).quantiles == MetricsSettings().quantiles


@pytest.mark.parametrize("text", ["x", "=true", "counter_latencies"])
def test_a_setting_without_a_value_is_refused(text: str) -> None:
    expected = f"--metrics-config option format is <setting>=<value>. Got {text}"

    with pytest.raises(BadOption, match=f"{expected}$"):
        parse(["--model-repository=x", f"--metrics-config={text}"])


def test_a_model_may_have_buckets_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    control = 'metric_control { metric_identifier { family: "%s" } histogram_options { %s } }'
    ours = control % ("nv_inference_first_response_histogram_ms", "buckets: [ 4, 1, 2, 2 ]")
    other = control % ("nv_other", "buckets: [ 1 ]")

    config = parse_config(f"model_metrics {{ {ours} }}", "x")
    assert first_response_buckets(config) == (1.0, 2.0, 4.0)
    assert not caplog.records
    assert first_response_buckets(parse_config(f"model_metrics {{ {other} }}", "x")) is None
    assert caplog.records[0].levelno == logging.WARNING
    assert "'nv_other'" in caplog.text
    assert first_response_buckets(parse_config("", "x")) is None


# --- the page ------------------------------------------------------------------------------------


async def page(world: World, options: ServerOptions) -> list[str]:
    metrics = Metrics(
        statistics=world.core.reader,
        index=world.core.index,
        options=options,
        processor=Processor(),
        custom=world.core.custom_metrics,
        mailboxes=world.core.mailboxes,
        pinned_memory=lambda: MemoryUse(5, 3),
    )
    return (await metrics.page()).splitlines()


def options(*settings: str) -> ServerOptions:
    return ServerOptions(
        model_repository=("simulated",), allow_cpu_metrics=False, metrics_config=settings
    )


def samples(lines: list[str], family: str) -> list[str]:
    return [line for line in lines if line.startswith(family)]


def test_durations_may_be_left_out_and_counts_go_on() -> None:
    chosen = options("counter_latencies=false")

    async def scenario(world: World) -> None:
        await world.infer("m")
        lines = await page(world, chosen)
        assert not [line for line in lines if "_duration_us" in line]
        assert samples(lines, "nv_inference_request_success") == [
            'nv_inference_request_success{model="m",version="1"} 1'
        ]

    World({"m": model()}, options=chosen).run(scenario)


def test_the_pool_of_pinned_memory_is_on_the_page() -> None:
    async def scenario(world: World) -> None:
        lines = samples(await page(world, options()), "nv_pinned_memory_pool_")
        assert lines == [
            "nv_pinned_memory_pool_total_bytes 5",
            "nv_pinned_memory_pool_used_bytes 2",
        ]

    World({"m": model()}, options=options()).run(scenario)


def test_first_responses_are_observed_of_every_kind_of_model() -> None:
    chosen = options("histogram_latencies=true")
    family = "nv_inference_first_response_histogram_ms"

    def fails(_: object) -> ServerError:
        return internal("broken")

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("m", 1.0))
            await client.response()
            await client.send(infer("broken", 1.0))
            await client.response()
            await client.send(generate("rep", 0.25, 8.0))
            await client.response()
        lines = await page(world, chosen)
        for name, bucket in (("broken", "500"), ("m", "5000"), ("rep", "500")):
            mark = f'model="{name}",version="1"'
            assert f"{family}_count{{{mark}}} 1" in lines
            found = [line.rpartition(" ")[2] for line in samples(lines, f"{family}_bucket{{{mark}")]
            bounds = ["100", "500", "2000", "5000", "+Inf"]
            place = bounds.index(bucket)
            assert found == ["0"] * place + ["1"] * (5 - place), name
        assert f'{family}_sum{{model="rep",version="1"}} 250' in lines
        assert not [line for line in lines if "_summary_" in line]

    models = {
        "m": model(seconds=4.0),
        "broken": SimulatedModel(PLAIN, latency=lambda _: 0.25, behaviour=fails),
        "rep": model(DECOUPLED),
    }
    HttpWorld(models, options=chosen).run_bounded(scenario)


def test_summaries_have_quantiles_of_the_last_minute() -> None:
    chosen = options("summary_latencies=true", "summary_quantiles=0.5:0.05,1:0")

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(world.infer, "m")
        lines = await page(world, chosen)
        mark = 'model="m",version="1"'
        assert f"nv_inference_request_summary_us_count{{{mark}}} 4" in lines
        assert f"nv_inference_request_summary_us_sum{{{mark}}} 10000000" in lines
        assert f"nv_inference_compute_infer_summary_us_sum{{{mark}}} 4000000" in lines
        (half,) = samples(lines, f'nv_inference_queue_summary_us{{{mark},quantile="0.5"')
        assert float(half.rpartition(" ")[2]) == pytest.approx(1e6, rel=0.0101)
        (whole,) = samples(lines, f'nv_inference_queue_summary_us{{{mark},quantile="1"')
        assert float(whole.rpartition(" ")[2]) == pytest.approx(3e6, rel=0.0101)
        assert not [line for line in lines if "_histogram_" in line or line.startswith("nv_cache")]

        await trio.sleep(WINDOW_SECONDS)
        lines = await page(world, chosen)
        assert f'nv_inference_queue_summary_us{{{mark},quantile="1"}} NaN' in lines
        assert f"nv_inference_request_summary_us_count{{{mark}}} 4" in lines

    World({"m": model(seconds=1.0)}, options=chosen).run(scenario)
