"""The frames of an HTTP/2 connection that carry neither heads nor messages.

Owns what the peer's SETTINGS, WINDOW_UPDATE, RST_STREAM, PING, PRIORITY and GOAWAY do, and the two
steps by which the server says goodbye. It never looks at a clock.
"""

from __future__ import annotations

from typing import Final

from protocol.http2_budget import (
    COST_IDLE_FRAME,
    COST_PEER_RESET,
    COST_PING,
    COST_SETTINGS,
    COST_WINDOW_UPDATE,
    PingRules,
)
from protocol.http2_events import GoAwayReceived, PingAcked
from protocol.http2_heads import HeadReader
from protocol.http2_limits import Http2Limits
from protocol.http2_messages import MessageHalf
from protocol.http2_wire import (
    ACK,
    CONTINUATION,
    GOAWAY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_FRAME_BYTES,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING_ENABLE_PUSH,
    SETTING_HEADER_TABLE_SIZE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_FRAME_SIZE,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    goaway_frame,
    ping_frame,
    settings_of,
)

# There are seven registered settings and a few for grease.
MAX_SETTINGS_BYTES: Final = 6 * 64
# Two numbers and a few words for the log.
MAX_GOAWAY_BYTES: Final = 8 + 4096
# Padding and priority in a HEADERS frame, beside the block.
HEADERS_OVERHEAD_BYTES: Final = 256 + 6

_FIXED_LENGTHS: Final[dict[int, int]] = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}

# The two pings that are the codec's own; a frontend's must differ.
DRAIN_PING: Final = b"goodbye?"
KEEPALIVE_PING: Final = b"anybody?"

# How far a graceful end has come: not begun, first GOAWAY sent, last GOAWAY sent.
SERVING: Final = 0
DRAINING: Final = 1
DRAINED: Final = 2

TOO_MANY_PINGS: Final = "too_many_pings"


