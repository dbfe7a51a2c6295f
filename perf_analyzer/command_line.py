"""The command line, read the way getopt_long reads it.

Owns the ways of writing flags (`--flag value`, `--flag=value`, unique prefixes, clusters of short
flags) and how their values make up `Options`. The flags themselves are listed in flags.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from perf_analyzer.connecting import Tls
from perf_analyzer.flag_values import whole_range
from perf_analyzer.flags import FLAGS, Flag
from perf_analyzer.options import SINGLE, BadOption, Mode, Options, check
from perf_analyzer.search import Range
from perf_analyzer.sequences import SequenceOptions

# Flags of backends and jobs that are not KServe v2 servers.
ELSEWHERE: Final = {
    "endpoint": "is for OpenAI servers",
    "grpc-method": "is for arbitrary gRPC services",
    "model-signature-name": "is for TensorFlow Serving",
    "session-concurrency": "is for OpenAI servers",
    "enable-mpi": "is not supported: give several models their own processes",
}
HELP: Final = "help"
VERSION: Final = "version"


def usage() -> str:
    """Every flag, one line each."""
    lines = ["usage: troupe perf -m MODEL [options]   (also: perf_analyzer)"]
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        lines += ["", f"{group}:"]
        for flag in FLAGS:
            if flag.group == group:
                spellings = (flag.short and f"-{flag.short}", flag.name and f"--{flag.name}")
                names = ", ".join(filter(None, spellings))
                lines.append(f"  {names:36} {flag.help}")
    return "\n".join(lines)


def _long(word: str) -> Flag | str:
    """The flag that `word` names or begins; a special word as it is."""
    names = {flag.name: flag for flag in FLAGS if flag.name}
    everything = [*names, *ELSEWHERE, HELP, VERSION]
    if word in everything:
        full = word
    else:
        found = [name for name in everything if name.startswith(word)]
        if not word or not found:
            raise BadOption(f"Invalid long option '--{word}'")
        if len(found) > 1:
            raise BadOption(f"Ambiguous option '--{word}': {', '.join(sorted(found))}")
        full = found[0]
    if full in ELSEWHERE:
        raise BadOption(f"--{full} {ELSEWHERE[full]}")
    return names.get(full, full)


def scan(arguments: Sequence[str]) -> dict[str, Any]:
    """The values of all flags by their destination, not yet checked against each other."""
    shorts = {flag.short: flag for flag in FLAGS if flag.short}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, attached = word[2:].partition("=")
            flag = _long(name)
            if isinstance(flag, str):
                found[flag] = True
                continue
            _store(found, flag, attached if equals else None, rest)
        elif word.startswith("-") and len(word) > 1:
            cluster = word[1:]
            while cluster:
                letter, cluster = cluster[0], cluster[1:]
                if letter in {"h", "?"}:
                    found[HELP] = True
                    continue
                if letter not in shorts:
                    raise BadOption(f"Invalid short option '-{letter}'")
                flag = shorts[letter]
                _store(found, flag, cluster if cluster and flag.parse else None, rest)
                if flag.parse:
                    break
        else:
            raise BadOption(f"Unexpected argument '{word}'")
    return found


def _store(found: dict[str, Any], flag: Flag, attached: str | None, rest: list[str]) -> None:
    if flag.parse is None:
        if attached is not None:
            raise BadOption(f"{flag.spelled} takes no value")
        found[flag.into] = found.get(flag.into, 0) + 1
        return
    if attached is None:
        if not rest:
            raise BadOption(f"Missing value for option '{flag.spelled}'")
        attached = rest.pop(0)
    value = flag.parse(flag.spelled, attached)
    if flag.repeats:
        found.setdefault(flag.into, []).append(value)
    else:
        found[flag.into] = value


PLAIN: Final = (
    "model", "version", "url", "service_kind", "model_repository", "bls_composing", "verbose",
    "interval_ms", "window_count", "stability_percent", "max_trials", "percentile",
    "request_count", "warmup_count", "request_period", "intervals_file", "latency_limit_ms",
    "max_threads", "sequence_count", "batch_size", "string_length", "string_data",
    "shared_memory", "output_shared_memory_bytes", "csv_file", "export_file", "plot",
    "metrics_url", "metrics_interval_ms", "seed",
)  # fmt: skip
SWITCHES: Final = (
    "asynchronous", "synchronous", "streaming", "binary_search", "serial_sequences",
    "verbose_csv", "collect_metrics",
)  # fmt: skip


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line. Raises BadOption."""
    found = scan(arguments)
    warnings: list[str] = []
    chosen: dict[str, Any] = {name: found[name] for name in PLAIN if name in found}
    chosen |= {name: True for name in SWITCHES if name in found}
    chosen["grpc"] = found.get("protocol") == "grpc"
    chosen["batch_size_given"] = "batch_size" in found
    chosen["count_windows"] = found.get("window_mode") == "count_windows"
    chosen["poisson"] = found.get("distribution") == "poisson"
    chosen["json_inputs"] = found.get("input_format") == "json"
    chosen["json_outputs"] = found.get("output_format") == "json"
    compression = found.get("grpc_compression", "none")
    chosen["grpc_compression"] = "identity" if compression == "none" else compression
    for name in ("headers", "input_data"):
        chosen[name] = tuple(found.get(name, ()))
    for name in ("parameters", "shapes"):
        chosen[name] = dict(found.get(name, ()))
    if "zero_input" in found:
        warnings.append("WARNING: -z is deprecated, use --input-data zero")
        chosen["input_data"] = ("zero",)
    chosen["mode"], chosen["levels"] = _load_mode(found, warnings)
    chosen["sequences"] = _sequences(found, warnings)
    chosen["trace"] = _trace(found)
    chosen["grpc_tls"], chosen["http_tls"] = _tls(found)
    if chosen["mode"] is Mode.CONCURRENCY and "distribution" in found:
        raise BadOption("--request-distribution needs --request-rate-range")
    options = Options(**chosen)
    if options.request_count:
        options = replace(options, count_windows=True)
    if options.streaming and not options.asynchronous:
        options = replace(options, asynchronous=not options.synchronous)
    options = replace(options, warnings=tuple(warnings))
    check(options)
    return options


