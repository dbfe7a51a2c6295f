"""The receiving half of an HTTP/2 connection: bytes become frames, frames become events.

Owns frame boundaries, header blocks in progress and gRPC messages in progress. A DATA frame is
consumed as it comes, so a message is copied once at most; other frames are short and read whole.
The control frames are in http2_control.py. It never looks at a clock.
"""

from __future__ import annotations

import math
from typing import Final

from protocol.http2_budget import (
    COST_CONTINUATION,
    COST_CRUMB,
    COST_IDLE_FRAME,
    COST_PLAIN_HTTP,
    COST_REFUSED,
    CRUMB_BYTES,
)
from protocol.http2_calls import CallState
from protocol.http2_control import ControlHalf
from protocol.http2_events import CallHalfClosed, CallOpened, HttpRequest, UnaryCall
from protocol.http2_heads import RequestHead
from protocol.http2_limits import Http2Limits
from protocol.http2_messages import VIEW_BYTES
from protocol.http2_wire import (
    CONTINUATION,
    DATA,
    DATA_AND_PREFIX,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    PREFIX_BYTES,
    PRIORITY,
    SETTINGS,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    rst_stream_frame,
)

_GRPC_RESOURCE_EXHAUSTED: Final = 8


class InputHalf(ControlHalf):
    """See Http2Connection for the rules of use."""

    def __init__(self, limits: Http2Limits, unary_paths: frozenset[str]) -> None:
        super().__init__(limits, unary_paths)
        self._preface_left = PREFACE
        # The beginning of a frame that is not a DATA frame's payload.
        self._partial = bytearray()
        # The DATA frame in progress: its call (None: discard), payload and padding to come.
        self._data_call: CallState | None = None
        self._data_left = 0
        self._data_ends = False
        self._skip = 0
        # A header block in progress, and what its HEADERS frame said.
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._block_ends = False
        self._block_fault = ""
        self._block_deadline = math.inf
        # True while not every kind of frame may come next.
        self._is_guarded = True

    # ---- frames --------------------------------------------------------------------------------

    def _take(self, chunk: bytes) -> None:
        """Consume one chunk. Raises ConnectionFault or HpackError."""
        pos = 0
        if self._preface_left:
            pos = self._match_preface(chunk)
        while pos < len(chunk):
            if self._data_left:
                pos = self._on_payload(chunk, pos)
            elif self._skip:
                step = min(self._skip, len(chunk) - pos)
                self._skip -= step
                pos += step
            elif self._partial:
                pos = self._complete(chunk, pos)
            else:
                pos = self._take_frames(chunk, pos)

    def _match_preface(self, chunk: bytes) -> int:
        expected = self._preface_left
        pos = min(len(expected), len(chunk))
        if chunk[:pos] != expected[:pos]:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR,
                "the client does not speak HTTP/2: no connection preface",
            )
        self._preface_left = expected[pos:]
        return pos

    def _complete(self, chunk: bytes, pos: int) -> int:
        """Add to the partial frame what it needs, and take it once it is whole.

        A frame header is taken alone first: that judges the frame before more of it is kept.
        """
        partial = self._partial
        needed = HEADER_BYTES
        if len(partial) >= HEADER_BYTES:
            word = int.from_bytes(partial[:4], "big")
            needed += 1 if word & 0xFF == DATA else word >> 8
        step = min(needed - len(partial), len(chunk) - pos)
        partial += chunk[pos : pos + step]
        if len(partial) == needed:
            self._partial = bytearray()
            self._take_frames(bytes(partial), 0)
        return pos + step

    @staticmethod
    def _is_skippable(kind: int, length: int) -> bool:
        return kind > CONTINUATION or (kind == PRIORITY and length != 5)

    def _take_frames(self, chunk: bytes, pos: int) -> int:
        """Take frames until the chunk ends or the rest is not this loop's; returns the position.

        What is left of the chunk belongs to a DATA frame's payload, to skipped bytes, or was put
        aside as a partial frame.
        """
        end = len(chunk)
        unpack = FRAME.unpack_from
        max_frame_bytes = self.limits.max_frame_bytes
        while end - pos >= HEADER_BYTES:
            word, flags, stream_id = unpack(chunk, pos)
            kind = word & 0xFF
            length = word >> 8
            stream_id &= MAX_STREAM_ID
            start = pos + HEADER_BYTES
            if length > max_frame_bytes:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"a frame of {length} bytes is over the limit {max_frame_bytes}",
                )
            if self._is_guarded:
                self._guard(kind, flags, stream_id)
            if kind == DATA:
                if flags & PADDED and length and start == end:
                    break
                pos = self._on_data(chunk, start, length, flags, stream_id)
                if self._data_left or self._skip:
                    return pos
                continue
            stop = start + length
            if kind == HEADERS and stop <= end:
                pos = self._on_headers(chunk, start, stop, flags, stream_id)
            elif self._is_skippable(kind, length):
                self._on_skippable(kind, stream_id)
                self._skip = length
                return start
            else:
                self._check_length(kind, length, stream_id)
                if stop > end:
                    break
                if kind == CONTINUATION:
                    self._on_continuation(chunk[start:stop], flags, stream_id)
                else:
                    self._on_control(kind, flags, stream_id, chunk[start:stop])
                    self._is_guarded = self._block is not None or not self._peer_settings_seen
                pos = stop
        self._partial = bytearray(memoryview(chunk)[pos:])
        return end

    def _guard(self, kind: int, flags: int, stream_id: int) -> None:
        if not self._peer_settings_seen:
            if kind != SETTINGS or flags & 1:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "the first frame is not a SETTINGS frame"
                )
        elif self._block is not None and (
            kind != CONTINUATION or stream_id != self._block_stream_id
        ):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "a header block is interrupted by another frame"
            )

    def _on_skippable(self, kind: int, stream_id: int) -> None:
        self._charge(COST_IDLE_FRAME)
        if kind == PRIORITY:
            if not stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
            self._stream_fault(stream_id, ErrorCode.FRAME_SIZE_ERROR)

    # ---- DATA ----------------------------------------------------------------------------------

    def _on_data(self, chunk: bytes, start: int, length: int, flags: int, stream_id: int) -> int:
        if length > self._recv_window:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection's window"
            )
        self._recv_window -= length
        call = self._calls.get(stream_id)
        if call is None or call.remote_closed:
            self._stray(stream_id, is_data=True)
            call = None
        elif length > call.recv_window:
            self._stream_fault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            call = None
        else:
            call.recv_window -= length
        ends = bool(flags & END_STREAM)
        if length < CRUMB_BYTES and not ends:
            self._charge(COST_CRUMB)
        if flags & PADDED:
            if not length or (padding := chunk[start]) >= length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
            start += 1
            length -= padding + 1
            self._skip = padding
            self._give_back(call, padding + 1)
        if call is not None and call.body_left >= 0:
            call.body_left -= length
            if call.body_left < 0 or (ends and call.body_left):
                self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
                call = None
        self._data_call = call
        self._data_left = length
        self._data_ends = ends
        return self._on_payload(chunk, start)

    def _on_payload(self, chunk: bytes, pos: int) -> int:
        """Consume what this chunk holds of the DATA frame in progress; returns the new position."""
        step = min(self._data_left, len(chunk) - pos)
        self._data_left -= step
        call = self._data_call
        if call is not None and self._calls.get(call.stream_id) is not call:
            call = None
        if step:
            if call is None or not call.head.is_grpc:
                self._give_back(call, step)
            else:
                self._feed(call, chunk, pos, pos + step)
        if not self._data_left:
            self._data_call = None
            # `_feed` may have ended the call.
            if self._data_ends and call is not None and self._calls.get(call.stream_id) is call:
                self._half_close(call)
        return pos + step

    # ---- HEADERS -------------------------------------------------------------------------------

    def _on_headers(self, chunk: bytes, start: int, stop: int, flags: int, stream_id: int) -> int:
        """One HEADERS frame that is whole, and the DATA frame behind it if that ends the call.

        Returns the position after what was consumed.
        """
        if (
            flags & (PADDED | WITH_PRIORITY | END_HEADERS) != END_HEADERS
            or stream_id <= self._last_stream_id
            or not stream_id & 1
            or self._drain_state
        ):
            self._on_unusual_headers(chunk[start:stop], flags, stream_id)
            return stop
        block = chunk[start:stop]
        head = self._heads.remembered.get(block)
        if head is None:
            self._check_block_bytes(len(block))
            head = self._heads.read(block)
        if flags & END_STREAM or not head.is_grpc or len(chunk) - stop < 14:
            self._open(stream_id, head, ends=bool(flags & END_STREAM))
            return stop
        # The shape of nearly all unary calls: one DATA frame with one message ends the call.
        word, data_flags, data_stream_id, compressed, message_bytes = DATA_AND_PREFIX.unpack_from(
            chunk, stop
        )
        length: int = message_bytes + PREFIX_BYTES
        after: int = stop + HEADER_BYTES + length
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
            self._open(stream_id, head, ends=False)
            return stop
        self._note_skipped(stream_id)
        self._last_stream_id = stream_id
        call = CallState(stream_id, head, self._peer_initial_window, limits.stream_window_bytes)
        call.remote_closed = True
        call.is_announced = True
        call.held = length
        self._calls[stream_id] = call
        self._recv_window -= length
        self._held_bytes += length
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
        elif self._drain_state > 1:
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
                _GRPC_RESOURCE_EXHAUSTED,
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
        if call.body_left > 0:
            self._stream_fault(call.stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        call.remote_closed = True
        if not call.head.is_grpc:
            self._events.append(CallHalfClosed(call.stream_id))
            return
        inbox = call.inbox
        if inbox is not None and (inbox.body is not None or inbox.prefix):
            self._end_with_status(call, 13, "the call ended inside a message")
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
