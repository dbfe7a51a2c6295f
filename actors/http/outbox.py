"""What an HTTP connection has said and its peer has not taken yet.

Owns the buffers, in order, and the instant by which the peer must have taken the next of them: a
peer that stalls would pin its responses in memory for ever. It never encodes anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from actors.ports.sockets import Buffer, send_nowait

# Up to here several buffers are joined for one system call.
JOINED_BYTES: Final = 1 << 16
# A peer must take this much within the time-out, 4 KiB/s, or it loses its connection.
SEND_SLICE_BYTES: Final = 1 << 18
SEND_TIMEOUT_SECONDS: Final = 60.0


class Outbox:
    """One connection's outgoing bytes: put in with `say`, and sent with `flush` by one task.

    Whoever puts in what is small may try `flush_nowait`, which leaves to `flush` what it cannot do.
    """

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._buffers: Sequence[Buffer] = []
        self._flushing = False
        self.unsent_bytes = 0  # put in, and not yet with the operating system
        self.deadline = math.inf  # when the peer has stalled for too long

    def __bool__(self) -> bool:
        """Whether anything has been said since the last `flush` began."""
        return bool(self._buffers)

    def say(self, parts: Sequence[Buffer]) -> None:
        self._buffers = [*self._buffers, *parts] if self._buffers else parts
        for part in parts:
            self.unsent_bytes += len(part)

    def flush_nowait(self) -> None:
        """Send what the peer takes at once. Raises as the stream does."""
        if self._buffers and not self._flushing:
            self._buffers = rest = send_nowait(self._stream, self._buffers)
            self.unsent_bytes = sum(map(len, rest)) if rest else 0

    async def flush(self) -> None:
        """Send what is in there now. Raises as the stream does."""
        self._flushing = True
        buffers, self._buffers = self._buffers, ()
        size = self.unsent_bytes
        if len(buffers) > 1 and size <= JOINED_BYTES:
            buffers = [b"".join(buffers)]
        for buffer in buffers:
            if len(buffer) <= SEND_SLICE_BYTES:
                await self._send(buffer)
            else:
                view = memoryview(buffer)
                for start in range(0, len(view), SEND_SLICE_BYTES):
                    await self._send(view[start : start + SEND_SLICE_BYTES])
        self.unsent_bytes -= size
        self.deadline = math.inf
        self._flushing = False

    async def _send(self, data: Buffer) -> None:
        self.deadline = trio.current_time() + SEND_TIMEOUT_SECONDS
        await self._stream.send_all(data)
