"""The numbers that windows come to."""

from __future__ import annotations

import math
from array import array
from random import Random

import numpy as np
import pytest

from perf_analyzer.stability import (
    Evidence,
    Stability,
    Verdict,
    limit_latency,
    over_limit,
    spread,
    verdict,
)
from perf_analyzer.windows import (
    Window,
    mean_interval,
    merge,
    percentile,
    percentile_interval,
    throughput_interval,
    whole_us,
)

PERCENTS = (50, 90, 95, 99)


def window(
    latencies: list[float], *, begun_at: float = 0.0, seconds: float = 1.0, **rest: object
) -> Window:
    """Requests spread evenly over the window."""
    count = len(latencies)
    ends = [begun_at + seconds * (place + 0.5) / count for place in range(count)]
    values = array("d", latencies)
    return Window(begun_at, begun_at + seconds, values, values, array("d", ends), **rest)  # type: ignore[arg-type]  # passed through


def test_three_latencies_give_the_original_s_numbers() -> None:
    result = merge([window([0.001, 0.002, 0.003])], batch_size=1, percents=PERCENTS)

    assert whole_us(result.latency.mean) == 2000
    assert whole_us(result.latency.deviation) == 1000
    assert whole_us(result.latency.percentiles[50]) == 2000
    assert whole_us(result.latency.percentiles[99]) == 3000


def test_a_single_request_has_no_deviation() -> None:
    assert merge([window([0.001])], batch_size=1, percents=PERCENTS).latency.deviation == 0.0


@pytest.mark.parametrize(("percent", "place"), [(50, 5), (90, 8), (95, 9), (99, 9), (1, 0)])
def test_a_percentile_is_the_nearest_element(percent: int, place: int) -> None:
    assert percentile(list(map(float, range(10))), percent) == place


def test_a_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 99) == 0.0


def test_windows_are_pooled() -> None:
    windows = [
        window([0.010] * 90, sent=90, responses=90, send_seconds=0.09),
        window([0.020] * 10, begun_at=1.0, sent=10, responses=10, send_seconds=0.01),
    ]

    result = merge(windows, batch_size=4, percents=PERCENTS)

    assert result.count == 100
    assert result.throughput == pytest.approx(100 * 4 / 2)
    assert result.response_throughput == pytest.approx(50)
    assert result.latency.mean == pytest.approx(0.011)
    assert result.latency.percentiles[90] == 0.010
    assert result.latency.percentiles[95] == 0.020
    assert result.send_seconds == pytest.approx(0.001)


def test_a_steady_throughput_has_a_narrow_interval() -> None:
    steady = throughput_interval([window([0.01] * 1000)], 1)

    assert steady.low == pytest.approx(1000, rel=0.01)
    assert steady.high == pytest.approx(1000, rel=0.01)


def test_intervals_of_the_mean_hold_what_they_promise() -> None:
    random = Random(7)
    held = 0
    for _ in range(200):
        values = np.array([random.expovariate(100) for _ in range(400)])
        interval = mean_interval(values)
        held += interval.low <= 0.01 <= interval.high

    assert 180 <= held <= 200


def test_intervals_of_a_percentile_hold_what_they_promise() -> None:
    random = Random(7)
    held = 0
    truth = -math.log(0.05) / 100  # the 95th percentile of an exponential distribution
    for _ in range(200):
        values = np.sort(np.array([random.expovariate(100) for _ in range(1000)]))
        interval = percentile_interval(values, 95)
        held += interval.low <= truth <= interval.high

    assert 180 <= held <= 200


def test_too_few_requests_have_no_interval() -> None:
    assert mean_interval(np.array([1.0])).high == math.inf


def three(*latencies: float, counts: tuple[int, ...] = (100, 100, 100)) -> list[Window]:
    return [
        window([latency] * count, begun_at=float(place))
        for place, (latency, count) in enumerate(zip(latencies, counts, strict=True))
    ]


def test_two_windows_are_never_stable() -> None:
    assert not Stability.of(three(0.01, 0.01, 0.01)[:2], None).stable(0.1)


def test_windows_within_the_tolerance_are_stable() -> None:
    assert Stability.of(three(0.010, 0.0105, 0.011), None).stable(0.1001)
    assert not Stability.of(three(0.010, 0.0105, 0.0112), None).stable(0.1001)


def test_throughput_must_be_stable_too() -> None:
    windows = three(0.01, 0.01, 0.01, counts=(100, 100, 120))

    assert not Stability.of(windows, None).stable(0.1)


def test_only_the_last_three_windows_count() -> None:
    wild = window([0.5] * 3)

    assert Stability.of([wild, *three(0.01, 0.01, 0.01)], None).stable(0.1)


def test_a_void_window_is_not_stable() -> None:
    windows = [*three(0.01, 0.01, 0.01)[:2], window([0.01] * 100, problem="nothing")]

    assert not Stability.of(windows, None).enough


def test_the_limit_needs_three_windows_and_one_of_them_over_it() -> None:
    assert not over_limit(three(0.01, 0.01, 0.03)[:2], 20, None)
    assert over_limit(three(0.01, 0.01, 0.03), 20, None)
    assert not over_limit(three(0.01, 0.01, 0.019), 20, None)
    assert not over_limit(three(0.01, 0.01, 0.03), 0, None)


def test_the_limit_counts_from_the_schedule_and_stability_from_the_send() -> None:
    late = Window(0, 1, array("d", [0.5]), array("d", [0.01]), array("d", [0.9]))

    assert limit_latency(late, None) == 0.5
    assert Stability.of([late], None).latency_spread == 0.0


def test_spread_of_standstill_is_infinite() -> None:
    assert spread([0.0, 1.0]) == math.inf
    assert spread([1.0]) == 0.0


def judged(windows: list[Window], **evidence: object) -> Verdict:
    result = merge(windows, batch_size=1, percents=PERCENTS)
    stability = Stability.of(windows, None)
    return verdict(result, Evidence(stability, 0.1, **evidence))  # type: ignore[arg-type]  # passed through


def test_four_verdicts() -> None:
    calm = three(0.01, 0.01, 0.01)
    busy = [window([0.01] * 100, begun_at=float(k), busy=0.97) for k in range(3)]

    assert str(judged(calm)) == "stable"
    assert str(judged(three(0.01, 0.013, 0.01))) == "noisy by 30% (latency between windows)"
    assert judged(calm, wanted_rate=200.0).word == "server saturated"
    assert judged(busy).is_client
    assert str(judged(busy)) == "client saturated (this program used 97% of a core)"


def test_a_late_event_loop_is_the_client_s_fault() -> None:
    late = [window([0.01] * 100, begun_at=float(k), lag_seconds=0.02) for k in range(3)]

    assert judged(late, wanted_rate=200.0).is_client
    assert not judged(late, wanted_rate=100.0).is_client


def test_saturation_is_told_from_the_level_before() -> None:
    calm = three(0.01, 0.01, 0.01)

    assert judged(calm, level=8.0, previous_level=4.0, previous_throughput=99.0).word == (
        "server saturated"
    )
    assert judged(calm, level=8.0, previous_level=4.0, previous_throughput=60.0).word == "stable"
