"""Every flag of the load generator, one row each: the original's names, types and defaults.

Owns the table. command_line.py reads arguments by it, flag_values.py the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from perf_analyzer import flag_values as values

Parse = Callable[[str, str], Any]


@dataclass(frozen=True)
class Flag:
    """One row: `into` is where the value goes; without `parse` the flag takes no value."""

    name: str
    help: str
    into: str
    parse: Parse | None = None
    short: str = ""
    repeats: bool = False
    group: str = "Load"

    @property
    def spelled(self) -> str:
        return f"--{self.name}" if self.name else f"-{self.short}"


def _text(_flag: str, text: str) -> str:
    return text


MEASURE = "Measurement"
INPUT = "Input data"
SEQUENCE = "Sequences"
SERVER = "Server"
REPORT = "Report"
DEPRECATED = "Deprecated"

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("", "model to load", "model", _text, "m", group=SERVER),
    Flag("", "version (the server chooses)", "version", _text, "x", group=SERVER),
    Flag("", "host:port (localhost:8000, gRPC localhost:8001)", "url", _text, "u", group=SERVER),
    Flag("", "http or grpc (http)", "protocol", values.one_of("http", "grpc"), "i", group=SERVER),
    Flag("service-kind", "triton, or triton_c_api for a server in this process (triton)",
         "service_kind", values.service_kind, group=SERVER),
    Flag("model-repository", "models of the server in this process", "model_repository", _text,
         group=SERVER),
    Flag("triton-server-directory", "accepted; the server in this process needs none",
         "ignored", _text, group=SERVER),
    Flag("bls-composing-models", "models that this one calls, a[:version],b", "bls_composing",
         values.composing, group=SERVER),
    Flag("", "request header, Name:Value", "headers", values.header, "H", repeats=True,
         group=SERVER),
    Flag("request-parameter", "name:value:type, type bool, int or string (gRPC)", "parameters",
         values.request_parameter, repeats=True, group=SERVER),
    Flag("grpc-compression-algorithm", "none, gzip or deflate (none)", "grpc_compression",
         values.one_of("none", "gzip", "deflate"), group=SERVER),
    Flag("ssl-grpc-use-ssl", "gRPC over TLS", "grpc_ssl", group=SERVER),
    Flag("ssl-grpc-root-certifications-file", "PEM file", "grpc_root", values.file, group=SERVER),
    Flag("ssl-grpc-private-key-file", "PEM file", "grpc_key", values.file, group=SERVER),
    Flag("ssl-grpc-certificate-chain-file", "PEM file", "grpc_chain", values.file, group=SERVER),
    Flag("ssl-https-verify-peer", "0 or 1 (1)", "verify_peer", values.number_of(0, 1),
         group=SERVER),
    Flag("ssl-https-verify-host", "0, 1 or 2 (2)", "verify_host", values.number_of(0, 1, 2),
         group=SERVER),
    Flag("ssl-https-ca-certificates-file", "PEM file", "https_root", values.file, group=SERVER),
    Flag("ssl-https-client-certificate-file", "PEM file", "https_chain", values.file,
         group=SERVER),
    Flag("ssl-https-client-certificate-type", "PEM", "https_chain_type",
         values.one_of("PEM", "DER"), group=SERVER),
    Flag("ssl-https-private-key-file", "PEM file", "https_key", values.file, group=SERVER),
    Flag("ssl-https-private-key-type", "PEM", "https_key_type", values.one_of("PEM", "DER"),
         group=SERVER),
    Flag("trace-level", "OFF, TIMESTAMPS or TENSORS", "trace_level",
         values.one_of("OFF", "TIMESTAMPS", "TENSORS"), group=SERVER),
    Flag("trace-rate", "requests per trace (1000)", "trace_rate", values.positive, group=SERVER),
    Flag("trace-count", "traces left, -1 for no limit (-1)", "trace_count", values.at_least(-1),
         group=SERVER),
    Flag("log-frequency", "traces per file (0)", "log_frequency", values.at_least(0),
         group=SERVER),
    Flag("concurrency-range", "start:end:step of requests outstanding (1:1:1)", "concurrency",
         values.whole_range),
    Flag("periodic-concurrency-range", "start:end:step, launched one group after another",
         "periodic", values.whole_range),
    Flag("request-period", "responses after which the next group starts (10)", "request_period",
         values.positive),
    Flag("request-rate-range", "start:end:step of requests per second", "rate",
         values.decimal_range),
    Flag("request-distribution", "constant or poisson (constant)", "distribution",
         values.one_of("constant", "poisson")),
    Flag("request-intervals", "file of microseconds between requests, one per line",
         "intervals_file", _text),
    Flag("fixed-schedule", "send each step of the input data once, at its timestamp", "fixed"),
    Flag("binary-search", "search the range by halves, with -l", "binary_search"),
    Flag("async", "asynchronous calls", "asynchronous", short="a"),
    Flag("sync", "synchronous calls", "synchronous"),
    Flag("streaming", "one bidirectional stream per worker (gRPC)", "streaming"),
    Flag("max-threads", "workers: streams, and outstanding requests of a synchronous rate",
         "max_threads", values.positive),
    Flag("", "batch size (1)", "batch_size", values.positive, "b"),
    Flag("request-count", "measure exactly so many requests", "request_count", values.positive),
    Flag("warmup-request-count", "requests sent and forgotten first (0)", "warmup_count",
         values.at_least(0)),
    Flag("latency-threshold", "ms at which a level is over the limit (0: none)",
         "latency_limit_ms", values.at_least(0), "l", group=MEASURE),
    Flag("measurement-mode", "time_windows or count_windows (time_windows)", "window_mode",
         values.one_of("time_windows", "count_windows"), group=MEASURE),
    Flag("measurement-interval", "ms of a time window (5000)", "interval_ms", values.positive,
         "p", group=MEASURE),
    Flag("measurement-request-count", "requests of a count window (50)", "window_count",
         values.positive, group=MEASURE),
    Flag("stability-percentage", "deviation that windows may have (10)", "stability_percent",
         values.positive_decimal, "s", group=MEASURE),
    Flag("max-trials", "windows per level (10)", "max_trials", values.positive, "r",
         group=MEASURE),
    Flag("percentile", "judge by this percentile, not by the average (-1)", "percentile",
         values.percentile, group=MEASURE),
    Flag("num-of-sequences", "live sequences of a rate (4)", "sequence_count", values.positive,
         group=SEQUENCE),
    Flag("sequence-length", "requests per sequence (20)", "sequence_length", values.integer,
         group=SEQUENCE),
    Flag("sequence-length-variation", "percent by which lengths differ (20)",
         "sequence_variation", values.positive_decimal, group=SEQUENCE),
    Flag("sequence-id-range", "start[:end] of correlation ids, end excluded", "sequence_ids",
         values.id_range, group=SEQUENCE),
    Flag("serial-sequences", "one outstanding request per sequence", "serial_sequences",
         group=SEQUENCE),
    Flag("input-data", "random, zero, a directory or JSON files (random)", "input_data", _text,
         repeats=True, group=INPUT),
    Flag("shape", "name:d1,d2 for a dynamic input", "shapes", values.shape, repeats=True,
         group=INPUT),
    Flag("string-length", "length of generated strings (128)", "string_length", values.positive,
         group=INPUT),
    Flag("string-data", "text of generated strings", "string_data", _text, group=INPUT),
    Flag("input-tensor-format", "binary or json (binary, HTTP)", "input_format",
         values.one_of("binary", "json"), group=INPUT),
    Flag("output-tensor-format", "binary or json (binary, HTTP)", "output_format",
         values.one_of("binary", "json"), group=INPUT),
    Flag("shared-memory", "none, system or cuda (none)", "shared_memory",
         values.one_of("none", "system", "cuda"), group=INPUT),
    Flag("output-shared-memory-size", "bytes per output that has no fixed size (102400)",
         "output_shared_memory_bytes", values.at_least(0), group=INPUT),
    Flag("seed", "seed of random data and sequences (1)", "seed", values.at_least(0),
         group=INPUT),
    Flag("", "CSV report", "csv_file", _text, "f", group=REPORT),
    Flag("verbose-csv", "further columns in the CSV report", "verbose_csv", group=REPORT),
    Flag("profile-export-file", "JSON of every request; must not exist", "export_file", _text,
         group=REPORT),
    Flag("plot", "latency over throughput, FILE.svg or FILE.html", "plot", values.plot_file,
         group=REPORT),
    Flag("collect-metrics", "read GPU figures from the server's metrics", "collect_metrics",
         group=REPORT),
    Flag("metrics-url", "where (the server's host, port 8002)", "metrics_url", _text,
         group=REPORT),
    Flag("metrics-interval", "ms between two looks (1000)", "metrics_interval_ms",
         values.positive, group=REPORT),
    Flag("", "more to read; twice for still more", "verbose", short="v", group=REPORT),
    Flag("", "the same as --input-data zero", "zero_input", short="z", group=DEPRECATED),
    Flag("", "the same as a range up to -c, with -l", "dynamic", short="d", group=DEPRECATED),
    Flag("", "the same as the start of --concurrency-range", "start_concurrency",
         values.positive, "t", group=DEPRECATED),
    Flag("", "the same as the end of --concurrency-range", "end_concurrency",
         values.positive, "c", group=DEPRECATED),
    Flag("data-directory", "the same as --input-data", "input_data", _text, repeats=True,
         group=DEPRECATED),
)  # fmt: skip
