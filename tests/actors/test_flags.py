"""Triton's flags, each by its name: it sets its option, is inert and says so, or is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from actors.settings.command_line import HelpAsked, parse, usage
from actors.settings.flag_values import BadOption
from actors.settings.flags import FLAGS, Flag
from actors.settings.options import ServerOptions

ROOT = Path(__file__).parents[2]
REPOSITORY = "--model-repository=models"

# Flag, a value other than the default, the option as it then is.
EFFECTS: list[tuple[str, str, str, object]] = [
    ("id", "mine", "id", "mine"),
    ("exit-timeout-secs", "5", "exit_timeout_secs", 5),
    ("model-repository", "more", "model_repository", ("models", "more")),
    ("model-store", "more", "model_repository", ("models", "more")),
    ("exit-on-error", "false", "exit_on_error", False),
    ("strict-readiness", "false", "strict_readiness", False),
    ("model-control-mode", "explicit", "model_control_mode", "explicit"),
    ("repository-poll-secs", "3", "repository_poll_secs", 3),
    ("model-config-name", "gpu", "model_config_name", "gpu"),
    ("model-load-thread-count", "2", "model_load_thread_count", 2),
    ("model-load-retry-count", "2", "model_load_retry_count", 2),
    ("allow-http", "false", "allow_http", False),
    ("http-address", "::1", "http_address", "::1"),
    ("http-port", "9000", "http_port", 9000),
    ("reuse-http-port", "1", "reuse_http_port", True),
    ("http-header-forward-pattern", "x.*", "http_header_forward_pattern", "x.*"),
    ("http-max-input-size", "4294967296", "http_max_input_size", 2**32),
    ("http-restricted-api", "health:k=v", "http_restricted_api", ("health:k=v",)),
    ("allow-grpc", "off", "allow_grpc", False),
    ("grpc-address", "::1", "grpc_address", "::1"),
    ("grpc-port", "9000", "grpc_port", 9000),
    ("reuse-grpc-port", "on", "reuse_grpc_port", True),
    ("grpc-header-forward-pattern", "x.*", "grpc_header_forward_pattern", "x.*"),
    ("grpc-max-response-pool-size", "4", "grpc_max_response_pool_size", 4),
    ("grpc-use-ssl", "true", "grpc_use_ssl", True),
    ("grpc-use-ssl-mutual", "true", "grpc_use_ssl_mutual", True),
    ("grpc-server-cert", "c", "grpc_server_cert", "c"),
    ("grpc-server-key", "k", "grpc_server_key", "k"),
    ("grpc-root-cert", "r", "grpc_root_cert", "r"),
    ("grpc-infer-response-compression-level", "high",
     "grpc_infer_response_compression_level", "high"),
    ("grpc-keepalive-time", "10", "grpc_keepalive_time", 10),
    ("grpc-keepalive-timeout", "10", "grpc_keepalive_timeout", 10),
    ("grpc-keepalive-permit-without-calls", "true", "grpc_keepalive_permit_without_calls", True),
    ("grpc-http2-max-pings-without-data", "3", "grpc_http2_max_pings_without_data", 3),
    ("grpc-http2-min-recv-ping-interval-without-data", "1",
     "grpc_http2_min_recv_ping_interval_without_data", 1),
    ("grpc-http2-max-ping-strikes", "3", "grpc_http2_max_ping_strikes", 3),
    ("grpc-max-connection-age", "1000", "grpc_max_connection_age", 1000),
    ("grpc-max-connection-age-grace", "1000", "grpc_max_connection_age_grace", 1000),
    ("grpc-restricted-protocol", "health:k=v", "grpc_restricted_protocol", ("health:k=v",)),
    ("admin-port", "8003", "admin_port", 8003),
    ("admin-address", "::1", "admin_address", "::1"),
    ("admin-host", "console.example", "admin_host", ("console.example",)),
    ("allow-metrics", "false", "allow_metrics", False),
    ("allow-gpu-metrics", "false", "allow_gpu_metrics", False),
    ("pinned-memory-pool-byte-size", "4294967296", "pinned_memory_pool_byte_size", 4294967296),
    ("cuda-memory-pool-byte-size", "0:1024", "cuda_memory_pool_byte_size", ("0:1024",)),
    ("min-supported-compute-capability", "8.0", "min_supported_compute_capability", 8.0),
    ("model-load-gpu-limit", "0:0.5", "model_load_gpu_limit", ("0:0.5",)),
    ("allow-cpu-metrics", "false", "allow_cpu_metrics", False),
    ("metrics-address", "::1", "metrics_address", "::1"),
    ("metrics-port", "9000", "metrics_port", 9000),
    ("metrics-interval-ms", "500", "metrics_interval_ms", 500),
    ("metrics-config", "summary_latencies=true", "metrics_config", ("summary_latencies=true",)),
    ("log-verbose", "2", "log_verbose", 2),
    ("log-info", "false", "log_info", False),
    ("log-warning", "false", "log_warning", False),
    ("log-error", "false", "log_error", False),
    ("log-format", "ISO8601", "log_format", "ISO8601"),
    ("log-file", "f", "log_file", "f"),
    ("backend-directory", "b", "backend_directory", "b"),
    ("backend-config", "python,a=b", "backend_config", ("python,a=b",)),
    ("cache-config", "local,size=9", "cache_config", ("local,size=9",)),
    ("rate-limit", "execution_count", "rate_limit", "execution_count"),
    ("rate-limit-resource", "r:2", "rate_limit_resource", ("r:2",)),
    ("host-policy", "a,numa-node=0", "host_policy", ("a,numa-node=0",)),
    ("allow-client-shm", "true", "allow_client_shm", True),
    ("download-cache-directory", "d", "download_cache_directory", "d"),
    ("download-cache-byte-size", "9", "download_cache_byte_size", 9),
    ("model-namespacing", "true", "model_namespacing", True),
    ("trace-config", "rate=5", "trace_config", ("rate=5",)),
    ("http-use-ssl", "true", "http_use_ssl", True),
    ("http-use-ssl-mutual", "true", "http_use_ssl_mutual", True),
    ("http-server-cert", "c", "http_server_cert", "c"),
    ("http-server-key", "k", "http_server_key", "k"),
    ("http-root-cert", "r", "http_root_cert", "r"),
    ("api-keys", "f", "api_keys", "f"),
    ("frontend-workers", "2", "frontend_workers", 2),
    ("strict-model-config", "true", "disable_auto_complete_config", True),
    ("response-cache-byte-size", "9", "cache_config", ("local,size=9",)),
]  # fmt: skip

# Flag, a value: taken, with no effect that anybody could see.
INERT = [
    ("http-thread-count", "3"),
    ("grpc-infer-thread-count", "3"),
    ("grpc-infer-allocation-pool-size", "3"),
    ("repoagent-directory", "d"),
    ("cache-directory", "d"),
    ("enable-peer-access", "false"),
    ("cuda-virtual-address-size", "0:1024"),
    ("buffer-manager-thread-count", "3"),
]

REFUSED = [
    ("allow-sagemaker", "true"),
    ("sagemaker-port", "8080"),
    ("sagemaker-safe-port-range", "8080-8090"),
    ("sagemaker-thread-count", "8"),
    ("allow-vertex-ai", "true"),
    ("vertex-ai-port", "8080"),
    ("vertex-ai-thread-count", "8"),
    ("vertex-ai-default-model", "m"),
]


def help_of(name: str) -> str:
    """The text of --help about one flag."""
    found = re.search(rf"^  --{name}( <value>)?\n        (.*)$", usage(), re.MULTILINE)
    assert found is not None
    return found[2]


@pytest.mark.parametrize(("name", "value", "option", "wanted"), EFFECTS, ids=str)
def test_a_flag_sets_its_option(name: str, value: str, option: str, wanted: object) -> None:
    options = parse([REPOSITORY, f"--{name}={value}"])

    assert getattr(options, option) == wanted
    assert getattr(options, option) != getattr(parse([REPOSITORY]), option)


def test_flags_that_need_another() -> None:
    explicit = parse([REPOSITORY, "--model-control-mode=explicit", "--load-model=m"])
    assert explicit.load_model == ("m",)
    assert parse([REPOSITORY, "--disable-auto-complete-config"]).disable_auto_complete_config
    with pytest.raises(HelpAsked):
        parse(["--help"])


@pytest.mark.parametrize(("name", "value"), INERT)
def test_a_flag_without_effect_says_so(name: str, value: str) -> None:
    assert parse([REPOSITORY, f"--{name}={value}"])
    assert "accepted for compatibility, without effect: " in help_of(name)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_flag_that_asks_for_what_there_is_not_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadOption, match=rf'Bad option: "--{name}"\.\n.* not (part|supp)'):
        parse([REPOSITORY, f"--{name}={value}"])
    assert "refused: " in help_of(name)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_explained(flag: Flag) -> None:
    assert help_of(flag.name)


@pytest.mark.parametrize(("argument", "reason"), [
    ("--http-port=8000abc", None),
    ("--http-port= 8000", None),
    ("--http-port=+8000", None),
    ("--http-port=", "Invalid option value. Got "),
    ("--http-port=70000", "Provided option value is out of bound. Got 70000"),
    ("--http-port=-1", "Provided option value is out of bound. Got -1"),
    ("--exit-timeout-secs=2147483648", "Provided option value is out of bound. Got 2147483648"),
    ("--exit-timeout-secs=" + "9" * 5000, "Provided option value is out of bound. Got 999"),
    ("--http-max-input-size=-5", "Error: --http-max-input-size must be greater than 0."),
    ("--min-supported-compute-capability=x", "Invalid option value. Got x"),
    ("--allow-http=TRUE", None),
    ("--allow-http=yes", "invalid value for bool option: yes"),
    ("--log-verbose=true", None),
    ("--log-verbose=x", "Invalid option value. Got x"),
    ("--log-format=iso8601", "invalid argument for --log-format"),
    ("--cuda-memory-pool-byte-size=5", "option format is '<gpu>:<value>'. Got 5"),
    ("--cuda-memory-pool-byte-size=0:x", "Invalid option value. Got x"),
    ("--disable-auto-complete-config=false", "it doesn't allow a value"),
    ("--http-port", "missing value"),
    ("--http", "ambiguous, it may be --http-address, --http-port"),
    ("--", "Unexpected argument: --"),
    ("-h", "Unexpected argument: -h"),
])  # fmt: skip
def test_values_are_read_as_c_does(argument: str, reason: str | None) -> None:
    if reason is None:
        assert parse([REPOSITORY, argument])
        return
    with pytest.raises(BadOption) as caught:
        parse([REPOSITORY, argument])
    assert reason in str(caught.value)


def test_the_two_spellings_of_a_cache_exclude_each_other() -> None:
    with pytest.raises(BadOption, match="Incompatible flags --response-cache-byte-size and"):
        parse([REPOSITORY, "--cache-config=local,size=1", "--response-cache-byte-size=1"])


def test_the_table_is_whole() -> None:
    """Every row of --help is tried in this module, or by the tests of what it belongs to."""
    tried = {name for name, *_ in (*EFFECTS, *INERT, *REFUSED)}
    elsewhere = {
        "help", "config", "load-model", "disable-auto-complete-config",
        "trace-file", "trace-level", "trace-rate", "trace-count", "trace-log-frequency",
    }  # fmt: skip

    assert {flag.name for flag in FLAGS} == tried | elsewhere


def test_no_option_is_read_by_nobody() -> None:
    """An option that nothing asks for would be a promise that nobody keeps."""
    inert = {flag.option for flag in FLAGS if flag.inert}
    refused = {flag.option for flag in FLAGS if flag.missing}
    product = "".join(
        path.read_text()
        for folder in ("actors", "troupe")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("flags.py", "command_line.py", "options.py", "tables.py")
    )
    used = set(re.findall(r"\.([a-z0-9_]+)\b", product))
    known = {option.name for option in fields(ServerOptions)} - inert - refused

    # Those that only ServerOptions itself reads, for what it then offers.
    assert known - used <= {
        "backend_config", "backend_directory", "cache_config", "metrics_address", "trace_config",
    }  # fmt: skip