def _load_mode(found: dict[str, Any], warnings: list[str]) -> tuple[Mode, Range]:
    modes = {
        "concurrency": Mode.CONCURRENCY,
        "periodic": Mode.PERIODIC,
        "rate": Mode.REQUEST_RATE,
        "intervals_file": Mode.CUSTOM_INTERVALS,
        "fixed": Mode.FIXED_SCHEDULE,
    }
    given = [name for name in modes if name in found]
    if len(given) > 1:
        flags = {flag.into: flag.spelled for flag in FLAGS}
        raise BadOption(f"Cannot use both {flags[given[0]]} and {flags[given[1]]}")
    if {"start_concurrency", "end_concurrency", "dynamic"} & found.keys():
        warnings.append("WARNING: -t, -c and -d are deprecated, use --concurrency-range")
        if given:
            raise BadOption("Cannot use deprecated options with the new load options")
        start = found.get("start_concurrency", 1)
        end = found.get("end_concurrency", 0 if "dynamic" in found else start)
        return Mode.CONCURRENCY, whole_range("--concurrency-range", f"{start}:{end}")
    if not given:
        return Mode.CONCURRENCY, SINGLE
    levels = found.get(given[0])
    if given[0] == "periodic" and isinstance(levels, Range) and levels.is_single:
        raise BadOption("--periodic-concurrency-range needs a start and an end")
    return modes[given[0]], levels if isinstance(levels, Range) else SINGLE


def _sequences(found: dict[str, Any], warnings: list[str]) -> SequenceOptions:
    sequences = SequenceOptions()
    length = found.get("sequence_length")
    if length is not None and length <= 0:
        warnings.append("WARNING: The sequence length must be > 0. Using the default value 20.")
        length = None
    first, count = found.get("sequence_ids", (sequences.first_id, sequences.id_count))
    if first == 0:
        warnings.append("WARNING: The start of the sequence id range can not be 0. Using 1.")
        first = 1
    return replace(
        sequences,
        length=length,
        variation_percent=found.get("sequence_variation", sequences.variation_percent),
        first_id=first,
        id_count=count,
    )


def _trace(found: dict[str, Any]) -> dict[str, str]:
    names = ("trace_level", "trace_rate", "trace_count", "log_frequency")
    return {name: str(found[name]) for name in names if name in found}


def _tls(found: dict[str, Any]) -> tuple[Tls | None, Tls | None]:
    grpc = None
    if "grpc_ssl" in found:
        grpc = Tls(
            found.get("grpc_root", ""), found.get("grpc_key", ""), found.get("grpc_chain", "")
        )
    https = Tls(
        found.get("https_root", ""),
        found.get("https_key", ""),
        found.get("https_chain", ""),
        found.get("https_key_type", "PEM"),
        found.get("https_chain_type", "PEM"),
        verify_peer=found.get("verify_peer", 1) != 0,
        verify_host=found.get("verify_host", 2) != 0,
    )
    return grpc, https
