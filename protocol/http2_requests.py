"""How calls begin, and how the client half-closes them: HEADERS and CONTINUATION.

Owns header blocks in progress. It never looks at a clock.
"""

from __future__ import annotations

import math

from protocol.http2_budget import (
    COST_CONTINUATION,
    COST_PLAIN_HTTP,
    COST_REFUSED,
    COST_WINDOW_UPDATE,
)
from protocol.http2_calls import CallState
from protocol.http2_control import DRAINED, ControlHalf
from protocol.http2_events import CallHalfClosed, CallOpened, HttpRequest, UnaryCall
from protocol.http2_heads import RequestHead
from protocol.http2_limits import Http2Limits
from protocol.http2_messages import VIEW_BYTES
from protocol.http2_wire import (
    DATA,
    DATA_AND_PREFIX,
    END_HEADERS,
    END_STREAM,
    GRPC_INTERNAL,
    GRPC_RESOURCE_EXHAUSTED,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PREFIX_BYTES,
    WINDOW_UPDATE_BYTES,
    WINDOW_UPDATE_FRAME,
    WINDOW_UPDATE_WORD,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    rst_stream_frame,
)


class RequestHalf(ControlHalf):
    """See Http2Connection for the rules of use."""

    def __init__(self, limits: Http2Limits, unary_paths: frozenset[str]) -> None:
        super().__init__(limits, unary_paths)
        # A header block in progress, and what its HEADERS frame said.
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._block_ends = False
        self._block_fault = ""
        self._block_deadline = math.inf
        # True while not every kind of frame may come next.
        self._is_guarded = True

    def _on_headers(self, chunk: bytes, start: int, stop: int, flags: int, stream_id: int) -> int:
        """One HEADERS frame that is whole, and what is behind it if that is the rest of the call.

        Returns the position after what was consumed.
        """
        if (
            flags & (PADDED | WITH_PRIORITY | END_HEADERS) != END_HEADERS
            or stream_id <= self._last_stream_id
            or not stream_id & 1
            or self._drain_state == DRAINED
        ):
            self._on_unusual_headers(chunk[start:stop], flags, stream_id)
            return stop
        block = chunk[start:stop]
        head = self._heads.remembered.get(block)
        if head is None:
            self._check_block_bytes(len(block))
            head = self._heads.read(block)
        if not flags & END_STREAM and head.is_grpc:
            after = self._whole_call(chunk, stop, stream_id, head)
            if after:
                return after
        self._open(stream_id, head, ends=bool(flags & END_STREAM))
        return stop

    def _whole_call(self, chunk: bytes, pos: int, stream_id: int, head: RequestHead) -> int:
        """Take the shape of nearly all unary calls: one DATA frame with one message ends the call.

        gRPC's C core puts a WINDOW_UPDATE of the call in between. Returns the position after what
        was consumed, 0 if the frames at `pos` are anything else; then nothing was done.
        """
        send_window = self._peer_initial_window
        room = len(chunk) - pos
        if room > WINDOW_UPDATE_BYTES:
            word, _, data_stream_id, increment = WINDOW_UPDATE_FRAME.unpack_from(chunk, pos)
            if word == WINDOW_UPDATE_WORD and data_stream_id == stream_id:
                send_window += increment
                if not increment or send_window > MAX_WINDOW:
                    return 0
                pos += WINDOW_UPDATE_BYTES
                room -= WINDOW_UPDATE_BYTES
        if room < HEADER_BYTES + PREFIX_BYTES:
            return 0
        word, data_flags, data_stream_id, compressed, message_bytes = DATA_AND_PREFIX.unpack_from(
            chunk, pos
        )
        length: int = message_bytes + PREFIX_BYTES
        after: int = pos + HEADER_BYTES + length
        limits = self.limits
        if (
            word != length << 8 | DATA
            or data_flags != END_STREAM
            or data_stream_id != stream_id
            or compressed > 1
            or after > len(chunk)
            or message_bytes > limits.max_message_bytes
            or length > self._recv_window
            or length > limits.stream_window_bytes
            or length > limits.max_frame_bytes
            or head.content_length not in (-1, length)
            or len(self._calls) >= limits.max_concurrent_streams
        ):
            return 0
        self._note_skipped(stream_id)
        self._last_stream_id = stream_id
        call = CallState(stream_id, head, send_window, limits.stream_window_bytes)
        call.remote_closed = True
        call.is_announced = True
        call.held = length
        self._calls[stream_id] = call
        self._recv_window -= length
        self._held_bytes += length
        if send_window != self._peer_initial_window:
            self._charge(COST_WINDOW_UPDATE)
        begin = after - message_bytes
        self._events.append(
            UnaryCall(
                stream_id,
                head,
                compressed == 1,
                chunk[begin:after]
                if message_bytes < VIEW_BYTES
                else memoryview(chunk)[begin:after],
            )
        )
        return after

    def _on_unusual_headers(self, payload: bytes, flags: int, stream_id: int) -> None:
        """HEADERS with padding, priority, CONTINUATION, or not of a new call in order."""
        self._check_length(HEADERS, len(payload), stream_id)
        if not stream_id & 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is not a client's"
            )
        begin = 0
        end = len(payload)
        if flags & PADDED:
            padding = payload[0] if payload else 0
            begin = 1
            end -= padding
        fault = ""
        if flags & WITH_PRIORITY:
            if len(payload) >= begin + 5:
                depends_on = int.from_bytes(payload[begin : begin + 4], "big") & MAX_STREAM_ID
                if depends_on == stream_id:
                    fault = "the stream depends on itself"
            begin += 5
        if begin > end:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "padding or priority is longer than its frame"
            )
        fragment = payload[begin:end]
        self._check_block_bytes(len(fragment))
        self._block_stream_id = stream_id
        self._block_ends = bool(flags & END_STREAM)
        self._block_fault = fault
        if flags & END_HEADERS:
            self._on_block(fragment)
            return
        self._block = bytearray(fragment)
        self._is_guarded = True
        self._block_deadline = self._now + self.limits.handshake_timeout_seconds

    def _on_continuation(self, fragment: bytes, flags: int, stream_id: int) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._charge(COST_CONTINUATION)
        self._check_block_bytes(len(self._block) + len(fragment))
        self._block += fragment
        if flags & END_HEADERS:
            block = bytes(self._block)
            self._block = None
            self._is_guarded = False
            self._block_deadline = math.inf
            self._on_block(block)

    def _check_block_bytes(self, nbytes: int) -> None:
        if nbytes > self.limits.max_header_block_bytes:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block is over the limit {self.limits.max_header_block_bytes}",
            )

    def _on_block(self, block: bytes) -> None:
        """A whole header block: it opens a call, carries trailers, or comes too late."""
        stream_id = self._block_stream_id
        call = self._calls.get(stream_id)
        if call is not None:
            fault = self._heads.trailers_fault(block)
            if call.remote_closed:
                self._stream_fault(stream_id, ErrorCode.STREAM_CLOSED)
            elif fault or self._block_fault or not self._block_ends or call.body_left > 0:
                self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
            else:
                self._half_close(call)
        elif stream_id <= self._last_stream_id:
            self._heads.skip(block)
            self._stray(stream_id, is_data=False)
        elif self._drain_state == DRAINED:
            self._heads.skip(block)
            self._refuse(stream_id)
        else:
            head = self._heads.remembered.get(block) or self._heads.read(block)
            self._open(stream_id, head, ends=self._block_ends, fault=self._block_fault)

    def _refuse(self, stream_id: int) -> None:
        """Tell the client that nothing was done for this call: it may try elsewhere."""
        self._note_skipped(stream_id)
        self._last_stream_id = stream_id
        self._remember_reset(stream_id, by_peer=False)
        self._control(rst_stream_frame(stream_id, ErrorCode.REFUSED_STREAM))
        self._charge(COST_REFUSED)

    def _open(self, stream_id: int, head: RequestHead, *, ends: bool, fault: str = "") -> None:
        limits = self.limits
        if len(self._calls) >= limits.max_concurrent_streams:
            self._refuse(stream_id)
            return
        self._note_skipped(stream_id)
        self._last_stream_id = stream_id
        call = CallState(stream_id, head, self._peer_initial_window, limits.stream_window_bytes)
        call.remote_closed = ends
        self._calls[stream_id] = call
        if head.too_large:
            self._end_with_status(
                call,
                GRPC_RESOURCE_EXHAUSTED,
                f"received metadata size exceeds limit of {limits.max_header_list_bytes} bytes",
            )
        elif head.fault or fault or (ends and head.content_length > 0):
            self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif not head.is_grpc:
            self._charge(COST_PLAIN_HTTP)
            call.is_announced = True
            self._events.append(HttpRequest(stream_id, head, ends))
        elif ends or not head.is_unary:
            call.is_announced = True
            self._events.append(CallOpened(stream_id, head, ends))

    def _half_close(self, call: CallState) -> None:
        """The client sends no more on this call."""
        call.remote_closed = True
        if call.is_answered:
            return
        if not call.head.is_grpc:
            self._events.append(CallHalfClosed(call.stream_id))
            return
        inbox = call.inbox
        if inbox is not None and (inbox.body is not None or inbox.prefix):
            self._end_with_status(call, GRPC_INTERNAL, "the call ended inside a message")
            return
        if call.is_announced:
            self._events.append(CallHalfClosed(call.stream_id))
            return
        call.is_announced = True
        if inbox is not None and inbox.first is not None:
            first = inbox.first
            inbox.first = None
            self._events.append(UnaryCall(call.stream_id, call.head, inbox.first_compressed, first))
            return
        self._events.append(CallOpened(call.stream_id, call.head, end_stream=False))
        self._events.append(CallHalfClosed(call.stream_id))
