"""Triton's command line as a table: one row per flag, with its name, type and meaning.

A flag whose behaviour Troupe does not have says so in `missing`: it is refused with that reason
when it asks for something, and accepted when it asks for what happens anyway. Silence would be a
lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.options import Value
from actors.policy.limiting import declared_resource


class BadOption(Exception):  # it is named for what it says on the terminal
    """The command line cannot be obeyed; `str()` is the text that goes to standard error."""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("true", "on", "1"):
        return True
    if word in ("false", "off", "0"):
        return False
    raise ValueError(f"invalid value for bool option: {text}")


def _integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"Invalid option value. Got {text}") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"Provided option value is out of bound. Got {text}")
    return value


def _positive(flag: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _integer(text)
        if value <= 0:
            raise BadOption(f"Error: --{flag} must be greater than 0.")
        return value

    return parse


def _strict_config(text: str) -> bool:
    """--strict-model-config=true is --disable-auto-complete-config by its older name."""
    return _boolean(text)


def _verbosity(text: str) -> int:
    """--log-verbose takes a level, or true for level 1."""
    try:
        return _integer(text)
    except ValueError:
        return int(_boolean(text))


def _infer_threads(text: str) -> int:
    value = _integer(text)
    if not 2 <= value <= 128:
        raise ValueError(
            "invalid argument for --grpc_infer_thread_count. Must be in the range 2 to 128."
        )
    return value


def _one_of(flag: str, *words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"invalid argument for --{flag}")
        return text.lower()

    return parse


def _cache_size(text: str) -> str:
    return f"local,size={_integer(text)}"


def _resource(text: str) -> str:
    declared_resource(text)
    return text


def _not_empty(flag: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text:
            raise BadOption(f"Error: empty argument for --{flag}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of the command line. `missing` says why a value other than the default is refused."""

    name: str
    help: str
    parse: Callable[[str], Value] = str
    repeated: bool = False
    takes_value: bool = True
    into: str = ""  # the option it sets, when that is not its own name
    deprecated: bool = False
    missing: str = ""

    @property
    def option(self) -> str:
        return self.into or self.name.replace("-", "_")


