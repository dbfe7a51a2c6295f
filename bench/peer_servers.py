"""Starts the real Triton and Troupe on a model repository, with the same flags.

Both serve HTTP, gRPC and metrics on free ports of 127.0.0.1 and are ended by pid when the block
ends. `start_triton` installs Triton first where that is still to be done, and takes away what a
Triton that crashed leaves behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peers
from processes import Server, free_ports, running

# Python models start an interpreter per instance, and the machine may be busy.
READY_SECONDS = 60.0
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Endpoint:
    """A ready server: the process, and where it listens."""

    server: Server
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        return f"127.0.0.1:{self.metrics_port}"


def _address_flags(http: int, grpc: int, metrics: int) -> list[str]:
    return [
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
    ]


@contextmanager
def start_triton(
    repository: Path,
    *,
    log: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Endpoint]:
    """The real Triton on `repository`, ready for requests; `flags` are added to the command,
    `environment` to that of this process.

    Raises ServerFailed with the tail of its log when it does not get ready.
    """
    folder = peers.install("triton")
    server = folder / "tritonserver"
    http, grpc, metrics = free_ports(3)
    prefix = f"peer{os.getpid()}_{http}_"
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        f"--cache-directory={server / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *_address_flags(http, grpc, metrics),
        *flags,
    ]
    libraries = {
        **(environment or {}),
        "LD_LIBRARY_PATH": peers.triton_library_path(),
        # The stub's embedded interpreter finds its packages by the first python3 of the path.
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
    }
    try:
        with running("triton", command, log=log, environment=libraries) as process:
            process.wait_ready(f"http://127.0.0.1:{http}/v2/health/ready", READY_SECONDS)
            yield Endpoint(process, http, grpc, metrics)
    finally:
        _take_away(prefix)


def _take_away(prefix: str) -> None:
    """End the stubs and remove the shared memory of the Triton that was given this prefix.

    It does so itself, unless it crashed.
    """
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if prefix.encode() in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def troupe_command() -> Path:
    """The `troupe` command of the repository's own environment."""
    root: Path = peers.ROOT
    return root / ".venv" / "bin" / "troupe"


@contextmanager
def start_troupe(
    repository: Path,
    *,
    log: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Endpoint]:
    """Troupe on `repository`, ready for requests; `flags` are added to the command,
    `environment` to that of this process.

    Raises ServerFailed with the tail of its log when it does not get ready.
    """
    http, grpc, metrics = free_ports(3)
    command = [
        str(troupe_command()),
        "serve",
        f"--model-repository={repository}",
        *_address_flags(http, grpc, metrics),
        *flags,
    ]
    with running("troupe", command, log=log, environment=environment) as process:
        process.wait_ready(f"http://127.0.0.1:{http}/v2/health/ready", READY_SECONDS)
        yield Endpoint(process, http, grpc, metrics)
