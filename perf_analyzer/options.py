"""What the user asked for: every flag's value, checked against the others.

Owns `Options` and the rules between flags. command_line.py reads the command line into it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

from perf_analyzer.connecting import Tls
from perf_analyzer.search import Range
from perf_analyzer.sequences import SequenceOptions
from protocol.inference import ParameterValue

ONE: Final = Fraction(1)
SINGLE: Final = Range(ONE, ONE, ONE)
DEFAULT_MAX_THREADS: Final = 4
CONCURRENCY_MAX_THREADS: Final = 16
RATE_SEQUENCES: Final = 4
METRICS_PORT: Final = 8002


class BadOption(Exception):
    """The command line cannot be obeyed; `str()` is the text after `Error: `."""


class Mode(enum.Enum):
    """What keeps the load going."""

    CONCURRENCY = "concurrency"
    PERIODIC = "periodic concurrency"
    REQUEST_RATE = "request rate"
    CUSTOM_INTERVALS = "request intervals"
    FIXED_SCHEDULE = "fixed schedule"


@dataclass(frozen=True)
class Options:
    """One run. Times as the flags have them; "" and 0 mean not given, as in the defaults."""

    model: str = ""
    version: str = ""
    url: str = ""
    grpc: bool = False
    service_kind: str = "triton"  # or triton_c_api: a server in this process
    bls_composing: tuple[tuple[str, str], ...] = ()
    verbose: int = 0
    asynchronous: bool = False
    synchronous: bool = False
    streaming: bool = False
    count_windows: bool = False
    interval_ms: int = 5000
    window_count: int = 50
    stability_percent: float = 10.0
    max_trials: int = 10
    percentile: int | None = None
    request_count: int = 0
    warmup_count: int = 0
    mode: Mode = Mode.CONCURRENCY
    levels: Range = SINGLE
    request_period: int = 10
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    poisson: bool = False
    intervals_file: str = ""
    binary_search: bool = False
    latency_limit_ms: int = 0
    max_threads: int = 0
    sequence_count: int = 0
    serial_sequences: bool = False
    sequences: SequenceOptions = field(default_factory=SequenceOptions)
    batch_size: int = 1
    batch_size_given: bool = False
    input_data: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    string_length: int = 128
    string_data: str = ""
    json_inputs: bool = False
    json_outputs: bool = False
    shared_memory: str = "none"
    output_shared_memory_bytes: int = 102_400
    headers: tuple[tuple[str, str], ...] = ()
    grpc_compression: str = "identity"
    grpc_tls: Tls | None = None
    http_tls: Tls | None = None
    csv_file: str = ""
    verbose_csv: bool = False
    export_file: str = ""
    plot: str = ""
    collect_metrics: bool = False
    metrics_url: str = ""
    metrics_interval_ms: int = 1000
    trace: Mapping[str, str] = field(default_factory=dict)
    model_repository: str = ""
    seed: int = 1
    warnings: tuple[str, ...] = ()  # what the reader of the command line has to say

    @property
    def tolerance(self) -> float:
        return self.stability_percent / 100

    @property
    def in_process(self) -> bool:
        return self.service_kind == "triton_c_api"

    @property
    def is_open_loop(self) -> bool:
        return self.mode in {Mode.REQUEST_RATE, Mode.CUSTOM_INTERVALS, Mode.FIXED_SCHEDULE}

    @property
    def percents(self) -> tuple[int, ...]:
        """The percentiles that are reported, rising."""
        extra = () if self.percentile is None else (self.percentile,)
        return tuple(sorted({50, 90, 95, 99, *extra}))

    @property
    def address(self) -> str:
        return self.url or ("localhost:8001" if self.grpc else "localhost:8000")

    @property
    def effective_metrics_url(self) -> str:
        if self.metrics_url:
            return self.metrics_url
        host = self.address.removeprefix("http://").removeprefix("https://")
        return f"http://{host.rpartition(':')[0] or host}:{METRICS_PORT}/metrics"

    @property
    def worker_limit(self) -> int:
        """Workers, as the original counts threads: streams and connections stand for them."""
        if self.max_threads:
            return self.max_threads
        if self.is_open_loop:
            return DEFAULT_MAX_THREADS
        return max(CONCURRENCY_MAX_THREADS, int(self.levels.end))


def check(options: Options) -> None:
    """Raises BadOption where flags contradict each other."""
    _check_service(options)
    _check_levels(options)
    _check_counts(options)
    _check_measurement(options)
    if options.export_file and Path(options.export_file).exists():
        raise BadOption("Profile export file already exists. Please use a different file name.")


def _check_service(options: Options) -> None:
    if not options.model:
        raise BadOption("-m flag must be specified")
    if options.synchronous and options.asynchronous:
        raise BadOption("Cannot use --sync and --async together")
    if options.streaming and options.synchronous:
        raise BadOption("Streaming mode is only supported with asynchronous calls")
    if options.streaming and not options.grpc and not options.in_process:
        raise BadOption("Streaming is only allowed with gRPC protocol")
    if options.grpc_compression != "identity" and not options.grpc:
        raise BadOption("Using compression algorithm is only allowed with gRPC protocol")
    if options.parameters and not options.grpc and not options.in_process:
        raise BadOption("Request parameters are only allowed with gRPC protocol")
    if options.in_process:
        if not options.model_repository:
            raise BadOption("--model-repository must be specified when using the Triton C API")
        if options.shared_memory != "none":
            raise BadOption("shared memory is of no use to a server in the same process")
        if options.collect_metrics:
            raise BadOption("Server-side metric collection is only supported with Triton client"
                            " backend")  # fmt: skip


def _check_levels(options: Options) -> None:
    levels = options.levels
    if options.mode is Mode.PERIODIC:
        if not options.streaming:
            raise BadOption("The --periodic-concurrency-range option requires --streaming")
        if not options.export_file:
            raise BadOption(
                "The --periodic-concurrency-range option requires --profile-export-file"
            )
        if levels.step <= 0 or levels.start > levels.end:
            raise BadOption("The start of the periodic concurrency range must not exceed its end,"
                            " and the step must be positive")  # fmt: skip
        if (levels.end - levels.start) % levels.step:
            raise BadOption("The periodic concurrency range must be evenly divided by its step")
    if options.mode not in {Mode.CONCURRENCY, Mode.REQUEST_RATE}:
        return
    if levels.end == 0 and not options.latency_limit_ms:
        raise BadOption("The end of the search range and the latency limit can not be both 0 (or"
                        " 0.0) simultaneously")  # fmt: skip
    if levels.end and levels.start > levels.end and not options.binary_search:
        raise BadOption("The start of the range must not exceed its end")
    if options.binary_search:
        if levels.end == 0:
            raise BadOption("The end of the range can not be 0 (or 0.0) for binary search mode")
        if not options.latency_limit_ms:
            raise BadOption("The latency threshold can not be 0 for binary search mode")
        if levels.end < levels.start:
            raise BadOption("The end of the range must not be below its start for binary search")


def _check_counts(options: Options) -> None:
    levels = options.levels
    for count, flag in (
        (options.request_count, "--request-count"),
        (options.warmup_count, "--warmup-request-count"),
    ):
        if count and (options.binary_search or not levels.is_single):
            raise BadOption(f"{flag} is only supported with a single load level")
    leveled = options.mode in {Mode.CONCURRENCY, Mode.REQUEST_RATE}
    if leveled and 0 < options.request_count < int(levels.start):
        what = "concurrency" if options.mode is Mode.CONCURRENCY else "request rate"
        raise BadOption(f"request-count can not be less than {what}")
    if options.mode is Mode.FIXED_SCHEDULE:
        if options.input_data in {(), ("random",), ("zero",)}:
            raise BadOption("--fixed-schedule requires --input-data with a JSON file")
        if options.request_count:
            raise BadOption("--fixed-schedule and --request-count can not be used together")


def _check_measurement(options: Options) -> None:
    if not options.collect_metrics:
        if options.metrics_url:
            raise BadOption("Must specify --collect-metrics when using the --metrics-url option.")
        if options.metrics_interval_ms != 1000:
            raise BadOption("Must specify --collect-metrics when using the --metrics-interval"
                            " option.")  # fmt: skip
    if options.verbose_csv and not options.csv_file:
        raise BadOption("--verbose-csv needs a file, given with -f")
