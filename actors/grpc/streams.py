"""Calls as generated services see them: grpclib's `Stream`, over this server's own transport.

Owns the messages of one call between its connection and the service method that serves it, and
`Wire`, a streaming call's side of its connection. Messages that wait to be read are bounded by the
call's window: their bytes are acknowledged when they are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import betterproto
import trio

from protocol.grpc_compression import IDENTITY, CompressionLevel, compress, decompress
from protocol.grpc_service import Route
from protocol.http2 import Http2Connection
from protocol.http2_events import MessageBytes, OutgoingMessage

Wake = Callable[[], None]


def packed(
    message: list[bytes | memoryview], encoding: str, level: CompressionLevel
) -> tuple[OutgoingMessage, bool]:
    """A message compressed, and whether it is: what does not get smaller goes out as it is."""
    smaller = compress(message, encoding, level)
    return (smaller, True) if len(smaller) < sum(map(len, message)) else (message, False)


class UnaryStream:
    """A call with one request, already here, and one reply, kept until the method returns."""

    __slots__ = ("_request", "reply")

    def __init__(self, request: betterproto.Message) -> None:
        self._request: betterproto.Message | None = request
        self.reply: betterproto.Message | None = None

    async def recv_message(self) -> betterproto.Message | None:
        request, self._request = self._request, None
        return request

    async def send_message(self, message: betterproto.Message) -> None:
        self.reply = message

    async def __aiter__(self) -> AsyncIterator[betterproto.Message]:
        request = await self.recv_message()
        if request is not None:
            yield request


class StreamCall(Protocol):
    """A streaming call as its connection drives it. All but `run` return at once."""

    def receive(self, message: MessageBytes, *, compressed: bool) -> None:
        """The client sent a message; it is acknowledged through the wire once accepted."""

    def half_close(self) -> None:
        """The client sends no more."""

    def ring(self) -> None:
        """There is room for output again."""

    def drain(self) -> None:
        """The server stops: finish what is under way, and end."""

    async def run(self) -> None:
        """Serve to the end; cancelled when the call is over before that.

        Raises ServerError or GRPCError for a call that ends with a status of its own.
        """


class Wire:
    """What a streaming call may do to its connection."""

    def __init__(
        self,
        http2: Http2Connection,
        stream_id: int,
        *,
        encoding: str,
        level: CompressionLevel,
        wake: Wake,
        stopped: dict[int, None],
    ) -> None:
        """`wake` makes the connection write; `stopped` holds the calls to ring for room."""
        self._http2 = http2
        self._stream_id = stream_id
        self._encoding = encoding
        self._level = level
        self._wake = wake
        self._stopped = stopped

    def open(self) -> None:
        """Send the response's head."""
        headers = () if self._encoding == IDENTITY else (("grpc-encoding", self._encoding),)
        self._http2.send_response_headers(self._stream_id, headers)
        self._wake()

    def send(self, message: list[bytes | memoryview]) -> None:
        """Send one message; ask `is_writable` before producing the next."""
        if self._encoding == IDENTITY:
            self._http2.send_message(self._stream_id, message)
        else:
            smaller, is_packed = packed(message, self._encoding, self._level)
            self._http2.send_message(self._stream_id, smaller, compressed=is_packed)
        self._wake()

    def is_writable(self) -> bool:
        """Whether the client keeps up. If not, the call is rung when it has."""
        if self._http2.writable(self._stream_id):
            return True
        self._stopped[self._stream_id] = None
        return False

    def acknowledge(self, nbytes: int) -> None:
        """A message of so many bytes was accepted: the client may send as much again."""
        self._http2.acknowledge(self._stream_id, nbytes)
        if self._http2.has_output:
            self._wake()


class MessageStream:
    """A streaming call of typed messages, run by a method of a generated service."""

    def __init__(self, route: Route, wire: Wire, *, encoding: str, max_message_bytes: int) -> None:
        self._route = route
        self._wire = wire
        self._encoding = encoding
        self._max_message_bytes = max_message_bytes
        self._inbox: deque[tuple[MessageBytes, bool]] = deque()  # bounded by the call's window
        self._half_closed = False
        self._changed = trio.Event()

    # --- for its connection ------------------------------------------------------------------

    def receive(self, message: MessageBytes, *, compressed: bool) -> None:
        self._inbox.append((message, compressed))
        self.ring()

    def half_close(self) -> None:
        self._half_closed = True
        self.ring()

    def ring(self) -> None:
        self._changed.set()

    def drain(self) -> None:
        """Like a half-close: the method ends its call when there is nothing more to read."""
        self.half_close()

    async def run(self) -> None:
        self._wire.open()
        await self._route.func(self)

    # --- for the method ----------------------------------------------------------------------

    async def recv_message(self) -> betterproto.Message | None:
        while not self._inbox:
            if self._half_closed:
                return None
            await self._change()
        message, compressed = self._inbox.popleft()
        self._wire.acknowledge(len(message))
        if compressed:
            message = decompress(message, self._encoding, self._max_message_bytes)
        return self._route.decode(message)

    async def send_message(self, message: betterproto.Message) -> None:
        while not self._wire.is_writable():
            await self._change()
        self._wire.send([self._route.encode(message)])

    async def __aiter__(self) -> AsyncIterator[betterproto.Message]:
        while (message := await self.recv_message()) is not None:
            yield message

    async def _change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()
