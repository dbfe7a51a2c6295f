"""The report on the terminal, in the original's layout.

Owns every line of it. Pure: values in, lines out. What the original does not have (confidence,
verdict, service time) stands behind the lines that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Mode, Options
from perf_analyzer.server_statistics import ModelDelta, ServerDelta
from perf_analyzer.stability import Verdict
from perf_analyzer.telemetry import MEMORY_TOTAL, MEMORY_USED, POWER, UTILIZATION, GpuFigures
from perf_analyzer.windows import Latencies, Result, Window, whole_us

# A run that sends more than this share of its requests late says so.
DELAYED_SHARE: Final = 0.01
OVERHEAD_WARNING: Final = 0.5
MAX_GPUS: Final = 16


@dataclass(frozen=True)
class LevelReport:
    """One measured level, as every report needs it."""

    value: Fraction  # concurrency or requests per second
    result: Result
    verdict: Verdict


def number(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"


def settings(options: Options, model: ModelInfo, *, asynchronous: bool) -> list[str]:
    """What is about to be done."""
    lines = ["*** Measurement Settings ***"]
    if options.service_kind in {"triton", "triton_c_api"} or options.batch_size_given:
        lines.append(f"  Batch size: {options.batch_size}")
    lines.append(f"  Service Kind: {options.service_kind.upper()}")
    if options.warmup_count:
        lines.append(f"  Sending {options.warmup_count} warmup requests")
    if options.request_count:
        lines.append(f"  Sending {options.request_count} benchmark requests")
    elif options.mode is not Mode.PERIODIC and options.mode is not Mode.FIXED_SCHEDULE:
        lines += _stabilisation(options, asynchronous=asynchronous)
    levels = options.levels
    if not levels.is_single and options.mode in {Mode.CONCURRENCY, Mode.REQUEST_RATE}:
        lines.append(f"  Latency limit: {options.latency_limit_ms} msec")
        if levels.end and options.mode is Mode.CONCURRENCY:
            lines.append(f"  Concurrency limit: {int(levels.end)} concurrent requests")
        elif levels.end:
            limit = number(float(levels.end))
            lines.append(f"  Request Rate limit: {limit} requests per seconds")
    if options.mode is Mode.REQUEST_RATE:
        distribution = "poisson" if options.poisson else "uniform"
        lines.append(f"  Using {distribution} distribution on request generation")
    if options.binary_search:
        lines.append("  Using Binary Search algorithm")
    how = "asynchronous" if asynchronous else "synchronous"
    lines.append(f"  Using {how} calls for inference")
    if model.decoupled:
        lines.append("  Detected decoupled model, measuring latency up to the last response")
    return [*lines, ""]


def _stabilisation(options: Options, *, asynchronous: bool) -> list[str]:
    mode = "count_windows" if options.count_windows else "time_windows"
    lines = [f'  Using "{mode}" mode for stabilization']
    if asynchronous:
        judged = "average throughput" if options.percentile is None else "throughput"
        lines.append(f"  Stabilizing using {judged}")
    elif options.percentile is None:
        lines.append("  Stabilizing using average latency and throughput")
    else:
        lines.append(f"  Stabilizing using p{options.percentile} latency and throughput")
    if options.count_windows:
        lines.append(f"  Minimum number of samples in each window: {options.window_count}")
    else:
        lines.append(f"  Measurement window: {options.interval_ms} msec")
    return lines


def level_title(options: Options, value: Fraction) -> str:
    """The line above a level; "" for custom intervals, whose rate is told afterwards."""
    if options.mode is Mode.CONCURRENCY:
        return f"Request concurrency: {int(value)}"
    if options.mode is Mode.REQUEST_RATE:
        return f"Request Rate: {number(float(value))} inference requests per seconds"
    return ""


def pass_line(options: Options, count: int, window: Window, result: Result) -> str:
    """One window, for -v."""
    if window.problem:
        return f"  Pass [{count}] error: {window.problem}"
    head = f"  Pass [{count}] throughput: {number(result.throughput)} infer/sec. "
    if options.percentile is not None:
        latency = whole_us(result.latency.percentiles[options.percentile])
        return f"{head}p{options.percentile} latency: {latency} usec"
    average = whole_us(result.latency.mean)
    return f"{head}Avg latency: {average} usec (std {whole_us(result.latency.deviation)} usec). "


def level_lines(options: Options, model: ModelInfo, report: LevelReport) -> list[str]:
    """The blocks of one level."""
    result = report.result
    lines = ["  Client: ", *_client(options, model, result)]
    if options.is_open_loop:
        lines += _service_time(result)
    if result.server is not None:
        lines += ["  Server: ", *_server(model, result.server)]
    if options.collect_metrics:
        lines += _gpus(result.gpus)
    lines += _confidence(options, report)
    return lines


def _client(options: Options, model: ModelInfo, result: Result) -> list[str]:
    lines = [f"    Request count: {result.count}"]
    if options.is_open_loop and result.delayed_share > DELAYED_SHARE:
        lines += [
            f"    Avg send request rate: {result.send_rate:.2f} infer/sec",
            (
                "    [WARNING] Perf Analyzer was not able to keep up with the desired request "
                f"rate. {result.delayed_share * 100:.2f}% of the requests were delayed. "
            ),
        ]
    if model.is_sequence:
        sequences = f"{result.sequences} ({number(result.sequence_throughput)} seq/sec)"
        lines.append(f"    Sequence count: {sequences}")
    lines.append(f"    Throughput: {number(result.throughput)} infer/sec")
    if model.decoupled:
        lines.append(f"    Response Throughput: {number(result.response_throughput)} infer/sec")
    if options.verbose:
        lines.append(f"    Avg client overhead: {result.busy * 100:.2f}%")
    lines += _latency_lines(options, result.latency)
    if model.decoupled:
        return [*lines, _first_response(result)]
    return [*lines, _protocol_line(options, result)]


def _latency_lines(options: Options, latency: Latencies) -> list[str]:
    lines = []
    if options.percentile is None:
        lines.append(
            f"    Avg latency: {whole_us(latency.mean)} usec "
            f"(standard deviation {whole_us(latency.deviation)} usec)"
        )
    lines += [
        f"    p{percent} latency: {whole_us(value)} usec"
        for percent, value in latency.percentiles.items()
    ]
    return lines


def _first_response(result: Result) -> str:
    """Where the original has an empty line: how long the first of the responses takes."""
    if result.first is None:
        return "    "
    shown = ", ".join(
        f"p{percent} {whole_us(value)} usec" for percent, value in result.first.percentiles.items()
    )
    return f"    First response: avg {whole_us(result.first.mean)} usec, {shown}"


def _protocol_line(options: Options, result: Result) -> str:
    total = whole_us(result.service.mean)
    send = whole_us(result.send_seconds)
    receive = whole_us(result.receive_seconds)
    wait = max(0, total - send - receive)
    if options.in_process:
        return f"    Avg in-process time: {total} usec"
    if options.grpc:
        if options.verbose:
            split = f"marshal {send} usec + response wait {wait} usec + unmarshal {receive} usec"
        else:
            split = (
                f"(un)marshal request/response {send + receive} usec + response wait {wait} usec"
            )
        return f"    Avg gRPC time: {total} usec ({split})"
    if options.verbose:
        split = f"send {send} usec + response wait {wait} usec + receive {receive} usec"
    else:
        split = f"send/recv {send + receive} usec + response wait {wait} usec"
    return f"    Avg HTTP time: {total} usec ({split})"


def _service_time(result: Result) -> list[str]:
    """Latencies of an open loop count from the instant that the schedule wanted; these count from
    the send, as the original's do."""
    service = result.service
    shown = ", ".join(
        f"p{percent} {whole_us(value)} usec" for percent, value in service.percentiles.items()
    )
    return [
        (
            "    Latency counts from the scheduled send. Service time, from the actual send: "
            f"avg {whole_us(service.mean)} usec, {shown}"
        )
    ]


