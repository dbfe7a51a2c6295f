"""gRPC messages out of DATA, the credit they cost, and how calls end before their time.

Owns the gRPC length prefix, the assembly of messages that come in pieces, and the rule by which a
client gets credit: bytes of a message in progress are given back as they come, a whole message
only when the frontend has acknowledged it. It never reads frame headers.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.http2_budget import (
    COST_IDLE_FRAME,
    COST_STREAM_ERROR,
    COST_TINY_MESSAGE,
    EARNED_BY_CALL,
    TINY_MESSAGE_BYTES,
)
from protocol.http2_calls import CallState, Inbox
from protocol.http2_events import CallOpened, CallReset, MessageBytes, MessageReceived
from protocol.http2_limits import Http2Limits
from protocol.http2_replies import ReplyHalf
from protocol.http2_wire import (
    GRPC_INTERNAL,
    GRPC_RESOURCE_EXHAUSTED,
    PREFIX,
    PREFIX_BYTES,
    ConnectionFault,
    ErrorCode,
    rst_stream_frame,
)

# A message of at least this many bytes that lies whole in the received chunk is not copied; for a
# smaller one a view would keep a chunk alive that is many times its length.
VIEW_BYTES: Final = 16_384
# Ranges of stream ids that the client never used, kept to name its mistake correctly.
REMEMBERED_GAPS: Final = 16


class MessageHalf(ReplyHalf):
    """See Http2Connection for the rules of use."""

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(limits)
        self._assembling = 0  # bytes of messages in progress
        self._gaps: deque[tuple[int, int]] = deque(maxlen=REMEMBERED_GAPS)
        # Calls that want to grow a message while the assembly budget is spent, oldest first, and
        # the one of them that may grow regardless.
        self._starved: dict[int, CallState] = {}
        self._favoured: CallState | None = None

    @property
    def buffered_bytes(self) -> int:
        """Received message bytes that the codec holds or that nobody has acknowledged yet."""
        return self._held_bytes + self._assembling

    # ---- messages ------------------------------------------------------------------------------

    def _feed(self, call: CallState, chunk: bytes, pos: int, stop: int) -> None:
        """The next bytes of a call's body: `chunk[pos:stop]`."""
        self._credit += stop - pos
        call.credit += stop - pos
        inbox = call.inbox
        if inbox is None:
            inbox = call.inbox = Inbox()
        message: MessageBytes
        while pos < stop:
            if inbox.body is not None:
                step = min(inbox.missing, stop - pos)
                inbox.put(memoryview(chunk)[pos : pos + step])
                pos += step
                self._assembling += step
                if not inbox.missing:
                    message = inbox.take()
                    self._assembling -= len(message)
                    self._deliver(call, inbox, inbox.compressed, message)
                continue
            if inbox.first is not None:
                self._show_first(call, inbox, inbox.first)
            prefix = inbox.prefix
            if prefix or stop - pos < PREFIX_BYTES:
                step = min(PREFIX_BYTES - len(prefix), stop - pos)
                prefix += chunk[pos : pos + step]
                pos += step
                if len(prefix) < PREFIX_BYTES:
                    inbox.prefix = prefix
                    break
                inbox.prefix = b""
                flag, nbytes = PREFIX.unpack(prefix)
            else:
                flag, nbytes = PREFIX.unpack_from(chunk, pos)
                pos += PREFIX_BYTES
            if not self._prefix_is_good(call, flag, nbytes):
                return
            if nbytes <= stop - pos:
                message = (
                    chunk[pos : pos + nbytes]
                    if nbytes < VIEW_BYTES
                    else memoryview(chunk)[pos : pos + nbytes]
                )
                pos += nbytes
                self._deliver(call, inbox, flag == 1, message)
            else:
                inbox.begin(flag == 1, nbytes, self.limits.stream_window_bytes)
                self._watch_for_stalls()
        if self._credit >= self._grant_bytes:
            self._grant()
        if call.credit * 2 >= self.limits.stream_window_bytes:
            self._grant_growth(call, inbox)

    def _append(self, call: CallState, inbox: Inbox, piece: memoryview) -> None:
        """More of a message in progress, which does not end with it."""
        nbytes = len(piece)
        inbox.put(piece)
        self._assembling += nbytes
        self._credit += nbytes
        call.credit += nbytes
        if self._credit >= self._grant_bytes:
            self._grant()
        if call.credit * 2 >= self.limits.stream_window_bytes:
            self._grant_growth(call, inbox)

    def _prefix_is_good(self, call: CallState, flag: int, nbytes: int) -> bool:
        if flag > 1:
            self._end_with_status(
                call, GRPC_INTERNAL, f"a message's compressed flag is {flag}, not 0 or 1"
            )
            return False
        limit = self.limits.max_message_bytes
        if nbytes > limit:
            self._end_with_status(
                call,
                GRPC_RESOURCE_EXHAUSTED,
                f"Received message larger than max ({nbytes} vs. {limit})",
            )
            return False
        return True

    def _deliver(
        self, call: CallState, inbox: Inbox, compressed: bool, message: MessageBytes
    ) -> None:
        nbytes = len(message) + PREFIX_BYTES
        if nbytes < TINY_MESSAGE_BYTES + PREFIX_BYTES:
            self._charge(COST_TINY_MESSAGE)
        self._credit -= nbytes
        self._held_bytes += nbytes
        call.credit -= nbytes
        call.held += nbytes
        inbox.mark = -1
        if self._favoured is call:
            self._favoured = None
        if self._starved:
            self._feed_starved()
        if call.is_announced:
            self._events.append(MessageReceived(call.stream_id, compressed, message))
        else:
            inbox.first = message
            inbox.first_compressed = compressed

    def _show_first(self, call: CallState, inbox: Inbox, first: MessageBytes) -> None:
        """A second message begins on a unary path: the frontend shall see, and acknowledge, what
        there is."""
        call.is_announced = True
        inbox.first = None
        self._events.append(CallOpened(call.stream_id, call.head, end_stream=False))
        self._events.append(MessageReceived(call.stream_id, inbox.first_compressed, first))

    def _give_back(self, call: CallState | None, nbytes: int) -> None:
        """Bytes that are not kept: padding, bodies nobody wants, frames of calls that are over."""
        self._credit += nbytes
        if self._credit >= self._grant_bytes:
            self._grant()
        if call is not None:
            call.credit += nbytes
            self._grant_call(call)

    def _grant_growth(self, call: CallState, inbox: Inbox) -> None:
        """A message larger than the call's window wants more of it."""
        if inbox.missing <= call.recv_window:
            return  # it can be finished without; the rest waits for the acknowledgement
        if self._assembling <= self.limits.assembly_bytes:
            self._grant_call(call)
            return
        if self._favoured is None:
            self._favoured = call
        if self._favoured is call:
            self._grant_call(call)
        else:
            self._starved[call.stream_id] = call

    def _feed_starved(self) -> None:
        starved = self._starved
        while starved and (
            self._assembling <= self.limits.assembly_bytes or self._favoured is None
        ):
            call = starved.pop(next(iter(starved)))
            if self._assembling > self.limits.assembly_bytes:
                self._favoured = call
            self._grant_call(call)

    # ---- calls that end before their time ------------------------------------------------------

    def _release(self, call: CallState) -> None:
        if call.inbox is not None and call.inbox.body is not None:
            self._assembling -= call.inbox.size - call.inbox.missing
        super()._release(call)
        if self._favoured is call:
            self._favoured = None
        if self._starved:
            self._starved.pop(call.stream_id, None)
            self._feed_starved()

    def _charge(self, cost: float) -> None:
        """Spend from the peer's budget; raises ConnectionFault once it is overdrawn."""
        if not self._budget.charge(cost, self._now):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many frames that do no useful work"
            )
        if self._unread_control > self.limits.unread_control_frames:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "the client does not read the answers it asks for"
            )

    def _say_reset(self, call: CallState, error_code: int, *, by_peer: bool) -> None:
        """Tell the frontend, unless it has not heard of the call yet or is done with it."""
        if call.is_announced and not call.is_answered:
            self._events.append(CallReset(call.stream_id, error_code, by_peer=by_peer))

    def _end_with_status(self, call: CallState, status: int, message: str) -> None:
        """The codec itself refuses a call, with a gRPC status; its neighbours live on."""
        self._say_reset(call, ErrorCode.NO_ERROR, by_peer=False)
        self._discard_outbox(call)
        self._write_trailers(call, status, message, ())
        self._charge(COST_STREAM_ERROR + EARNED_BY_CALL)

    def _stream_fault(self, stream_id: int, error_code: ErrorCode) -> None:
        """A stream error (RFC 9113, 5.4.2)."""
        call = self._calls.get(stream_id)
        if call is not None:
            self._say_reset(call, error_code, by_peer=False)
            self._drop(call, by_peer=False)
        elif stream_id > self._last_stream_id:
            raise ConnectionFault(error_code, f"a faulty frame on idle stream {stream_id}")
        self._control(rst_stream_frame(stream_id, error_code))
        self._charge(COST_STREAM_ERROR)

    def _stray(self, stream_id: int, *, is_data: bool) -> None:
        """DATA or HEADERS for a stream that does not take them."""
        if stream_id in self._calls:
            self._stream_fault(stream_id, ErrorCode.STREAM_CLOSED)
            return
        kind = "DATA" if is_data else "HEADERS"
        if not stream_id & 1 or stream_id > self._last_stream_id:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"{kind} on stream {stream_id}, which is idle"
            )
        by_peer = self._resets.get(stream_id, self._old_resets.get(stream_id))
        if by_peer:
            self._stream_fault(stream_id, ErrorCode.STREAM_CLOSED)
        elif by_peer is not None or stream_id <= self._forgotten_id:
            self._charge(COST_IDLE_FRAME)
        elif any(first <= stream_id <= last for first, last in self._gaps):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"{kind} on stream {stream_id}, which was passed over"
            )
        else:
            raise ConnectionFault(
                ErrorCode.STREAM_CLOSED, f"{kind} on stream {stream_id}, which is closed"
            )

    def _note_skipped(self, stream_id: int) -> None:
        """Call before `_last_stream_id` moves to a new stream."""
        expected = self._last_stream_id + 2 if self._last_stream_id else 1
        if stream_id > expected:
            self._gaps.append((expected, stream_id - 2))
