"""What connections cost that nobody uses: the server's memory with none of them and with many.

    python bench/idle_connections.py                 # 10,000 of each protocol, a minute

gRPC connections have exchanged their settings, HTTP connections have had one request answered. The
server's resident memory is read once it has settled, and again while a call is answered, since an
idle crowd must not slow whoever works.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import memory
from bench.wire import MODEL, Server, running
from bench.wire_load import FRAME, PREFACE, SETTINGS

CONNECTIONS = 10_000
# Descriptors of the server and of this script beyond the connections.
SPARE_DESCRIPTORS = 200
SETTLE_SECONDS = 2.0
CALLS = 200
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: idle\r\n\r\n"


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=60.0)


def open_grpc(server: Server) -> socket.socket:
    """A connection on which both sides have said and acknowledged their settings."""
    peer = connect(server.grpc)
    peer.sendall(PREFACE + FRAME.pack(SETTINGS, 0, 0) + FRAME.pack(SETTINGS, 1, 0))
    heard = b""
    while FRAME.pack(SETTINGS, 1, 0) not in heard:
        data = peer.recv(4096)
        assert data, "the server closed the connection"
        heard += data
    return peer


def open_http(server: Server) -> socket.socket:
    """A connection that is kept alive after its first answer."""
    peer = connect(server.http)
    ask(peer)
    return peer


def ask(peer: socket.socket) -> None:
    peer.sendall(LIVE)
    assert peer.recv(4096).startswith(b"HTTP/1.1 200 "), "the server is not live"


def call_us(server: Server) -> float:
    """The median time of a small request on a connection of its own."""
    took: list[float] = []
    with connect(server.http) as peer:
        for _ in range(CALLS):
            began = time.perf_counter()
            ask(peer)
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def measure(
    name: str, count: int, repository: Path, open_one: Callable[[Server], socket.socket]
) -> None:
    with running("troupe", repository) as server:
        call_us(server)
        time.sleep(SETTLE_SECONDS)
        before, alone_us = memory(server.process.pid).rss, call_us(server)
        peers: list[socket.socket] = []
        began = time.perf_counter()
        try:
            peers.extend(open_one(server) for _ in range(count))
            took = time.perf_counter() - began
            time.sleep(SETTLE_SECONDS)
            after, crowded_us = memory(server.process.pid).rss, call_us(server)
        finally:
            for peer in peers:
                # Reset rather than closed, so that no port lingers for the next run.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
        print(
            f"| {name} | {count:,} | {before:,.0f} | {after:,.0f} | {after - before:,.0f} "
            f"| {(after - before) * 1024 / count:.1f} | {count / took:,.0f} "
            f"| {alone_us:,.0f} / {crowded_us:,.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    given = parser.parse_args()
    # The server inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given.connections + SPARE_DESCRIPTORS, hard))
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        (repository / "noop" / "1").mkdir(parents=True)
        (repository / "noop" / "config.pbtxt").write_text(MODEL)
        print(
            "| protocol | connections | MiB without | MiB with | more MiB | KiB each "
            "| opened/s | request µs without / with |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        measure("gRPC", given.connections, repository, open_grpc)
        measure("HTTP", given.connections, repository, open_http)


if __name__ == "__main__":
    main()