def _server(model: ModelInfo, server: ServerDelta) -> list[str]:
    own = _server_block(
        server.model, "    ", composed=model.is_composed, cache=model.response_cache
    )
    if not server.composing or not server.model["success"].count:
        return own
    lines = [*own, "", "  Composing models: "]
    for each in server.composing:
        lines.append(f"  {each.name}, version: {each.version}")
        lines += _server_block(each, "      ", composed=False, cache=False)
    return lines


def _server_block(delta: ModelDelta, indent: str, *, composed: bool, cache: bool) -> list[str]:
    success = delta["success"]
    if not success.count:
        return [f"{indent}Request count: 0"]
    lines = [
        f"{indent}Inference count: {delta.inference_count}",
        f"{indent}Execution count: {delta.execution_count}",
    ]
    if cache:
        lines += [
            f"{indent}Cache hit count: {delta['cache_hit'].count}",
            f"{indent}Cache miss count: {delta['cache_miss'].count}",
        ]
    lines.append(f"{indent}Successful request count: {success.count}")
    queue = f"queue {delta['queue'].average_us} usec"
    parts = [
        f"{word} {delta[name].average_us} usec"
        for word, name in (
            ("compute input", "compute_input"),
            ("compute infer", "compute_infer"),
            ("compute output", "compute_output"),
        )
    ]
    if cache:
        inside = ["cache hit/miss", *parts]
        hits, misses = delta["cache_hit"], delta["cache_miss"]
        inside[0] += f" {(hits + misses).average_us} usec"
        split = f"{queue} + {inside[0]}"
    elif composed:
        split = f"{queue} + compute {delta.compute.average_us} usec"
    else:
        split = " + ".join([queue, *parts])
    lines.append(
        f"{indent}Avg request latency: {success.average_us} usec "
        f"(overhead {delta.overhead_us} usec + {split})"
    )
    if cache:
        compute = " + ".join(parts)
        hit, miss = delta["cache_hit"].average_us, delta["cache_miss"].average_us
        lines += [
            f"{indent}Average Cache Hit Latency: {hit} usec",
            (
                f"{indent}Average Cache Miss Latency: {miss + delta.compute.average_us} usec "
                f"(cache lookup/insertion {miss} usec + {compute})"
            ),
        ]
    return lines


