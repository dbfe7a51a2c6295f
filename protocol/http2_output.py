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
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    MIN_FRAME_BYTES,
    PREFIX_BYTES,
    ErrorCode,
    rst_stream_frame,
    window_update_frame,
)

# Below this a message is copied next to its frame header: one buffer costs less than three.
COPY_BYTES: Final = 16_384
# While calls take turns no DATA frame is longer, even if the peer allows 16 MiB.
MAX_TURN_BYTES: Final = 262_144
# A call's queue is not `writable` beyond this many pieces: tiny ones cost more than their bytes.
PENDING_PIECES: Final = 1_024
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
        self._queued_bytes = 0
        self._queued_calls = 0
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
        # When to look for calls that do not move on: http2.py.
        self._sweep_at = math.inf
        self._grant_bytes = limits.connection_window_bytes // 4
        self._resets: dict[int, bool] = {}  # stream id -> was it the peer that reset it
        self._old_resets: dict[int, bool] = {}
        self._forgotten_id = 0  # resets up to this stream id may have been forgotten

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
            return []
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
                joined.append(small[0] if len(small) == 1 else b"".join(small))
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
        outbox = call.outbox
        return outbox is None or (
            outbox.nbytes < self.limits.pending_bytes and len(outbox.pieces) < PENDING_PIECES
        )

    def _queue(self, call: CallState, pieces: tuple[MessageBytes, ...]) -> Outbox:
        outbox = call.outbox
        if outbox is None:
            outbox = call.outbox = Outbox()
            self._queued_calls += 1
            self._watch_for_stalls()
        for piece in pieces:
            outbox.pieces.append(memoryview(piece))
            outbox.nbytes += len(piece)
            self._queued_bytes += len(piece)
        self._enqueue(call, outbox)
        return outbox

    def _watch_for_stalls(self) -> None:
        if self._sweep_at == math.inf:
            self._sweep_at = self._now + self.limits.stall_timeout_seconds

    def _enqueue(self, call: CallState, outbox: Outbox) -> None:
        if not outbox.is_queued and call.send_window > 0:
            outbox.is_queued = True
            self._ready.append(call)

    def _pump(self) -> None:
        """Let the calls that may send take turns of one frame each; one alone needs no turns."""
        ready = self._ready
        output_bytes = self.limits.output_bytes
        while ready and self._send_window > 0 and self._framed_bytes < output_bytes:
            call = ready.popleft()
            outbox = call.outbox
            if outbox is None or self._calls.get(call.stream_id) is not call:
                continue
            outbox.is_queued = False
            turn_bytes = self._turn_bytes
            if not ready:
                turn_bytes = max(turn_bytes, output_bytes - self._framed_bytes)
            nbytes = min(outbox.nbytes, call.send_window, self._send_window, turn_bytes)
            if nbytes <= 0:
                continue  # a SETTINGS frame took its window; WINDOW_UPDATE queues it again
            self._frame(call.stream_id, outbox, nbytes)
            call.send_window -= nbytes
            if outbox.nbytes:
                self._enqueue(call, outbox)
                continue
            self._discard_outbox(call)
            if outbox.ending is not None:
                self._write_trailers(call, *outbox.ending)
            elif outbox.is_complete:
                self._out.append(FRAME.pack(DATA, END_STREAM, call.stream_id))
                self._end(call)

    def _frame(self, stream_id: int, outbox: Outbox, nbytes: int) -> None:
        """The next bytes of a call's messages, in DATA frames as long as the peer takes them."""
        pack, append = FRAME.pack, self._out.append
        frame_bytes = self._peer_frame_bytes
        pieces = outbox.pieces
        left = nbytes  # beyond the piece at hand
        room = 0  # in the frame that has begun
        frames = 0
        while left:
            piece = pieces.popleft()
            size = len(piece)
            if size > left:
                pieces.appendleft(piece[left:])
                size = left
            left -= size
            position = 0
            while position < size:
                if not room:
                    room = min(size - position + left, frame_bytes)
                    append(pack(room << 8 | DATA, 0, stream_id))
                    frames += 1
                stop = min(position + room, size)
                append(piece[position:stop])
                room -= stop - position
                position = stop
        outbox.nbytes -= nbytes
        self._queued_bytes -= nbytes
        outbox.is_marked = False
        self._out_has_views = True
        self._framed_bytes += nbytes
        self._send_window -= nbytes
        self._sent_since_ping = True
        self._budget.tokens += EARNED_BY_FRAME_SENT * frames

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
        if call.head.is_grpc:
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
        self._discard_outbox(call)
        call.remote_closed = True
        self._remember_reset(call.stream_id, by_peer=by_peer)
        self._release(call)

    def _discard_outbox(self, call: CallState) -> None:
        if call.outbox is not None:
            self._queued_calls -= 1
            self._queued_bytes -= call.outbox.nbytes
            call.outbox = None

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