_ON_SAGEMAKER = "the SageMaker frontend is not part of Troupe"
_ON_VERTEX = "the Vertex AI frontend is not part of Troupe"
_THREADS = "accepted for compatibility; one event loop serves every connection"

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("id", "name of this server"),
    Flag("exit-timeout-secs", "seconds that work in flight may take to end", _integer),
    Flag("model-repository", "directory of models", repeated=True),
    Flag("model-store", "the same as --model-repository", repeated=True, into="model_repository"),
    Flag("exit-on-error", "end when a model fails to load at start", _boolean),
    Flag(
        "disable-auto-complete-config",
        "take configurations exactly as written",
        takes_value=False,
    ),
    Flag("strict-readiness", "ready only when every model is ready", _boolean),
    Flag(
        "model-control-mode",
        "none, poll or explicit",
        _one_of("model-control-mode", "none", "poll", "explicit"),
    ),
    Flag("repository-poll-secs", "seconds between polls", _integer),
    Flag("load-model", "model to load at start, in explicit mode", repeated=True),
    Flag(
        "model-config-name",
        "configs/<name>.pbtxt to prefer over config.pbtxt",
        _not_empty("model-config-name"),
    ),
    Flag("model-load-thread-count", "versions loaded at the same time", _integer),
    Flag("model-load-retry-count", "further attempts for a version that fails to load", _integer),
    Flag(
        "model-namespacing",
        "let repositories hold models of the same name",
        _boolean,
        missing="namespacing is not supported",
    ),
    Flag("enable-peer-access", "let GPUs read each other's memory", _boolean),
    Flag("allow-http", "serve HTTP", _boolean),
    Flag("http-address", "address of the HTTP port"),
    Flag("http-port", "HTTP port", _integer),
    Flag("reuse-http-port", "share the HTTP port with other processes", _boolean),
    Flag("http-thread-count", _THREADS, _integer),
    Flag("http-header-forward-pattern", "request headers that become parameters"),
    Flag("http-max-input-size", "bytes of one JSON document", _positive("http-max-input-size")),
    Flag("http-restricted-api", "<apis>:<header>=<value>", repeated=True),
    Flag("allow-grpc", "serve gRPC", _boolean),
    Flag("grpc-address", "address of the gRPC port"),
    Flag("grpc-port", "gRPC port", _integer),
    Flag("reuse-grpc-port", "share the gRPC port with other processes", _boolean),
    Flag("grpc-header-forward-pattern", "request metadata that become parameters"),
    Flag("grpc-infer-thread-count", _THREADS, _infer_threads),
    Flag("grpc-infer-allocation-pool-size", _THREADS, _integer),
    Flag(
        "grpc-max-response-pool-size",
        "responses kept per stream",
        _positive("grpc-max-response-pool-size"),
    ),
    Flag("grpc-use-ssl", "serve gRPC over TLS", _boolean),
    Flag("grpc-use-ssl-mutual", "require a client certificate", _boolean),
    Flag("grpc-server-cert", "PEM file"),
    Flag("grpc-server-key", "PEM file"),
    Flag("grpc-root-cert", "PEM file"),
    Flag(
        "grpc-infer-response-compression-level",
        "none, low, medium or high",
        _one_of("grpc-infer-response-compression-level", "none", "low", "medium", "high"),
    ),
    Flag("grpc-keepalive-time", "ms between pings", _integer),
    Flag("grpc-keepalive-timeout", "ms to wait for a ping's answer", _integer),
    Flag("grpc-keepalive-permit-without-calls", "ping idle connections too", _boolean),
    Flag("grpc-http2-max-pings-without-data", "pings sent without data", _integer),
    Flag("grpc-http2-min-recv-ping-interval-without-data", "ms between received pings", _integer),
    Flag("grpc-http2-max-ping-strikes", "bad pings before the connection is closed", _integer),
    Flag("grpc-max-connection-age", "ms a connection may live", _integer),
    Flag("grpc-max-connection-age-grace", "ms its calls may take to end", _integer),
    Flag("grpc-restricted-protocol", "<protocols>:<key>=<value>", repeated=True),
    Flag("allow-sagemaker", "serve SageMaker", _boolean, missing=_ON_SAGEMAKER),
    Flag("sagemaker-port", "SageMaker port", _integer, missing=_ON_SAGEMAKER),
    Flag("sagemaker-safe-port-range", "SageMaker ports", missing=_ON_SAGEMAKER),
    Flag("sagemaker-thread-count", "SageMaker threads", _integer, missing=_ON_SAGEMAKER),
    Flag("allow-vertex-ai", "serve Vertex AI", _boolean, missing=_ON_VERTEX),
    Flag("vertex-ai-port", "Vertex AI port", _integer, missing=_ON_VERTEX),
    Flag("vertex-ai-thread-count", "Vertex AI threads", _integer, missing=_ON_VERTEX),
    Flag("vertex-ai-default-model", "Vertex AI model", missing=_ON_VERTEX),
    Flag("allow-metrics", "serve metrics", _boolean),
    Flag("allow-gpu-metrics", "include GPU metrics", _boolean),
    Flag("allow-cpu-metrics", "include CPU metrics", _boolean),
    Flag("metrics-address", "address of the metrics port"),
    Flag("metrics-port", "metrics port", _integer),
    Flag("metrics-interval-ms", "ms between two looks at the hardware", _integer),
    Flag("metrics-config", "<setting>=<value>", repeated=True),
    Flag(
        "trace-config",
        "[<mode>,]<setting>=<value>",
        repeated=True,
        missing="tracing is not supported",
    ),
    Flag("log-verbose", "level of verbose messages, 0 for none", _verbosity),
    Flag("log-info", "log information", _boolean),
    Flag("log-warning", "log warnings", _boolean),
    Flag("log-error", "log errors", _boolean),
    Flag("log-format", "default or ISO8601"),
    Flag("log-file", "append the log to this file"),
    Flag("backend-directory", "directory of Python-based backends"),
    Flag("repoagent-directory", "accepted for compatibility; agents are built in"),
    Flag("cache-directory", "accepted for compatibility; the cache is built in"),
    Flag("backend-config", "[<backend>,]<key>=<value>", repeated=True),
    Flag(
        "cache-config",
        "<cache>,<key>=<value>",
        repeated=True,
    ),
    Flag(
        "response-cache-byte-size",
        "the same as --cache-config=local,size=<value>",
        _cache_size,
        repeated=True,
        into="cache_config",
        deprecated=True,
    ),
    Flag(
        "rate-limit",
        "off or execution_count",
        _one_of("rate-limit", "off", "execution_count"),
    ),
    Flag(
        "rate-limit-resource",
        "<name>:<count>[:<device>]",
        _resource,
        repeated=True,
    ),
    Flag("pinned-memory-pool-byte-size", "bytes of page-locked memory", _integer),
    Flag("cuda-memory-pool-byte-size", "<gpu>:<bytes>", repeated=True),
    Flag("cuda-virtual-address-size", "<gpu>:<bytes>", repeated=True),
    Flag("min-supported-compute-capability", "older GPUs are ignored", float),
    Flag("buffer-manager-thread-count", _THREADS, _integer),
    Flag(
        "host-policy",
        "<policy>,<key>=<value>",
        repeated=True,
    ),
    Flag(
        "model-load-gpu-limit",
        "<gpu>:<fraction>",
        repeated=True,
        missing="GPU load limits are not supported",
    ),
    Flag(
        "allow-client-shm",
        "let clients register shared memory",
        _boolean,
    ),
    Flag(
        "strict-model-config",
        "the opposite of auto-completion",
        _strict_config,
        into="disable_auto_complete_config",
        deprecated=True,
    ),
)