def _gpus(gpus: GpuFigures) -> list[str]:
    lines = ["  Server Prometheus Metrics: "]
    for title, metric, unit, factor in (
        ("Avg GPU Utilization", UTILIZATION, "%", 100.0),
        ("Avg GPU Power Usage", POWER, " watts", 1.0),
        ("Max GPU Memory Usage", MEMORY_USED, " bytes", 1.0),
        ("Total GPU Memory", MEMORY_TOTAL, " bytes", 1.0),
    ):
        lines.append(f"    {title}:")
        for gpu, value in list(gpus.of(metric).items())[:MAX_GPUS]:
            shown = f"{value * factor:.0f}" if unit == " bytes" else number(value * factor)
            lines.append(f"      {gpu} : {shown}{unit}")
    return lines


def _confidence(options: Options, report: LevelReport) -> list[str]:
    result = report.result
    percent = 99 if options.percentile is None else options.percentile
    tail = result.latency.percentile_intervals[percent]
    throughput = result.throughput_interval.relative(result.throughput)
    average = result.latency.mean_interval.relative(result.latency.mean)
    return [
        f"  Confidence (95%): throughput +/- {_share(throughput)}, "
        f"average latency +/- {_share(average)}, "
        f"p{percent} {whole_us(max(0.0, tail.low))} to {whole_us(max(0.0, tail.high))} usec"
        if result.count > 1
        else "  Confidence (95%): a single request tells nothing",
        f"  Verdict: {report.verdict}",
    ]


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 10 else "more than 1000%"


def overhead_warning(result: Result) -> list[str]:
    """What to say where the client may have been the bottleneck."""
    if result.busy <= OVERHEAD_WARNING:
        return []
    return [
        (
            "[WARNING] Perf Analyzer is not able to keep up with the desired load. "
            f"It used {result.busy:.0%} of a core; the results may show the limits of this client."
        )
    ]


def summary(options: Options, reports: Sequence[LevelReport]) -> list[str]:
    """One line per level that met the limits, in the order in which they were measured."""
    what = "Average" if options.percentile is None else f"p{options.percentile}"
    lines = [f"Inferences/Second vs. Client {what} Batch Latency"]
    for report in reports:
        latency = whole_us(report.result.headline(options.percentile))
        level = (
            f"Concurrency: {int(report.value)}"
            if options.mode is Mode.CONCURRENCY
            else f"Request Rate: {number(float(report.value))}"
        )
        throughput = number(report.result.throughput)
        lines.append(f"{level}, throughput: {throughput} infer/sec, latency {latency} usec")
    return lines


def unstable_line(options: Options, value: Fraction, trials: int) -> str:
    """What standard error says of a level whose windows differ too much."""
    level = (
        f"concurrency {int(value)}"
        if options.mode is Mode.CONCURRENCY
        else f"request rate {number(float(value))}"
    )
    flag = "--measurement-request-count" if options.count_windows else "--measurement-interval"
    return (
        f"Failed to obtain stable measurement within {trials} measurement windows for {level}. "
        f"Please try to increase the {flag}."
    )
