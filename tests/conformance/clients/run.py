"""Runs the client drivers: every tritonclient release and flavour against one server.

    python tests/conformance/clients/run.py --server troupe
    python tests/conformance/clients/run.py --server triton --client 2.73.0 --flavour http

`--server triton` is how the drivers themselves are checked: what the real server fails is wrong
in the driver, or belongs to another release. The peers are installed where they are missing.
"""

# ruff: noqa: T201  # a command line prints

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))

import peers
from peer_servers import Endpoint, start_triton, start_troupe
from repository import write_repository

HERE = Path(__file__).resolve().parent
FLAVOURS = ("http", "http.aio", "grpc", "grpc.aio")
# A model of a kind that the server cannot serve must not keep it from serving the others.
FLAGS = (
    "--model-control-mode=explicit",
    "--load-model=*",
    "--exit-on-error=false",
    "--strict-readiness=false",
)
SHARED_MEMORY_FLAG = "--allow-client-shm=true"
SHARED_MEMORY_GROUPS = {"system_shared_memory", "errors_shared_memory"}
# Triton 2.51 counts two elements in the one-element string that it makes of a named sequence.
CANNOT = {"triton": ("named_sequence",), "troupe": ()}
# A driver takes seconds; one that hangs is killed.
DRIVER_SECONDS = 180


def drive(python: Path, flavour: str, endpoint: Endpoint, more: Sequence[str]) -> str | None:
    """Runs the driver once by this environment's python; None, or what it has to complain of."""
    address = endpoint.http if flavour.startswith("http") else endpoint.grpc
    command = [str(python), str(HERE / "driver.py"), "--flavour", flavour, "--address", address]
    try:
        ended = subprocess.run(
            [*command, *more],
            check=False,
            timeout=DRIVER_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"{python} {flavour}: killed after {DRIVER_SECONDS} s"
    print(ended.stdout, end="", flush=True)
    return ended.stdout if ended.returncode else None


def client_python(release: str) -> Path:
    peer_environments: Path = peers.PEERS
    return peer_environments / "clients" / release / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description="check a server with the released tritonclients")
    parser.add_argument("--server", choices=("troupe", "triton"), default="troupe")
    parser.add_argument("--client", nargs="+", choices=peers.CLIENTS, default=list(peers.CLIENTS))
    parser.add_argument("--flavour", nargs="+", choices=FLAVOURS, default=list(FLAVOURS))
    parser.add_argument("--skip", nargs="+", default=[], help="groups of checks to leave out")
    parser.add_argument("--only", nargs="+", default=[], help="the only groups of checks to run")
    parser.add_argument("--log", type=Path, help="keep the server's log in this file")
    options = parser.parse_args()
    peers.install("clients")
    skip = [*options.skip, *CANNOT[options.server]]
    more = ["--skip", *skip] if skip else []
    more += ["--only", *options.only] if options.only else []
    more += ["--older"] if options.server == "triton" else []
    flags = list(FLAGS)
    # Triton 2.51 lets every client use shared memory and does not know the flag.
    if options.server == "troupe" and not set(skip) >= SHARED_MEMORY_GROUPS:
        flags.append(SHARED_MEMORY_FLAG)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        write_repository(repository)
        log = options.log or Path(scratch) / "server.log"
        start = start_triton if options.server == "triton" else start_troupe
        with start(repository, log=log, flags=flags) as endpoint:
            failed = [
                f"{client} {flavour}"
                for client in options.client
                for flavour in options.flavour
                if drive(client_python(client), flavour, endpoint, more) is not None
            ]
    print(f"failed: {', '.join(failed)}" if failed else "all drivers passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