class ControlHalf(MessageHalf):
    """See Http2Connection for the rules of use."""

    def __init__(self, limits: Http2Limits, unary_paths: frozenset[str]) -> None:
        super().__init__(limits)
        self._heads = HeadReader(limits.max_header_list_bytes, unary_paths)
        self._pings = PingRules(
            max_strikes=limits.max_ping_strikes,
            min_interval_seconds=limits.min_ping_interval_seconds,
            permit_without_calls=limits.keepalive_permit_without_calls,
        )
        self._peer_settings_seen = False
        self._drain_state = SERVING
        self._keepalive_ping_out = False
        self._keepalive_pings = 0  # sent since anything else was

    def _check_length(self, kind: int, length: int, stream_id: int) -> None:
        """Judge a frame by its header, before its payload is waited for."""
        expected = _FIXED_LENGTHS.get(kind)
        if expected is not None:
            if length != expected:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of kind {kind} has {length} bytes"
                )
        elif kind in (HEADERS, CONTINUATION):
            limit = self.limits.max_header_block_bytes + HEADERS_OVERHEAD_BYTES
            if length > limit:
                raise ConnectionFault(
                    ErrorCode.ENHANCE_YOUR_CALM,
                    f"a header block is over the limit {self.limits.max_header_block_bytes}",
                )
        elif kind == SETTINGS:
            if length % 6:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"a SETTINGS frame has {length} bytes"
                )
            if length > MAX_SETTINGS_BYTES:
                raise ConnectionFault(
                    ErrorCode.ENHANCE_YOUR_CALM,
                    f"a SETTINGS frame is over the limit {MAX_SETTINGS_BYTES}",
                )
        elif kind == GOAWAY:
            if length < 8:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"a GOAWAY frame has {length} bytes"
                )
            if length > MAX_GOAWAY_BYTES:
                raise ConnectionFault(
                    ErrorCode.ENHANCE_YOUR_CALM,
                    f"a GOAWAY frame is over the limit {MAX_GOAWAY_BYTES}",
                )
        else:
            assert kind == PUSH_PROMISE
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client sent PUSH_PROMISE")
        if (stream_id == 0) != (kind in (SETTINGS, PING, GOAWAY)) and kind != WINDOW_UPDATE:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream_id}"
            )

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """One whole frame whose length and stream were judged by `_check_length`."""
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == RST_STREAM:
            self._on_rst_stream(stream_id, int.from_bytes(payload, "big"))
        elif kind == PING:
            self._on_ping(flags, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PRIORITY:
            self._charge(COST_IDLE_FRAME)
            if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
                self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            assert kind == GOAWAY
            last_stream_id = int.from_bytes(payload[:4], "big") & MAX_STREAM_ID
            error_code = int.from_bytes(payload[4:8], "big")
            self._charge(COST_PING)
            self._events.append(GoAwayReceived(last_stream_id, error_code, payload[8:]))

    def _on_window_update(self, stream_id: int, increment: int) -> None:
        self._charge(COST_WINDOW_UPDATE)
        if not stream_id:
            if not increment:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of 0 on the connection"
                )
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large"
                )
            return
        call = self._calls.get(stream_id)
        if call is None:
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
        elif not increment:
            self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            call.send_window += increment
            if call.send_window > MAX_WINDOW:
                self._stream_fault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            elif call.outbox is not None:
                self._enqueue(call, call.outbox)

    def _on_rst_stream(self, stream_id: int, error_code: int) -> None:
        call = self._calls.get(stream_id)
        if call is None:
            self._check_not_idle(stream_id, "RST_STREAM")
            self._charge(COST_IDLE_FRAME)
            return
        self._say_reset(call, error_code, by_peer=True)
        self._drop(call, by_peer=True)
        self._charge(COST_PEER_RESET)

    def _check_not_idle(self, stream_id: int, name: str) -> None:
        if not stream_id & 1 or stream_id > self._last_stream_id:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"{name} on stream {stream_id}, which is idle"
            )

    def _on_ping(self, flags: int, opaque: bytes) -> None:
        if flags & ACK:
            if opaque == DRAIN_PING and self._drain_state == DRAINING:
                self._say_last_goaway()
            elif opaque == KEEPALIVE_PING:
                self._keepalive_ping_out = False
            else:
                self._charge(COST_PING)
                self._events.append(PingAcked(opaque))
            return
        if self._sent_since_ping:
            self._sent_since_ping = False
            self._pings.forgive()
            self._keepalive_pings = 0
        self._charge(COST_PING)
        if self._pings.too_many(self._now, has_calls=bool(self._calls)):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY_PINGS)
        self._control(ping_frame(opaque, ack=True))

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement has a payload"
                )
            self._charge(COST_IDLE_FRAME)
            return
        self._peer_settings_seen = True
        self._charge(COST_SETTINGS)
        window = self._peer_initial_window
        for identifier, value in settings_of(payload):
            if identifier == SETTING_INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}"
                    )
                window = value
            elif identifier == SETTING_MAX_FRAME_SIZE:
                if not MIN_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
                    raise ConnectionFault(
                        ErrorCode.PROTOCOL_ERROR, f"a maximum frame size of {value}"
                    )
                self._set_peer_frame_bytes(value)
            elif identifier == SETTING_HEADER_TABLE_SIZE:
                self._set_peer_table_limit(value)
            elif identifier == SETTING_ENABLE_PUSH and value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        self._control(SETTINGS_ACK)
        change = window - self._peer_initial_window
        if not change:
            return
        # Only the last value counts, so a frame full of values costs one walk over the calls.
        self._peer_initial_window = window
        for call in self._calls.values():
            call.send_window += change
            if call.send_window > MAX_WINDOW:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, "a new initial window overflows a call's window"
                )
            if call.outbox is not None:
                self._enqueue(call, call.outbox)

    # ---- goodbye -------------------------------------------------------------------------------

    def _say_first_goaway(self) -> None:
        """Ask the client to open no more calls, while still taking those under way."""
        self._drain_state = DRAINING
        self._control(goaway_frame(MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self._control(ping_frame(DRAIN_PING, ack=False))

    def _say_last_goaway(self) -> None:
        """The client has seen the first: what comes now is refused."""
        self._drain_state = DRAINED
        self._control(goaway_frame(self._last_stream_id, ErrorCode.NO_ERROR))
