"""What the operator asked for, as one frozen value; `actors/settings/command_line.py` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from repo.storage import DEFAULT_DOWNLOAD_BYTES

Value = bool | int | float | str | tuple[str, ...]

# No port at all; 0 asks the system for a free one.
NO_PORT: Final = -1


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
    download_cache_directory: str = ""  # "": a temporary one
    download_cache_byte_size: int = DEFAULT_DOWNLOAD_BYTES
    allow_http: bool = True
    http_address: str = "0.0.0.0"  # noqa: S104  # Triton's default; the operator narrows it
    http_port: int = 8000
    reuse_http_port: bool = False
    http_thread_count: int = 8
    http_header_forward_pattern: str = ""
    http_max_input_size: int = 64 * 1024 * 1024
    http_restricted_api: tuple[str, ...] = ()
    http_use_ssl: bool = False
    http_use_ssl_mutual: bool = False
    http_server_cert: str = ""
    http_server_key: str = ""
    http_root_cert: str = ""
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
    admin_address: str = "127.0.0.1"
    admin_port: int = NO_PORT
    admin_host: tuple[str, ...] = ()
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
    api_keys: str = ""
    frontend_workers: int = 0

    @property
    def has_admin_port(self) -> bool:
        return self.admin_port != NO_PORT

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
        """The --backend-config values for one backend: the global ones, overlaid by its own.

        The --backend-directory is among them, since every backend may ask for it.
        """
        merged: dict[str, str] = {}
        if self.backend_directory:
            merged["backend-directory"] = self.backend_directory
        for wanted in ("", backend):
            for entry in self.backend_config:
                prefix, comma, setting = entry.partition(",")
                if not comma:
                    prefix, setting = "", entry
                if prefix == wanted:
                    key, _, value = setting.partition("=")
                    merged[key] = value
        return merged
