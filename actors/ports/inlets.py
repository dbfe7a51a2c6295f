"""How bytes come to a connection that takes them in at once, without a task that reads.

A task that reads one socket costs a turn of the event loop, and a system call to wait again, for
every request. The sockets of a port are therefore watched together: `Readiness` is told once of
each and waits for all of them in one task, which has each connection take in what came for it. So
whatever has come for a port is read, parsed and submitted in one turn, and then, since the turns of
others are held until all of it has been read, dispatched together.

Owns when a peer is read, and how much of a port is read in one turn. It never looks at a byte, and
never writes. `StreamInlet` does the same for a stream without a descriptor, in a task of its own.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from actors.ports.sockets import PeerStream
from actors.turns import current_turns

# Connections that are asked for in one look, and requests that are read in one turn. The rest waits
# for the next, after the server's other tasks, those that bring the results of models among them:
# if more came in than goes out meanwhile, a flood would leave models idle and fill queues in vain.
# At some 20 µs for a small request this is about a millisecond and a half.
CONNECTIONS_PER_LOOK: Final = 256
REQUESTS_PER_TURN: Final = 64


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


class Readiness:
    """Waits for all the sockets of a port."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], int]] = {}  # by descriptor; one per connection

    async def run(self) -> None:
        """Have sockets read as they become readable, until cancelled."""
        poll, readers, turns = self._epoll.poll, self._readers, current_turns()
        readable: deque[int] = deque()  # each is read once before any is read twice
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            if not readable:
                readable.extend(each for each, _ in poll(0, CONNECTIONS_PER_LOOK))
            turns.hold()
            heard = 0
            while readable and heard < REQUESTS_PER_TURN:
                reader = readers.get(readable.popleft())
                if reader is not None:  # it may have ended meanwhile
                    heard += reader()
            turns.settle()

    def close(self) -> None:
        """When no connection is left."""
        self._epoll.close()

    def watch(self, descriptor: int, reader: Callable[[], int]) -> None:
        """Call `reader`, which must not raise, while there is something to be read.

        It says how many requests it has read.
        """
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = reader

    def forget(self, descriptor: int) -> None:
        """Call no more; before the descriptor is closed. Harmless for one that is not watched."""
        if self._readers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)


class SocketInlet:
    """Reads a socket whenever the port's `Readiness` says so."""

    def __init__(self, stream: PeerStream, readiness: Readiness) -> None:
        self._stream = stream
        self._readiness = readiness
        self._descriptor = stream.descriptor
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
        try:
            data = self._stream.read_nowait(hearer.read_size)
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
        return heard

    def _end(self) -> None:
        self._ended.set()
        self.pause()
