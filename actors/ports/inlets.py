"""How bytes come to a connection that takes them in at once, without a task that reads.

Its socket is watched together with all others (`actors/readiness.py`): whatever has come for a port
is read, parsed and submitted in one turn, and then, since the turns of others are held until all of
it has been read, dispatched together.

Owns when a peer is read. It never looks at a byte, and never writes. `StreamInlet` does the same
for a stream without a descriptor, in a task of its own.
"""

from __future__ import annotations

from typing import Protocol

import trio

from actors.policy.reading import MOST_REQUESTS
from actors.ports.sockets import PeerStream
from actors.readiness import Readiness
from actors.turns import current_turns


class Hearer(Protocol):
    """Who takes in what a peer says."""

    @property
    def read_size(self) -> int:
        """How much to read at most."""

    def hear(self, data: bytes) -> int:
        """Take in what has come; b"" is that the peer will say no more, and comes once, last.

        The result is how many requests, or other things to be dealt with, it was.
        """

    def lose(self) -> None:
        """The connection has broken: nothing more will come, nor can anything be sent."""


class Inlet(Protocol):
    """Where the bytes of one peer come in. What `hear` raises comes out of `run`."""

    async def run(self, hearer: Hearer) -> None:
        """Have `hearer` hear the peer, until that has said its last."""

    def pause(self) -> None:
        """Read no more; a read that has begun may still be heard."""

    def resume(self) -> None:
        """Read on."""


class StreamInlet:
    """Reads a stream of any kind, one read after the other."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._resumed: trio.Event | None = None  # set while paused

    async def run(self, hearer: Hearer) -> None:
        turns = current_turns()
        try:
            while True:
                if self._resumed is not None:
                    await self._resumed.wait()
                    continue
                data = bytes(await self._stream.receive_some(hearer.read_size))
                turns.hold()
                try:
                    hearer.hear(data)
                finally:
                    turns.settle()
                if not data:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            hearer.lose()

    def pause(self) -> None:
        self._resumed = trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None


class SocketInlet:
    """Reads a socket whenever `Readiness` says so."""

    def __init__(self, stream: PeerStream, readiness: Readiness) -> None:
        self._stream = stream
        self._readiness = readiness
        self._descriptor = stream.descriptor
        self._request_bytes = 0.0  # of each, when some were last heard
        self._hearer: Hearer
        self._ended = trio.Event()
        self._error: Exception | None = None

    async def run(self, hearer: Hearer) -> None:
        self._hearer = hearer
        self.resume()
        try:
            await self._ended.wait()
        finally:
            self._end()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        self._readiness.forget(self._descriptor)

    def resume(self) -> None:
        if not self._ended.is_set():
            self._readiness.watch(self._descriptor, self._read)

    def _read(self) -> int:
        hearer, heard = self._hearer, 0
        size, requests = hearer.read_size, self._readiness.pace.requests
        if requests < MOST_REQUESTS and self._request_bytes:
            size = min(size, 1 + int(requests * self._request_bytes))
        try:
            data = self._stream.read_nowait(size)
        except trio.WouldBlock:
            return 0  # woken for nothing
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()
            hearer.lose()
            return 1
        try:
            heard = hearer.hear(data)
        except Exception as error:  # noqa: BLE001  # ring boundary: it ends this connection alone
            self._error = error
            data = b""
        if not data:
            self._end()
        if heard:
            self._request_bytes = len(data) / heard
        return heard

    def _end(self) -> None:
        self._ended.set()
        self.pause()
