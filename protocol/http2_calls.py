"""The state of one h2 stream, which here is one call.

Owns `CallState` and its two halves that most unary calls never need: `Inbox`, a message that
arrives in pieces, and `Outbox`, output that waits for the peer's window. It never decides.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from protocol.http2_events import MessageBytes
from protocol.http2_heads import RequestHead
from protocol.http2_responses import Headers

# A message that comes in pieces is put together so that its end is aligned to this, and with it the
# tensor that it ends in, which numpy then need not copy again.
ALIGNMENT: Final = 64


class Inbox:
    """Where the pieces of one message are put together.

    `missing` of the `size` bytes of the message in progress are still to come, at the end of
    `body`; with 0 missing, `prefix` holds the up to four octets seen of the next message's prefix.
    `first` is a whole message of a unary path, kept back until the client half-closes. `mark` is
    what the last stall sweep found missing, -1 if this message had not begun.
    """

    __slots__ = (
        "body", "compressed", "first", "first_compressed", "mark", "missing", "prefix", "size",
    )  # fmt: skip

    def __init__(self) -> None:
        self.prefix = b""
        self.body: bytearray | memoryview | None = None
        self.size = 0
        self.missing = 0
        self.mark = -1
        self.compressed = False
        self.first: MessageBytes | None = None
        self.first_compressed = False

    def begin(self, compressed: bool, nbytes: int, believed_bytes: int) -> None:
        """A message of so many bytes comes in pieces.

        Room is made for all of it if that is no more than `believed_bytes`: a peer may claim any
        length. What is longer grows with what has come.
        """
        self.compressed = compressed
        self.size = self.missing = nbytes
        padding = -nbytes % ALIGNMENT
        if nbytes <= believed_bytes:
            # Not zeroed, so that a page costs nothing until bytes come for it.
            self.body = np.empty(padding + nbytes, np.uint8).data
        else:
            self.body = bytearray(padding)

    def put(self, piece: memoryview) -> None:
        """The next bytes of the message, no more than are missing."""
        body = self.body
        nbytes = len(piece)
        if body.__class__ is bytearray:
            body += piece
        else:
            assert body is not None, "a message has begun"
            at = len(body) - self.missing
            body[at : at + nbytes] = piece
        self.missing -= nbytes

    def take(self) -> memoryview:
        """The message, which is whole."""
        assert self.body is not None, "a message has begun"
        message = memoryview(self.body)[-self.size :]
        self.body = None
        return message


class Outbox:
    """Message bytes that wait for the window, and how the call ends after them."""

    __slots__ = ("ending", "is_complete", "is_marked", "is_queued", "nbytes", "pieces")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.nbytes = 0
        self.is_queued = False
        # The frontend has said everything: (status, message, headers) of the trailers follow, or,
        # without those, END_STREAM alone.
        self.is_complete = False
        self.ending: tuple[int, str, Headers] | None = None
        # Whether a stall sweep has passed since anything of this was framed.
        self.is_marked = False


class CallState:
    """One call between its HEADERS and its end.

    `recv_window` is what the client may still send, `credit` what may be given back to it,
    `held` what was delivered and not yet acknowledged. `body_left` counts down the request's
    content-length, -1 without one.
    """

    __slots__ = (
        "body_left",
        "credit",
        "head",
        "held",
        "inbox",
        "is_announced",
        "outbox",
        "recv_window",
        "remote_closed",
        "response_begun",
        "send_window",
        "stream_id",
    )

    def __init__(
        self, stream_id: int, head: RequestHead, send_window: int, recv_window: int
    ) -> None:
        self.stream_id = stream_id
        self.head = head
        self.send_window = send_window
        self.recv_window = recv_window
        self.credit = 0
        self.held = 0
        self.body_left = head.content_length
        self.remote_closed = False
        self.response_begun = False
        self.is_announced = False
        self.inbox: Inbox | None = None
        self.outbox: Outbox | None = None

    @property
    def is_answered(self) -> bool:
        """The frontend is done with this call; only the window holds the answer up."""
        return self.outbox is not None and self.outbox.is_complete
