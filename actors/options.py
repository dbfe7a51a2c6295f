"""What the operator asked for: Triton's flags, parsed into one frozen value.

`FLAGS` is the whole command line, one row per flag with Triton's name, type and default. A flag
whose behaviour Troupe does not have is refused with the reason when it asks for something, and
accepted when it asks for what happens anyway: silence would be a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from actors.policy.limiting import declared_resource
from protocol.restriction import RestrictedApis
from protocol.v2_json_parameters import HeaderForwarding

Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Every option by its flag's name with underscores. Defaults are Triton's."""

    id: str = "triton"
    exit_timeout_secs: int = 30
    model_repository: tuple[str, ...] = ()
    exit_on_error: bool = True
    disable_auto_complete_config: bool = False
    strict_readiness: bool = True
    model_control_mode: str = "none"
    repository_poll_secs: int = 15
    load_model: tuple[str, ...] = ()
    model_config_name: str = ""
    model_load_thread_count: int = 4
    model_load_retry_count: int = 0
    model_namespacing: bool = False
    allow_http: bool = True
    http_address: str = "0.0.0.0"  # noqa: S104  # Triton's default; the operator narrows it
    http_port: int = 8000
    reuse_http_port: bool = False
    http_thread_count: int = 8
    http_header_forward_pattern: str = ""
    http_max_input_size: int = 64 * 1024 * 1024
    http_restricted_api: tuple[str, ...] = ()
    allow_grpc: bool = True
    grpc_address: str = "0.0.0.0"  # noqa: S104  # as above
    grpc_port: int = 8001
    reuse_grpc_port: bool = False
    grpc_header_forward_pattern: str = ""
    grpc_infer_thread_count: int = 2
    grpc_infer_allocation_pool_size: int = 8
    grpc_max_response_pool_size: int = 2**31 - 1
    grpc_use_ssl: bool = False
    grpc_use_ssl_mutual: bool = False
    grpc_server_cert: str = ""
    grpc_server_key: str = ""
    grpc_root_cert: str = ""
    grpc_infer_response_compression_level: str = "none"
    grpc_keepalive_time: int = 7_200_000
    grpc_keepalive_timeout: int = 20_000
    grpc_keepalive_permit_without_calls: bool = False
    grpc_http2_max_pings_without_data: int = 2
    grpc_http2_min_recv_ping_interval_without_data: int = 300_000
    grpc_http2_max_ping_strikes: int = 2
    grpc_max_connection_age: int = 0
    grpc_max_connection_age_grace: int = 0
    grpc_restricted_protocol: tuple[str, ...] = ()
    allow_sagemaker: bool = False
    allow_vertex_ai: bool = False
    allow_metrics: bool = True
    allow_gpu_metrics: bool = True
    allow_cpu_metrics: bool = True
    metrics_address: str = ""  # "": the HTTP address
    metrics_port: int = 8002
    metrics_interval_ms: int = 2000
    metrics_config: tuple[str, ...] = ()
    trace_config: tuple[str, ...] = ()
    log_verbose: int = 0
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_format: str = "default"
    log_file: str = ""
    backend_directory: str = ""
    repoagent_directory: str = ""
    cache_directory: str = ""
    backend_config: tuple[str, ...] = ()
    cache_config: tuple[str, ...] = ()
    rate_limit: str = "off"
    rate_limit_resource: tuple[str, ...] = ()
    pinned_memory_pool_byte_size: int = 268_435_456
    cuda_memory_pool_byte_size: tuple[str, ...] = ()
    cuda_virtual_address_size: tuple[str, ...] = ()
    min_supported_compute_capability: float = 7.5
    buffer_manager_thread_count: int = 0
    host_policy: tuple[str, ...] = ()
    model_load_gpu_limit: tuple[str, ...] = ()
    enable_peer_access: bool = True
    allow_client_shm: bool = False

    @property
    def effective_metrics_address(self) -> str:
        return self.metrics_address or self.http_address

    @property
    def cache_bytes(self) -> int | None:
        """The response cache's budget, None without a cache. Raises ValueError if malformed."""
        settings: dict[str, str] = {}
        names: set[str] = set()
        for entry in self.cache_config:
            name, comma, setting = entry.partition(",")
            key, equals, value = setting.partition("=")
            if not (comma and equals and name and key):
                raise ValueError(
                    f"--cache-config option format is <cache name>,<setting>=<value>. Got {entry}"
                )
            names.add(name)
            settings[key] = value
        if len(names) > 1:
            raise ValueError(
                "found multiple cache configurations, but only a single cache is currently "
                "supported"
            )
        if names and names != {"local"}:
            raise ValueError(f"unable to find shared library for cache '{names.pop()}'")
        if not names:
            return None
        return int(settings.get("size", "0"))

    def backend_settings(self, backend: str) -> Mapping[str, str]:
        """The --backend-config values for one backend: the global ones, overlaid by its own."""
        merged: dict[str, str] = {}
        for wanted in ("", backend):
            for entry in self.backend_config:
                prefix, comma, setting = entry.partition(",")
                if not comma:
                    prefix, setting = "", entry
                if prefix == wanted:
                    key, _, value = setting.partition("=")
                    merged[key] = value
        return merged


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
        missing="host policies are not supported",
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

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_DEFAULTS: Final = {option.name: option.default for option in fields(ServerOptions)}


