"""Connections: bytes between sockets and codecs, for many connections in one task.

Owns the sockets, one epoll instance over all of them, and the list of connections that have
something to send. A request costs two system calls and no task switch of its own: readiness is
asked for once per round, and each connection touched in a round is written to once. What is not a
plain socket (TLS, a memory stream in a test) gets a reader and a writer task instead.

It never interprets a byte.
"""

from __future__ import annotations

import select
import socket
from typing import Final, Protocol

import trio

from perf_analyzer.calls import Buffer, Stamped
from perf_analyzer.http1_client import BadResponse
from perf_analyzer.http2_client import ConnectionFailed

# One receive call takes at most this much: a few large tensors, or hundreds of small responses.
RECEIVE_BYTES: Final = 1 << 18
# Connections served per look at epoll.
MAX_EVENTS: Final = 256
# Rounds without letting other tasks run, while there is always something to read.
MAX_ROUNDS: Final = 8


class Codec(Protocol):
    """The sans-IO end of a connection."""

    out: list[Buffer]
    unsent: list[Stamped]

    def receive(self, data: bytes, now: float) -> None: ...

    def receive_eof(self, now: float) -> None: ...

    def fail(self, text: str) -> None: ...


class Wire:
    """One connection. `touch` it after giving its codec something to send."""

    __slots__ = ("_dirty", "_wires", "closed", "codec")

    def __init__(self, wires: Wires, codec: Codec) -> None:
        self._wires = wires
        self.codec = codec
        self._dirty = False
        self.closed = False

    def touch(self) -> None:
        """There is output; it goes out at the next `Wires.flush`."""
        if not self._dirty:
            self._dirty = True
            self._wires.dirty.append(self)

    def flush(self) -> None:
        """Hand the codec's output to the transport and stamp the calls in it."""
        self._dirty = False
        codec = self.codec
        if not codec.out:
            return
        data = codec.out[0] if len(codec.out) == 1 else b"".join(codec.out)
        codec.out.clear()
        now = trio.current_time()
        if codec.unsent:
            for stamped in codec.unsent:
                stamped.begun_at = now
            self._wires.sent += len(codec.unsent)
            codec.unsent.clear()
        self.write(data)
        self._wires.send_seconds += trio.current_time() - now

    def write(self, data: Buffer) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def broke(self, text: str) -> None:
        """The connection is of no more use: its calls fail."""
        if not self.closed:
            self.close()
            self.codec.fail(text)


class SocketWire(Wire):
    """A plain socket, watched by the shared epoll instance."""

    __slots__ = ("_backlog", "_socket")

    def __init__(self, wires: Wires, codec: Codec, sock: socket.socket) -> None:
        super().__init__(wires, codec)
        self._socket = sock
        self._backlog = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self, events: int) -> None:
        """Read what is there, and write what had to wait."""
        if events & ~select.EPOLLOUT:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                data = None
            except OSError as error:
                self.broke(f"the connection broke: {error.strerror}")
                return
            if data is not None:
                self._received(data)
        if events & select.EPOLLOUT and self._backlog and not self.closed:
            backlog, self._backlog = self._backlog, b""
            self._wires.watch(self, writable=False)
            self.write(backlog)

    def _received(self, data: bytes) -> None:
        now = trio.current_time()
        try:
            if data:
                self.codec.receive(data, now)
            else:
                self.close()
                self.codec.receive_eof(now)
        except (BadResponse, ConnectionFailed) as error:
            self.broke(str(error))
            return
        self._wires.receive_seconds += trio.current_time() - now
        if self.codec.out:
            self.touch()

    def write(self, data: Buffer) -> None:
        if self.closed:
            return
        if self._backlog:
            self._backlog += data
            return
        try:
            count = self._socket.send(data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self.broke(f"the connection broke: {error.strerror}")
            return
        if count < len(data):
            self._backlog = bytes(memoryview(data)[count:])
            self._wires.watch(self, writable=True)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._wires.forget(self)
            self._socket.close()


class StreamWire(Wire):
    """Any trio stream, with two tasks of its own."""

    __slots__ = ("_backlog", "_lot", "_scope", "_stream")

    def __init__(self, wires: Wires, codec: Codec, stream: trio.abc.Stream) -> None:
        super().__init__(wires, codec)
        self._stream = stream
        self._backlog = bytearray()
        self._lot = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Carry bytes until the connection ends."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_all)
                    await self._read_all()
                    nursery.cancel_scope.cancel()
        finally:
            self.closed = True
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(self._stream)

    async def _read_all(self) -> None:
        while True:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                now = trio.current_time()
                if not data:
                    self.close()
                    self.codec.receive_eof(now)
                    return
                self.codec.receive(bytes(data), now)
            except (BadResponse, ConnectionFailed, trio.BrokenResourceError) as error:
                self.broke(str(error) or "the connection broke")
                return
            self._wires.receive_seconds += trio.current_time() - now
            if self.codec.out:
                self.touch()
            self._wires.flush()

    async def _write_all(self) -> None:
        while True:
            while not self._backlog:
                await self._lot.park()
            data, self._backlog = self._backlog, bytearray()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.broke("the connection broke")
                return

    def write(self, data: Buffer) -> None:
        self._backlog += data
        self._lot.unpark()

    def close(self) -> None:
        self.closed = True
        self._scope.cancel()


class Wires:
    """All connections of a run. `run` must be running while any of them is used."""

    def __init__(self) -> None:
        self.dirty: list[Wire] = []
        self.sent = 0  # requests handed to transports
        self.send_seconds = 0.0  # spent in handing them over
        self.receive_seconds = 0.0  # spent in taking responses
        self._epoll = select.epoll()
        self._sockets: dict[int, SocketWire] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry bytes until cancelled; then close every connection."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._turn()
        finally:
            for wire in list(self._sockets.values()):
                wire.close()
            self._epoll.close()

    async def _turn(self) -> None:
        epoll = self._epoll
        sockets = self._sockets
        while True:
            await trio.lowlevel.wait_readable(epoll)
            for _ in range(MAX_ROUNDS):
                events = epoll.poll(0, MAX_EVENTS)
                if not events:
                    break
                for fd, what in events:
                    wire = sockets.get(fd)
                    if wire is not None:
                        wire.ready(what)
                        if self.dirty:
                            self.flush()

    def flush(self) -> None:
        """Write to every connection that was touched."""
        while self.dirty:
            self.dirty.pop().flush()

    def attach(self, stream: trio.abc.Stream, codec: Codec) -> Wire:
        """Let `codec` speak through `stream`, which belongs to the wire from now on."""
        assert self._nursery is not None, "start `run` first"
        if isinstance(stream, trio.SocketStream):
            plain = socket.socket(fileno=stream.socket.detach())
            plain.setblocking(False)
            wire = SocketWire(self, codec, plain)
            self._sockets[wire.fileno()] = wire
            self._epoll.register(wire.fileno(), select.EPOLLIN)
            attached: Wire = wire
        else:
            other = StreamWire(self, codec, stream)
            self._nursery.start_soon(other.run)
            attached = other
        attached.touch()
        self.flush()
        return attached

    def watch(self, wire: SocketWire, *, writable: bool) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if writable else 0)
        self._epoll.modify(wire.fileno(), events)

    def forget(self, wire: SocketWire) -> None:
        """The wire is about to close its socket."""
        self._sockets.pop(wire.fileno(), None)
        self._epoll.unregister(wire.fileno())
