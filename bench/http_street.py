"""What one HTTP inference costs from socket to socket, in microseconds of CPU time.

    python -m bench.http_street                  # the table
    python -m bench.http_street --profile json   # one row under cProfile

Server and client share a process and its one event loop, over loopback TCP, so the figures include
the client (some 6 µs: one write, one read) and say nothing of throughput. But a neighbour on the
machine can only add to them, so the least of many short rounds is good to a few percent, and two
checkouts can be compared while others work. "In the event loop" the model is an executor that
answers at once; "in a thread" it is the same thing in a thread of its own, as backends are: the
difference is the hop to the model's thread and back.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from actors.processes.lending import InstanceServices
from actors.settings.options import ServerOptions
from actors.street.executor import Executor, ThreadExecutor
from actors.wiring import Ports, wire_core, wire_http
from bench.http_load import request_bytes
from bench.scheduling import Noop, WallClock, source
from bench.wire import MODEL
from bench.wire_server import NoopBackend
from protocol.inference import InferResponse
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings

ROUNDS = 60
REQUESTS = 1500  # per round
ELEMENTS = 16


class Echo(Noop):
    """Gives every input back, at once."""

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        return [
            InferResponse(
                "m", "1", one.request.id, [each.renamed("OUTPUT0") for each in one.request.inputs]
            )
            for one in requests
        ]


@dataclass(frozen=True)
class Row:
    """A load."""

    name: str
    connections: int
    kind: str = "binary"
    thread: bool = False

    def make_executor(self, context: InstanceContext, _: InstanceServices) -> Executor:
        return ThreadExecutor(NoopBackend(context)) if self.thread else Echo()


ROWS = {
    "binary": Row("64 connections, in the event loop", 64),
    "binary-thread": Row("64 connections, in a thread", 64, thread=True),
    "json": Row("64 connections, 16 numbers in JSON, in the event loop", 64, kind="json"),
    "one": Row("one connection, in the event loop", 1),
    "one-thread": Row("one connection, in a thread", 1, thread=True),
}


class Clients:
    """Keep-alive connections with one request in flight each."""

    def __init__(self, port: int, count: int, request: bytes) -> None:
        self._request = request
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            peer = socket.create_connection(("127.0.0.1", port))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[peer.fileno()] = peer
            self._epoll.register(peer.fileno(), select.EPOLLIN)

    async def ask(self, each: int) -> float:
        """So many requests on each connection; CPU seconds per request."""
        left = dict.fromkeys(self._sockets, each)
        began = time.process_time()
        for descriptor in left:
            os.write(descriptor, self._request)
        while left:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0):
                assert os.read(descriptor, 65536).startswith(b"HTTP/1.1 200")
                left[descriptor] -= 1
                if left[descriptor]:
                    os.write(descriptor, self._request)
                else:
                    del left[descriptor]
        return (time.process_time() - began) / (each * len(self._sockets))

    def close(self) -> None:
        self._epoll.close()
        for peer in self._sockets.values():
            peer.close()


async def measure(row: Row, profiler: cProfile.Profile | None) -> float:
    """The least of the rounds, in seconds; with a profiler one long round under it."""
    ports = Ports(source=source(MODEL), make_executor=row.make_executor, wall_clock=WallClock())
    options = ServerOptions()
    core = wire_core(options, ports, server_version="bench")
    async with trio.open_nursery() as nursery:
        await nursery.start(core.run)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        frontend = wire_http(options, core, listeners)
        await nursery.start(frontend.run)
        port = listeners[0].socket.getsockname()[1]
        request = request_bytes("x", ELEMENTS, kind=row.kind).replace(b"/noop/", b"/m/")
        clients = Clients(port, row.connections, request)
        each = max(1, REQUESTS // row.connections)
        least = min([await clients.ask(each) for _ in range(ROUNDS if profiler is None else 2)])
        if profiler is not None:
            profiler.enable()
            await clients.ask(10 * each)
            profiler.disable()
        clients.close()
        frontend.drain()
        core.repository.drain()
    return least


def run(row: Row, profiler: cProfile.Profile | None = None) -> float:
    gc.collect()
    gc.disable()
    try:
        return trio.run(measure, row, profiler)
    finally:
        gc.enable()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.http_street", description=__doc__)
    parser.add_argument("--profile", choices=ROWS)
    given = parser.parse_args()
    if given.profile:
        profiler = cProfile.Profile()
        run(ROWS[given.profile], profiler)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
        return
    for row in ROWS.values():
        print(f"{row.name:<56}{run(row) * 1e6:8.1f}", flush=True)


if __name__ == "__main__":
    main()
