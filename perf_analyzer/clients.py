"""A client: a call goes in, its responses come back to its load. Here is the one for HTTP/1.1.

Owns the port that loads send through, and the connections of a REST load: every outstanding
request has one of its own. It measures nothing and decides nothing: it sends what it is given at
once. grpc_clients.py has the clients for gRPC.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import trio

from perf_analyzer.calls import Buffer, Call
from perf_analyzer.connecting import CannotConnect, Connect
from perf_analyzer.http1_client import Head, Http1Client
from perf_analyzer.requests import HttpEncoder
from perf_analyzer.responses import error_text
from perf_analyzer.wires import Wire, Wires

# Enough for any server worth loading from one machine, below the usual limit of open files.
MAX_HTTP_CONNECTIONS: Final = 900


class Client(Protocol):
    """How a load sends."""

    async def run(self) -> None:
        """What must go on beside the load; cancelled at its end."""

    async def widen(self, width: int) -> None:
        """Get ready for `width` calls at a time. Raises CannotConnect."""

    def send(self, call: Call) -> None:
        """Send `call.payload`; goes out at the next `flush`."""

    def flush(self) -> None:
        """Let everything that was sent go out."""

    async def close(self) -> None:
        """End what is left open, politely."""


class _HttpLane:
    """One HTTP connection and the call on it."""

    __slots__ = ("call", "client", "codec", "wire")

    def __init__(self, client: HttpClient, codec: Http1Client) -> None:
        self.client = client
        self.codec = codec
        self.call: Call | None = None
        self.wire: Wire | None = None

    def on_answer(self, head: Head, body: Buffer, now: float) -> None:
        call = self.call
        assert call is not None
        self.call = None
        self.client.released(self)
        if head.status != 200:
            call.load.failed(call, error_text(body, head.status))
            return
        call.respond((head.json_bytes, body), now)
        call.load.completed(call, now)

    def on_failure(self, text: str) -> None:
        call = self.call
        self.call = None
        self.client.lost(self)
        if call is not None:
            call.load.failed(call, text)


class HttpClient:
    """Requests over HTTP/1.1 connections, opened as they are needed. Run `run` beside it."""

    def __init__(self, wires: Wires, connect: Connect, encoder: HttpEncoder) -> None:
        self._wires = wires
        self._connect = connect
        self._encoder = encoder
        self._idle: list[_HttpLane] = []
        self._waiting: deque[Call] = deque()
        self._count = 0
        self._short = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Open connections for calls that have none, until cancelled."""
        while True:
            await self._short.park()
            while self._waiting and self._count < MAX_HTTP_CONNECTIONS:
                try:
                    await self._open()
                except CannotConnect as error:
                    while self._waiting:
                        call = self._waiting.popleft()
                        call.load.failed(call, str(error))
                    break
                self._wires.flush()

    async def widen(self, width: int) -> None:
        for _ in range(min(width, MAX_HTTP_CONNECTIONS) - self._count):
            await self._open()

    async def _open(self) -> None:
        self._count += 1
        try:
            stream = await self._connect()
        except CannotConnect:
            self._count -= 1
            raise
        lane = _HttpLane(self, Http1Client())
        lane.wire = self._wires.attach(stream, lane.codec)
        self.released(lane)

    def send(self, call: Call) -> None:
        while self._idle:
            lane = self._idle.pop()
            if lane.wire is not None and not lane.wire.closed:
                self._start(lane, call)
                return
            self._count -= 1  # the server has closed it while it had nothing to do
        self._waiting.append(call)
        if self._count < MAX_HTTP_CONNECTIONS:
            self._short.unpark()

    def _start(self, lane: _HttpLane, call: Call) -> None:
        lane.call = call
        lane.codec.start(lane, call, *self._encoder.pieces(call))
        assert lane.wire is not None
        lane.wire.touch()

    def released(self, lane: _HttpLane) -> None:
        """The lane's call has been answered."""
        if not lane.codec.usable:
            self.lost(lane)
            assert lane.wire is not None
            lane.wire.close()
        elif self._waiting:
            self._start(lane, self._waiting.popleft())
        else:
            self._idle.append(lane)

    def lost(self, lane: _HttpLane) -> None:
        """The lane's connection has ended."""
        self._count -= 1
        if lane in self._idle:
            self._idle.remove(lane)
        if self._waiting:
            self._short.unpark()

    def flush(self) -> None:
        self._wires.flush()

    async def close(self) -> None:
        """Connections end with the wires."""
