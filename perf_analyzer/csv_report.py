"""The CSV report: one row per level, in the original's columns.

Owns the columns and the additional files of composing models. Pure: values in, text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf_analyzer.console import LevelReport, number
from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Mode, Options
from perf_analyzer.server_statistics import ModelDelta
from perf_analyzer.telemetry import METRICS
from perf_analyzer.windows import Result, whole_us

SERVER_COLUMNS = (
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
)
CACHE_COLUMNS = ("Server Cache Hit", "Server Cache Miss")
GPU_COLUMNS = (
    "Avg GPU Utilization",
    "Avg GPU Power Usage",
    "Max GPU Memory Usage",
    "Total GPU Memory",
)


def _level(options: Options, report: LevelReport) -> str:
    if options.mode is Mode.CONCURRENCY:
        return str(int(report.value))
    return number(float(report.value))


def _server_cells(delta: ModelDelta, accounted_us: int, *, cache: bool) -> list[int]:
    """Network and the server's parts; `accounted_us` is what a request took at the client without
    its own sending and receiving."""
    parts = [
        delta[name].average_us
        for name in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    cached = [delta[name].average_us for name in ("cache_hit", "cache_miss")] if cache else []
    rest = accounted_us - parts[0] - delta.compute.average_us - sum(cached)
    return [max(0, rest), *parts, *cached]


def header(options: Options, model: ModelInfo, *, with_server: bool) -> list[str]:
    """The names of the columns."""
    names = ["Concurrency" if options.mode is Mode.CONCURRENCY else "Request Rate"]
    names.append("Inferences/Second")
    if model.decoupled:
        names.append("Response Throughput")
    names.append("Client Send")
    if with_server:
        names += SERVER_COLUMNS
        if model.response_cache:
            names += CACHE_COLUMNS
    names.append("Client Recv")
    names += [f"p{percent} latency" for percent in ordered_percents(options)]
    if options.verbose_csv:
        if options.percentile is None:
            names.append("Avg latency")
        names += ["request/response", "response wait"]
        if options.collect_metrics:
            names += GPU_COLUMNS
    return names


def ordered_percents(options: Options) -> list[int]:
    """Rising; an extra one stands in its place."""
    return list(options.percents)


def _row(options: Options, model: ModelInfo, report: LevelReport) -> list[str]:
    result = report.result
    send, receive = whole_us(result.send_seconds), whole_us(result.receive_seconds)
    cells: list[object] = [_level(options, report), number(result.throughput)]
    if model.decoupled:
        cells.append(number(result.response_throughput))
    cells.append(send)
    if result.server is not None:
        accounted = whole_us(result.latency.mean) - send - receive
        cells += _server_cells(result.server.model, accounted, cache=model.response_cache)
    cells.append(receive)
    cells += [whole_us(result.latency.percentiles[each]) for each in ordered_percents(options)]
    if options.verbose_csv:
        cells += _verbose_cells(options, result, send, receive)
    return [str(cell) for cell in cells]


def _verbose_cells(options: Options, result: Result, send: int, receive: int) -> list[object]:
    cells: list[object] = []
    if options.percentile is None:
        cells.append(whole_us(result.latency.mean))
    cells.append(send + receive)
    cells.append(max(0, whole_us(result.service.mean) - send - receive))
    if options.collect_metrics:
        for metric in METRICS:
            by_gpu = result.gpus.of(metric)
            cells.append("".join(f"{gpu}:{number(value)};" for gpu, value in by_gpu.items()))
    return cells


def table(options: Options, model: ModelInfo, reports: Sequence[LevelReport]) -> str:
    """The whole file, rows by rising throughput."""
    with_server = any(report.result.server is not None for report in reports)
    lines = [header(options, model, with_server=with_server)]
    ordered = sorted(reports, key=lambda report: report.result.throughput)
    lines += [_row(options, model, report) for report in ordered]
    return "".join(",".join(line) + "\n" for line in lines)


def composing_path(file: str, delta: ModelDelta) -> Path:
    """Beside the main file: `<model>_v<version>.<file>`."""
    path = Path(file)
    return path.with_name(f"{delta.name}_v{delta.version}.{path.name}")


def composing_table(options: Options, reports: Sequence[LevelReport], place: int) -> str:
    """The file of the composing model number `place`: its share of the ensemble's throughput."""
    names = ["Concurrency" if options.mode is Mode.CONCURRENCY else "Request Rate"]
    names += ["Inferences/Second", "Client Send", *SERVER_COLUMNS, "Client Recv"]
    lines = [names]
    for report in sorted(reports, key=lambda each: each.result.throughput):
        server = report.result.server
        if server is None:
            continue
        delta = server.composing[place]
        share = delta["success"].count / max(1, server.model["success"].count)
        cells = [
            _level(options, report),
            number(report.result.throughput * share),
            0,
            *_server_cells(delta, delta["success"].average_us, cache=False),
            0,
        ]
        lines.append([str(cell) for cell in cells])
    return "".join(",".join(line) + "\n" for line in lines)