def usage() -> str:
    """The text of --help."""
    rows = [
        f"  --{flag.name}{' <value>' if flag.takes_value else ''}\n        {flag.help}"
        for flag in FLAGS
    ]
    return "\n".join(["Usage: troupe serve [options]", *rows])


def parse(arguments: Sequence[str], warn: Callable[[str], None] = lambda _: None) -> ServerOptions:
    """The options that `arguments` ask for.

    Long options only, `--x=v` or `--x v`, unambiguous prefixes accepted. Raises BadOption.
    """
    values: dict[str, Value] = {}
    given: set[str] = set()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise BadOption(f"Unexpected argument: {argument}")
        name, equals, text = argument[2:].partition("=")
        flag = _resolve(name)
        given.add(flag.name)
        if not flag.takes_value:
            values[flag.option] = True
            continue
        if not equals:
            if not rest:
                raise BadOption(f'Bad option: "--{flag.name}".\nmissing value')
            text = rest.pop(0)
        if flag.deprecated:
            warn(f"Warning: '--{flag.name}' has been deprecated")
        value = _parse_value(flag, text)
        if flag.repeated:
            earlier = values.get(flag.option, ())
            assert isinstance(earlier, tuple), "a repeated flag only ever collects"
            value = (*earlier, str(value))
        values[flag.option] = value
    if {"cache-config", "response-cache-byte-size"} <= given:
        raise BadOption(
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both "
            "provided. Please provide one or the other."
        )
    options = ServerOptions(**values)  # type: ignore[arg-type]  # the table matches the fields
    _cross_check(options)
    return options


def _resolve(name: str) -> Flag:
    flag = _BY_NAME.get(name)
    if flag is not None:
        return flag
    candidates = [flag for flag in FLAGS if name and flag.name.startswith(name)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(f"--{flag.name}" for flag in candidates)
        raise BadOption(f'Bad option: "--{name}".\nambiguous, it may be {names}')
    raise BadOption(f'Bad option: "--{name}".\nunrecognized option')


def _parse_value(flag: Flag, text: str) -> Value:
    try:
        value = flag.parse(text)
    except ValueError as error:
        raise BadOption(f'Bad option: "--{flag.name}".\n{error}') from None
    if flag.missing and value != _DEFAULTS.get(flag.option):
        raise BadOption(f'Bad option: "--{flag.name}".\n{flag.missing}')
    return value


def _cross_check(options: ServerOptions) -> None:
    if not options.model_repository:
        raise BadOption(
            "error: creating server: Invalid argument - --model-repository must be specified"
        )
    try:
        if options.cache_bytes is not None and options.cache_bytes <= 0:
            raise ValueError("the response cache needs a size, in bytes")
        RestrictedApis.parse(options.http_restricted_api)
        RestrictedApis.parse(options.grpc_restricted_protocol, grpc=True)
        HeaderForwarding(options.http_header_forward_pattern)
        HeaderForwarding(options.grpc_header_forward_pattern)
    except ValueError as error:
        raise BadOption(f"Error: {error}") from None
    if options.load_model and options.model_control_mode != "explicit":
        raise BadOption(
            "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."
        )
    listeners = [
        ("HTTP", options.allow_http, options.http_address, options.http_port),
        ("GRPC", options.allow_grpc, options.grpc_address, options.grpc_port),
        (
            "metrics",
            options.allow_metrics,
            options.effective_metrics_address,
            options.metrics_port,
        ),
    ]
    seen: dict[tuple[str, int], str] = {}
    for name, allowed, address, port in listeners:
        if not allowed or port == 0:  # port 0 asks the system for a free one
            continue
        other = seen.get((address, port))
        if other is not None:
            raise BadOption(
                f"The server cannot listen to {other} requests and {name} requests at the same "
                f"address and port {address}:{port}"
            )
        seen[address, port] = name
