"""Triton's command line as a table: one row per flag, with its name, type and meaning.

A flag whose behaviour Troupe does not have says so in `missing`: it is refused with that reason
when it asks for something, and accepted when it asks for what happens anyway. Silence would be a
lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.settings.flag_values import (
    boolean,
    cache_size,
    decimal,
    infer_threads,
    integer,
    log_format,
    long_integer,
    not_empty,
    one_of,
    per_gpu,
    port,
    positive,
    resource,
    trace_setting,
    verbosity,
    workers,
)
from actors.settings.options import Value


@dataclass(frozen=True, slots=True)
class Flag:
    """One option: a row of the command line, and of configuration files and the environment.

    `missing` says why a value other than the default is refused, `inert` why any value is accepted
    although nothing depends on it.
    """

    name: str
    help: str
    parse: Callable[[str], Value] = str
    repeated: bool = False
    takes_value: bool = True
    into: str = ""  # the option it sets, when that is not its own name
    deprecated: bool = False
    instead: str = ""  # which flag to use, of a deprecated one
    missing: str = ""
    inert: str = ""

    @property
    def option(self) -> str:
        return self.into or self.name.replace("-", "_")


_ON_SAGEMAKER = "the SageMaker frontend is not part of Troupe"
_ON_VERTEX = "the Vertex AI frontend is not part of Troupe"
_THREADS = "one event loop serves every connection"
_TRACE_SETTINGS: Final = {  # by the names of their older flags
    "file": "triton,file",
    "level": "level",
    "rate": "rate",
    "count": "count",
    "log-frequency": "triton,log-frequency",
}
_NO_POOL = "memory is allocated as it is needed"

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("help", "print this text", takes_value=False),
    Flag("config", "TOML file with further options, by the same names"),
    Flag("id", "name of this server"),
    Flag("exit-timeout-secs", "seconds that work in flight may take to end", integer),
    Flag("model-repository", "directory of models", repeated=True),
    Flag("model-store", "the same as --model-repository", repeated=True, into="model_repository"),
    Flag("exit-on-error", "end when a model fails to load at start", boolean),
    Flag(
        "disable-auto-complete-config",
        "take configurations exactly as written",
        takes_value=False,
    ),
    Flag("strict-readiness", "ready only when every model is ready", boolean),
    Flag(
        "model-control-mode",
        "none, poll or explicit",
        one_of("model-control-mode", "none", "poll", "explicit"),
    ),
    Flag(
        "download-cache-directory",
        "keeps what was downloaded from s3://, gs:// and as:// repositories between runs",
    ),
    Flag(
        "download-cache-byte-size",
        "bytes of downloads that are kept",
        positive("download-cache-byte-size"),
    ),
    Flag("repository-poll-secs", "seconds between polls", integer),
    Flag("load-model", "model to load at start, in explicit mode", repeated=True),
    Flag(
        "model-config-name",
        "configs/<name>.pbtxt to prefer over config.pbtxt",
        not_empty("model-config-name"),
    ),
    Flag("model-load-thread-count", "versions loaded at the same time", integer),
    Flag("model-load-retry-count", "further attempts for a version that fails to load", integer),
    Flag(
        "model-namespacing",
        "let repositories hold models of the same name",
        boolean,
    ),
    Flag(
        "enable-peer-access",
        "let GPUs read each other's memory",
        boolean,
        inert="the backends' own libraries decide",
    ),
    Flag("allow-http", "serve HTTP", boolean),
    Flag("http-address", "address of the HTTP port"),
    Flag("http-port", "HTTP port", port),
    Flag("reuse-http-port", "share the HTTP port with other processes", boolean),
    Flag("http-thread-count", "HTTP threads", integer, inert=_THREADS),
    Flag("http-header-forward-pattern", "request headers that become parameters"),
    Flag("http-max-input-size", "bytes of one JSON document", positive("http-max-input-size")),
    Flag("http-restricted-api", "<apis>:<header>=<value>", repeated=True),
    Flag("http-use-ssl", "serve HTTP over TLS", boolean),
    Flag("http-use-ssl-mutual", "require a client certificate", boolean),
    Flag("http-server-cert", "PEM file, read again when it changes"),
    Flag("http-server-key", "PEM file, read again when it changes"),
    Flag("http-root-cert", "PEM file, read again when it changes"),
    Flag("allow-grpc", "serve gRPC", boolean),
    Flag("grpc-address", "address of the gRPC port"),
    Flag("grpc-port", "gRPC port", port),
    Flag("reuse-grpc-port", "share the gRPC port with other processes", boolean),
    Flag("grpc-header-forward-pattern", "request metadata that become parameters"),
    Flag("grpc-infer-thread-count", "gRPC threads", infer_threads, inert=_THREADS),
    Flag(
        "grpc-infer-allocation-pool-size",
        "recycled request objects",
        integer,
        inert="requests are not recycled",
    ),
    Flag(
        "grpc-max-response-pool-size",
        "responses kept per stream",
        positive("grpc-max-response-pool-size"),
    ),
    Flag("grpc-use-ssl", "serve gRPC over TLS", boolean),
    Flag("grpc-use-ssl-mutual", "require a client certificate", boolean),
    Flag("grpc-server-cert", "PEM file, read again when it changes"),
    Flag("grpc-server-key", "PEM file, read again when it changes"),
    Flag("grpc-root-cert", "PEM file, read again when it changes"),
    Flag(
        "grpc-infer-response-compression-level",
        "none, low, medium or high",
        one_of("grpc-infer-response-compression-level", "none", "low", "medium", "high"),
    ),
    Flag("grpc-keepalive-time", "ms between pings", integer),
    Flag("grpc-keepalive-timeout", "ms to wait for a ping's answer", integer),
    Flag("grpc-keepalive-permit-without-calls", "ping idle connections too", boolean),
    Flag("grpc-http2-max-pings-without-data", "pings sent without data", integer),
    Flag("grpc-http2-min-recv-ping-interval-without-data", "ms between received pings", integer),
    Flag("grpc-http2-max-ping-strikes", "bad pings before the connection is closed", integer),
    Flag("grpc-max-connection-age", "ms a connection may live", integer),
    Flag("grpc-max-connection-age-grace", "ms its calls may take to end", integer),
    Flag("grpc-restricted-protocol", "<protocols>:<key>=<value>", repeated=True),
    Flag("allow-sagemaker", "serve SageMaker", boolean, missing=_ON_SAGEMAKER),
    Flag("sagemaker-port", "SageMaker port", port, missing=_ON_SAGEMAKER),
    Flag("sagemaker-safe-port-range", "SageMaker ports", missing=_ON_SAGEMAKER),
    Flag("sagemaker-thread-count", "SageMaker threads", integer, missing=_ON_SAGEMAKER),
    Flag("allow-vertex-ai", "serve Vertex AI", boolean, missing=_ON_VERTEX),
    Flag("vertex-ai-port", "Vertex AI port", port, missing=_ON_VERTEX),
    Flag("vertex-ai-thread-count", "Vertex AI threads", integer, missing=_ON_VERTEX),
    Flag("vertex-ai-default-model", "Vertex AI model", missing=_ON_VERTEX),
    Flag("allow-metrics", "serve metrics", boolean),
    Flag("allow-gpu-metrics", "include GPU metrics", boolean),
    Flag("allow-cpu-metrics", "include CPU metrics", boolean),
    Flag("metrics-address", "address of the metrics port"),
    Flag("metrics-port", "metrics port", port),
    Flag("metrics-interval-ms", "ms between two looks at the hardware", integer),
    Flag("metrics-config", "<setting>=<value>", repeated=True),
    Flag("admin-port", "port of the web console, which there is none of without it", port),
    Flag("admin-address", "address of the admin port"),
    Flag("admin-host", "a further name under which browsers reach the admin port", repeated=True),
    Flag(
        "trace-config",
        "[<mode>,]<setting>=<value>",
        repeated=True,
    ),
    *(
        Flag(
            f"trace-{name}",
            f"the same as --trace-config={setting}=<value>",
            trace_setting(setting),
            repeated=True,
            into="trace_config",
            deprecated=True,
            instead="trace-config",
        )
        for name, setting in _TRACE_SETTINGS.items()
    ),
    Flag("log-verbose", "level of verbose messages, 0 for none", verbosity),
    Flag("log-info", "log information", boolean),
    Flag("log-warning", "log warnings", boolean),
    Flag("log-error", "log errors", boolean),
    Flag("log-format", "default or ISO8601", log_format),
    Flag("log-file", "append the log to this file"),
    Flag("backend-directory", "directory of Python-based backends"),
    Flag("repoagent-directory", "directory of agents", inert="agents are built in"),
    Flag("cache-directory", "directory of caches", inert="the cache is built in"),
    Flag("backend-config", "[<backend>,]<key>=<value>", repeated=True),
    Flag(
        "cache-config",
        "<cache>,<key>=<value>",
        repeated=True,
    ),
    Flag(
        "response-cache-byte-size",
        "the same as --cache-config=local,size=<value>",
        cache_size,
        repeated=True,
        into="cache_config",
        deprecated=True,
        instead="cache-config",
    ),
    Flag(
        "rate-limit",
        "off or execution_count",
        one_of("rate-limit", "off", "execution_count"),
    ),
    Flag(
        "rate-limit-resource",
        "<name>:<count>[:<device>]",
        resource,
        repeated=True,
    ),
    Flag("pinned-memory-pool-byte-size", "bytes of page-locked memory", long_integer),
    Flag(
        "cuda-memory-pool-byte-size",
        "<gpu>:<bytes>",
        per_gpu(long_integer),
        repeated=True,
    ),
    Flag(
        "cuda-virtual-address-size",
        "<gpu>:<bytes>",
        per_gpu(long_integer),
        repeated=True,
        inert=_NO_POOL,
    ),
    Flag(
        "min-supported-compute-capability",
        "older GPUs are ignored",
        decimal,
    ),
    Flag("buffer-manager-thread-count", "copying threads", integer, inert=_THREADS),
    Flag(
        "host-policy",
        "<policy>,<key>=<value>",
        repeated=True,
    ),
    Flag(
        "model-load-gpu-limit",
        "<gpu>:<fraction>",
        per_gpu(decimal),
        repeated=True,
    ),
    Flag(
        "allow-client-shm",
        "let clients register shared memory",
        boolean,
    ),
    Flag("api-keys", "TOML file of API keys, read again on SIGHUP; every request needs one"),
    Flag(
        "frontend-workers",
        "processes that serve connections; 0 serves them in the server's own",
        workers,
    ),
    Flag(
        "strict-model-config",
        "the opposite of auto-completion",
        boolean,
        into="disable_auto_complete_config",
        deprecated=True,
        instead="disable-auto-complete-config",
    ),
)
