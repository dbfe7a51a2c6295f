"""The receiving half of an HTTP/2 connection: bytes become frames, frames become events.

Owns frame boundaries. A DATA frame is consumed as it comes, so that a message is copied once at
most; other frames are short and taken whole. It never looks at a clock.
"""

from __future__ import annotations

from typing import Final

from protocol.http2_budget import (
    COST_CRUMB,
    COST_IDLE_FRAME,
    CRUMB_BYTES,
)
from protocol.http2_calls import CallState
from protocol.http2_limits import Http2Limits
from protocol.http2_requests import RequestHalf
from protocol.http2_wire import (
    CONTINUATION,
    DATA,
    END_STREAM,
    FRAME,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTINGS,
    WINDOW_UPDATE_FRAME,
    WINDOW_UPDATE_WORD,
    ConnectionFault,
    ErrorCode,
)

# From here on it is worth a look whether a DATA frame only continues a message.
LONG_FRAME_BYTES: Final = 4_096


class InputHalf(RequestHalf):
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
                if not flags and length >= LONG_FRAME_BYTES:
                    after = self._take_middles(chunk, pos)
                    if after > pos:
                        pos = after
                        continue
                if flags & PADDED and length and start == end:
                    break
                pos = self._on_data(chunk, start, length, flags, stream_id)
                if self._data_left or self._skip:
                    return pos
                continue
            stop = start + length
            if kind == HEADERS and stop <= end:
                pos = self._on_headers(chunk, start, stop, flags, stream_id)
            elif word == WINDOW_UPDATE_WORD and stop <= end:
                _, _, _, increment = WINDOW_UPDATE_FRAME.unpack_from(chunk, pos)
                self._on_window_update(stream_id, increment & MAX_WINDOW)
                pos = stop
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

    def _take_middles(self, chunk: bytes, pos: int) -> int:
        """Take whole DATA frames from the middle of messages: most of what large ones come in.

        Returns the position of the first frame that is anything else; whatever is special about a
        frame makes it so.
        """
        end = len(chunk)
        view = memoryview(chunk)
        unpack = FRAME.unpack_from
        calls = self._calls
        max_frame_bytes = self.limits.max_frame_bytes
        while end - pos >= HEADER_BYTES:
            word, flags, stream_id = unpack(chunk, pos)
            length = word >> 8
            start = pos + HEADER_BYTES
            stop = start + length
            call = calls.get(stream_id)
            if (
                word & 0xFF != DATA
                or flags
                or stop > end
                or not LONG_FRAME_BYTES <= length <= max_frame_bytes
                or length > self._recv_window
                or call is None
                or length > call.recv_window
                or 0 <= call.body_left <= length
                or call.outbox is not None
            ):
                break
            inbox = call.inbox
            if inbox is None or inbox.body is None or length >= inbox.missing:
                break
            self._recv_window -= length
            call.recv_window -= length
            if call.body_left >= 0:
                call.body_left -= length
            self._append(call, inbox, view[start:stop])
            pos = stop
        return pos

    def _on_payload(self, chunk: bytes, pos: int) -> int:
        """Consume what this chunk holds of the DATA frame in progress; returns the new position."""
        step = min(self._data_left, len(chunk) - pos)
        self._data_left -= step
        call = self._data_call
        if call is not None and self._calls.get(call.stream_id) is not call:
            call = None
        if step:
            if call is None or not call.head.is_grpc or call.is_answered:
                self._give_back(call, step)
            else:
                self._feed(call, chunk, pos, pos + step)
        if not self._data_left:
            self._data_call = None
            # `_feed` may have ended the call.
            if self._data_ends and call is not None and self._calls.get(call.stream_id) is call:
                self._half_close(call)
        return pos + step
