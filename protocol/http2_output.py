"""The sending half of an HTTP/2 connection: replies become frames, within the peer's windows.

Owns the calls, the output buffers, the queues of what waits for a window, and the credit that is
given back to the client for what it sent. It never reads frames and never looks at a clock.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from protocol.http2_budget import (
    EARNED_BY_CALL,
    EARNED_BY_FRAME_SENT,
    EARNED_BY_MESSAGE,
    Budget,
)
from protocol.http2_calls import CallState, Outbox
from protocol.http2_events import Event, MessageBytes
from protocol.http2_limits import Http2Limits
from protocol.http2_responses import Headers, ResponseBlocks
from protocol.http2_wire import (
    CONTINUATION,
    DATA,
    DATA_AND_PREFIX,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    MIN_FRAME_BYTES,
    PREFIX,
    PREFIX_BYTES,
    ErrorCode,
    ping_frame,
    rst_stream_frame,
    window_update_frame,
)

# Below this a message is copied next to its frame header: one buffer costs less than three.
COPY_BYTES: Final = 16_384
# No DATA frame is longer, so that calls take turns even if the peer allows 16 MiB.
MAX_TURN_BYTES: Final = 65_536
# Calls that were reset are remembered twice this long at most: frames that were under way when
# the reset was sent are no offence.
REMEMBERED_RESETS: Final = 2_048


class OutputHalf:
    """See Http2Connection for the rules of use."""

    def __init__(self, limits: Http2Limits) -> None:
        self.limits = limits
        self._calls: dict[int, CallState] = {}
        self._events: list[Event] = []
        self._budget = Budget(limits.budget_tokens, limits.budget_tokens_per_second)
        self._is_closed = False
        self._last_stream_id = 0

        self._out: list[bytes | memoryview] = []
        self._out_has_views = False
        self._framed_bytes = 0
        self._unread_control = 0
        self._sent_since_ping = False
        self._ready: deque[CallState] = deque()
        self._send_window = DEFAULT_WINDOW
        self._peer_initial_window = DEFAULT_WINDOW
        self._peer_frame_bytes = MIN_FRAME_BYTES
        self._turn_bytes = MIN_FRAME_BYTES
        self._blocks = ResponseBlocks()
        # Packs all of a plain unary reply but the message; None until the blocks are settled.
        self._pack_reply: Callable[..., bytes] | None = None
        self._reply_head = b""
        self._reply_tail = b""

        self._recv_window = limits.connection_window_bytes
        self._credit = 0
        self._held_bytes = 0
        self._now = 0.0
        # When to look for calls that the peer's window has stopped: http2.py.
        self._sweep_at = math.inf
        self._grant_bytes = limits.connection_window_bytes // 4
        self._resets: dict[int, bool] = {}  # stream id -> was it the peer that reset it
        self._old_resets: dict[int, bool] = {}
        self._forgotten_id = 0  # resets up to this stream id may have been forgotten

    # ---- replies -------------------------------------------------------------------------------

    def send_unary_reply(
        self, stream_id: int, message: MessageBytes, *, compressed: bool = False
    ) -> bool:
        """Head, message and `grpc-status: 0` at once. False if the call is over already.

        `message` must be bytes-like with items of one octet; it is kept by reference if large.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        nbytes = len(message) + PREFIX_BYTES
        pack = self._pack_reply
        if (
            pack is None
            or nbytes > COPY_BYTES
            or nbytes > self._send_window
            or nbytes > call.send_window
            or call.response_begun
            or self._ready
            or self._framed_bytes >= self.limits.output_bytes
        ):
            if not call.response_begun:
                self.send_response_headers(stream_id)
            self.send_message(stream_id, message, compressed=compressed)
            self.send_trailers(stream_id, 0)
            return True
        head = self._reply_head
        tail = self._reply_tail
        front = pack(
            len(head) << 8 | HEADERS,
            END_HEADERS,
            stream_id,
            head,
            nbytes << 8,
            0,
            stream_id,
            compressed,
            nbytes - PREFIX_BYTES,
        )
        back = FRAME.pack(len(tail) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id)
        self._out.append(b"".join((front, message, back, tail)))
        self._framed_bytes += nbytes
        self._send_window -= nbytes
        self._sent_since_ping = True
        self._end(call)
        return True

    def send_response_headers(self, stream_id: int, headers: Headers = ()) -> bool:
        """The head of a gRPC response. Names lower-case, values latin-1 without controls."""
        call = self._calls.get(stream_id)
        if call is None or call.response_begun:
            return False
        call.response_begun = True
        self._write_block(stream_id, 0, self._blocks.head(headers))
        return True

    def send_message(
        self, stream_id: int, message: MessageBytes, *, compressed: bool = False
    ) -> bool:
        """One message of a response whose head was sent; large ones are kept by reference.

        Never refuses for want of room: look at `writable` before producing the next one.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        assert call.response_begun, "the head goes before the first message"
        nbytes = len(message) + PREFIX_BYTES
        outbox = call.outbox
        if (
            outbox is None
            and nbytes <= COPY_BYTES
            and nbytes <= self._send_window
            and nbytes <= call.send_window
            and not self._ready
            and self._framed_bytes < self.limits.output_bytes
        ):
            front = DATA_AND_PREFIX.pack(
                nbytes << 8 | DATA, 0, stream_id, compressed, nbytes - PREFIX_BYTES
            )
            self._out.append(front + message)
            self._framed_bytes += nbytes
            self._send_window -= nbytes
            call.send_window -= nbytes
            self._sent_since_ping = True
            self._budget.tokens += EARNED_BY_FRAME_SENT
            return True
        prefix = PREFIX.pack(compressed, nbytes - PREFIX_BYTES)
        if nbytes <= COPY_BYTES:
            self._queue(call, (prefix + message,))
        else:
            self._queue(call, (prefix, message))
        return True

    def send_trailers(
        self, stream_id: int, status: int, message: str = "", headers: Headers = ()
    ) -> bool:
        """End a call with a gRPC status; `message` is percent-encoded by the caller.

        Without a head before it this is the whole answer. The call is over once everything that
        waits before the trailers has been framed; nothing more may be sent on it.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        if call.outbox is not None:
            call.outbox.ending = (status, message, headers)
            return True
        self._write_trailers(call, status, message, headers)
        return True

    def send_http_response(
        self, stream_id: int, status: int, headers: Headers = (), body: bytes = b""
    ) -> bool:
        """The whole answer to an HttpRequest."""
        call = self._calls.get(stream_id)
        if call is None or call.response_begun:
            return False
        call.response_begun = True
        block = self._blocks.http(status, headers)
        if not body:
            self._write_block(stream_id, END_STREAM, block)
            self._end(call)
            return True
        self._write_block(stream_id, 0, block)
        self._queue(call, (body,)).plain_end = True
        return True

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> bool:
        """End a call at once, dropping what waits. The frontend gets no event for it."""
        call = self._calls.get(stream_id)
        if call is None:
            return False
        self._drop(call, by_peer=False)
        self._control(rst_stream_frame(stream_id, error_code))
        return True

    def ping(self, opaque: bytes) -> None:
        """Ask for a sign of life; `opaque` is eight octets of the frontend's choice."""
        assert len(opaque) == 8, "a ping carries eight octets"
        if not self._is_closed:
            self._control(ping_frame(opaque, ack=False))

    # ---- credit --------------------------------------------------------------------------------

    def acknowledge(self, stream_id: int, message_bytes: int) -> None:
        """One message of so many bytes was accepted: its share of the windows is given back.

        What was never acknowledged is given back when the call ends.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return
        nbytes = min(message_bytes + PREFIX_BYTES, call.held)
        call.held -= nbytes
        self._held_bytes -= nbytes
        self._credit += nbytes
        self._budget.tokens += EARNED_BY_MESSAGE
        if not call.remote_closed:
            call.credit += nbytes
            self._grant_call(call)
        if self._credit >= self._grant_bytes:
            self._grant()

    def _grant(self) -> None:
        self._out.append(window_update_frame(0, self._credit))
        self._recv_window += self._credit
        self._credit = 0

    def _grant_call(self, call: CallState) -> None:
        if call.credit * 2 >= self.limits.stream_window_bytes:
            self._out.append(window_update_frame(call.stream_id, call.credit))
            call.recv_window += call.credit
            call.credit = 0

    # ---- output --------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """True if `take_output` would return something now."""
        return bool(self._out) or (bool(self._ready) and self._send_window > 0)

    def take_output(self) -> list[bytes | memoryview]:
        """What to write next, in order; call it again once that is written.

        At most about `output_bytes` of messages: what is beyond waits in the calls' queues.
        Small buffers come joined, large messages by reference.
        """
        if self._ready:
            self._pump()
        out = self._out
        if not out:
            return out
        self._out = []
        self._framed_bytes = 0
        self._unread_control = 0
        if not self._out_has_views:
            return out if len(out) == 1 else [b"".join(out)]
        self._out_has_views = False
        joined: list[bytes | memoryview] = []
        small: list[bytes | memoryview] = []
        for buffer in out:
            if len(buffer) < COPY_BYTES:
                small.append(buffer)
                continue
            if small:
                joined.append(b"".join(small))
                small.clear()
            joined.append(buffer)
        if small:
            joined.append(b"".join(small))
        return joined

    def pending_bytes(self, stream_id: int) -> int:
        """Message bytes of this call that are not framed yet; 0 if it is over."""
        call = self._calls.get(stream_id)
        return 0 if call is None or call.outbox is None else call.outbox.nbytes

    def writable(self, stream_id: int) -> bool:
        """Whether the frontend should produce another message of this call now."""
        call = self._calls.get(stream_id)
        if call is None:
            return False
        return call.outbox is None or call.outbox.nbytes < self.limits.pending_bytes

    def _queue(self, call: CallState, pieces: tuple[MessageBytes, ...]) -> Outbox:
        outbox = call.outbox
        if outbox is None:
            outbox = call.outbox = Outbox()
            self._sweep_at = min(self._sweep_at, self._now + self.limits.stall_timeout_seconds)
        for piece in pieces:
            outbox.pieces.append(memoryview(piece))
            outbox.nbytes += len(piece)
        self._enqueue(call, outbox)
        return outbox

    def _enqueue(self, call: CallState, outbox: Outbox) -> None:
        if not outbox.is_queued and call.send_window > 0:
            outbox.is_queued = True
            self._ready.append(call)

    def _pump(self) -> None:
        """Let the calls that may send take turns of one frame each."""
        ready = self._ready
        while ready and self._send_window > 0 and self._framed_bytes < self.limits.output_bytes:
            call = ready.popleft()
            outbox = call.outbox
            if outbox is None or self._calls.get(call.stream_id) is not call:
                continue
            outbox.is_queued = False
            nbytes = min(outbox.nbytes, call.send_window, self._send_window, self._turn_bytes)
            if nbytes <= 0:
                continue  # a SETTINGS frame took its window; WINDOW_UPDATE queues it again
            self._frame(call.stream_id, outbox, nbytes)
            call.send_window -= nbytes
            if outbox.nbytes:
                self._enqueue(call, outbox)
                continue
            call.outbox = None
            if outbox.ending is not None:
                self._write_trailers(call, *outbox.ending)
            elif outbox.plain_end:
                self._out.append(FRAME.pack(DATA, END_STREAM, call.stream_id))
                self._end(call)

    def _frame(self, stream_id: int, outbox: Outbox, nbytes: int) -> None:
        out = self._out
        out.append(FRAME.pack(nbytes << 8 | DATA, 0, stream_id))
        pieces = outbox.pieces
        left = nbytes
        while left:
            piece = pieces.popleft()
            if len(piece) > left:
                pieces.appendleft(piece[left:])
                piece = piece[:left]
            out.append(piece)
            left -= len(piece)
        outbox.nbytes -= nbytes
        outbox.is_marked = False
        self._out_has_views = True
        self._framed_bytes += nbytes
        self._send_window -= nbytes
        self._sent_since_ping = True
        self._budget.tokens += EARNED_BY_FRAME_SENT

    def _write_trailers(self, call: CallState, status: int, message: str, headers: Headers) -> None:
        blocks = self._blocks
        if call.response_begun:
            block = blocks.trailers(status, message, headers)
        else:
            block = blocks.only_trailers(status, message, headers)
        self._write_block(call.stream_id, END_STREAM, block)
        self._end(call)
        if self._pack_reply is None and blocks.is_settled:
            self._reply_head = blocks.head()
            self._reply_tail = blocks.trailers(0)
            self._pack_reply = struct.Struct(f">IBI{len(self._reply_head)}sIBIBI").pack

    def _write_block(self, stream_id: int, flags: int, block: bytes) -> None:
        first = block[: self._peer_frame_bytes]
        rest = block[len(first) :]
        flags |= 0 if rest else END_HEADERS
        out = self._out
        out.append(FRAME.pack(len(first) << 8 | HEADERS, flags, stream_id) + first)
        while rest:
            part = rest[: self._peer_frame_bytes]
            rest = rest[len(part) :]
            flags = 0 if rest else END_HEADERS
            out.append(FRAME.pack(len(part) << 8 | CONTINUATION, flags, stream_id) + part)
        self._sent_since_ping = True

    def _set_peer_frame_bytes(self, nbytes: int) -> None:
        self._peer_frame_bytes = nbytes
        self._turn_bytes = min(nbytes, MAX_TURN_BYTES)

    def _set_peer_table_limit(self, limit: int) -> None:
        self._blocks.set_table_limit(limit)
        if not self._blocks.is_settled:
            self._pack_reply = None

    def _control(self, octets: bytes) -> None:
        self._unread_control += 1
        self._out.append(octets)

    # ---- the end of a call ---------------------------------------------------------------------

    def _end(self, call: CallState) -> None:
        """The answer is complete."""
        self._budget.tokens += EARNED_BY_CALL
        if not call.remote_closed:
            # The client need not send the rest (RFC 9113, 8.1).
            self._drop(call, by_peer=False)
            self._control(rst_stream_frame(call.stream_id, ErrorCode.NO_ERROR))
            return
        del self._calls[call.stream_id]
        if call.held or call.inbox is not None:
            self._release(call)

    def _drop(self, call: CallState, *, by_peer: bool) -> None:
        """The call ends before it is complete; frames of it may still be under way."""
        del self._calls[call.stream_id]
        call.outbox = None
        call.remote_closed = True
        self._remember_reset(call.stream_id, by_peer=by_peer)
        self._release(call)

    def _remember_reset(self, stream_id: int, *, by_peer: bool) -> None:
        if len(self._resets) >= REMEMBERED_RESETS:
            if self._old_resets:
                self._forgotten_id = max(self._forgotten_id, *self._old_resets)
            self._old_resets = self._resets
            self._resets = {}
        self._resets[stream_id] = by_peer

    def _release(self, call: CallState) -> None:
        self._credit += call.held
        self._held_bytes -= call.held
        call.held = 0
        call.inbox = None
        if self._credit >= self._grant_bytes:
            self._grant()
