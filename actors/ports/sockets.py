"""Accepted sockets as streams that take no more turns of the event loop than they need.

trio's own `SocketStream` tries first, waits if it must, and gives way to others in any case: a read
is two system calls, and every read and write costs a turn. A server's reader has nearly always to
wait, and its writer hardly ever, so here a read waits first and a write that the kernel takes at
once returns at once. Owns how much is read at a time and how much is written between two turns. It
never decides what is said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from actors.policy.reading import MOST_REQUESTS

Buffer = bytes | bytearray | memoryview

# A read asks for this much at first, for twice as much when it got all that it had asked for, up to
# the second, and for an eighth less when it got less than a quarter: a message of some hundred
# kilobytes comes in a few reads even where each ends in a short one.
FIRST_READ_BYTES: Final = 1 << 16
MAX_READ_BYTES: Final = 1 << 20
LEAST_READ_BYTES: Final = 1 << 12
MESSAGES_PER_READ: Final = MOST_REQUESTS  # a turn's worth
# A peer that takes everything at once lets other tasks have a turn after this much.
TURN_BYTES: Final = 1 << 20
# What the kernel may hold unsent before the socket stops being writable. trio's 16 KiB would cut a
# tensor of 600 kB into forty writes, each with a turn; this is what a peer that does not read can
# pin, once per connection.
UNSENT_BYTES: Final = 1 << 20
# Up to here buffers are joined where they cannot be sent together: copying costs less than sending.
JOINED_BYTES: Final = 1 << 16
# The most that one system call takes (IOV_MAX of Linux).
MAX_PARTS: Final = 1024


class PeerStream(trio.abc.HalfCloseableStream):
    """One accepted connection, as a stream. One task may read it while another one writes.

    `send_all` and `send_parts` are checkpoints only when they have to wait, or every TURN_BYTES.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.descriptor = stream.socket.fileno()
        """The socket's file descriptor; below zero once it has been closed."""

        self._read_bytes = FIRST_READ_BYTES
        self._unyielded = 0  # bytes written since the last turn that others had
        with contextlib.suppress(OSError):  # not every kind of socket knows it
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, `max_bytes` at most; b"" once the peer has said its last."""
        limit = self._read_bytes if max_bytes is None else max_bytes
        while True:
            await self._wait(trio.lowlevel.wait_readable)
            try:
                data = self.read_nowait(limit)
            except trio.WouldBlock:
                continue  # woken for nothing
            if max_bytes is None:
                self._read_bytes = next_read_bytes(limit, len(data))
            return data

    def read_nowait(self, max_bytes: int) -> bytes:
        """What is here already, b"" after the peer's last. Raises `trio.WouldBlock` for nothing."""
        try:
            return os.read(self.descriptor, max_bytes)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            raise self._failure(error) from error

    def send_nowait(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send what the kernel takes at once; the rest, if any, is for `send_parts`.

        How much is sent before others have a turn is the caller's business.
        """
        try:
            if len(parts) == 1:
                sent = os.write(self.descriptor, parts[0])
                if sent == len(parts[0]):
                    return ()
            else:
                sent = os.writev(self.descriptor, parts[:MAX_PARTS])
        except BlockingIOError:
            return parts
        except OSError as error:
            raise self._failure(error) from error
        return _rest(parts, sent)

    async def send_all(self, data: Buffer) -> None:
        await self.send_parts((data,))

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Send several buffers, one after the other, in as few system calls as will do."""
        while parts:
            self._unyielded += sum(map(len, parts[:MAX_PARTS]))
            parts = self.send_nowait(parts)
            if parts:
                await self._wait(trio.lowlevel.wait_writable)
                self._unyielded = 0
            elif self._unyielded > TURN_BYTES:
                await trio.lowlevel.checkpoint()
                self._unyielded = 0

    async def wait_send_all_might_not_block(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self.descriptor = -1  # before it may be somebody else's
        await self._stream.aclose()

    async def _wait(self, ready: Callable[[int], Awaitable[None]]) -> None:
        if self.descriptor < 0:
            raise trio.ClosedResourceError("the socket was closed")
        await ready(self.descriptor)

    def _failure(self, error: OSError) -> Exception:
        if self.descriptor < 0:
            return trio.ClosedResourceError("the socket was closed")
        return trio.BrokenResourceError(f"socket connection broken: {error}")


async def send_parts(stream: trio.abc.SendStream, parts: Sequence[Buffer]) -> None:
    """Send several buffers over any stream; over a socket that is one system call."""
    if isinstance(stream, PeerStream):
        await stream.send_parts(parts)
        return
    if len(parts) > 1 and sum(map(len, parts)) <= JOINED_BYTES:
        parts = (b"".join(parts),)  # over TLS each would be a record, and a system call
    for part in parts:
        await stream.send_all(part)


def next_read_bytes(asked: int, got: int, messages: int = 0) -> int:
    """How much to ask for after a read that asked for so much and got so much.

    Large messages come in large reads; small ones few at a time, so that everybody has turns.
    """
    if messages > MESSAGES_PER_READ:
        return max(asked * MESSAGES_PER_READ // messages, LEAST_READ_BYTES)
    if got == asked:
        return min(2 * asked, MAX_READ_BYTES)
    return max(asked - asked // 8, FIRST_READ_BYTES) if 4 * got < asked else asked


def send_nowait(stream: trio.abc.SendStream, parts: Sequence[Buffer]) -> Sequence[Buffer]:
    """Send what can be sent without waiting, over a socket; the result is the rest."""
    return stream.send_nowait(parts) if isinstance(stream, PeerStream) else parts


def _rest(parts: Sequence[Buffer], sent: int) -> Sequence[Buffer]:
    """What is left to be sent when so many bytes have gone."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:] if sent else part, *parts[index + 1 :]]
        sent -= len(part)
    return ()
