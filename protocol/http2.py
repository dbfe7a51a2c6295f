"""The server's side of one HTTP/2 connection that carries gRPC: bytes in, events out, bytes out.

Owns the connection's life: preface, frames (by its base classes, one per idea), keep-alive, age,
stalls and the graceful end. It holds no socket and no clock: `receive` and `tick` are told `now`,
and `next_wake` says when to call `tick`. It never decides what a call means.

    output <- replies <- messages <- control <- requests <- input <- http2
"""

from __future__ import annotations

import math
from typing import Final

from protocol.hpack import HpackError
from protocol.http2_calls import CallState
from protocol.http2_control import DRAINED, DRAINING, KEEPALIVE_PING, SERVING
from protocol.http2_events import ConnectionClosed, Event
from protocol.http2_input import InputHalf
from protocol.http2_limits import Http2Limits
from protocol.http2_wire import (
    DEFAULT_WINDOW,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE,
    SETTING_MAX_HEADER_LIST_SIZE,
    ConnectionFault,
    ErrorCode,
    goaway_frame,
    ping_frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)

__all__ = ["ErrorCode", "Http2Connection", "Http2Limits"]

UNREAD: Final = "the client does not read its responses"


class Http2Connection(InputHalf):
    """One connection. Drive it so, in one task or two:

    - reader: `events = connection.receive(chunk, now)`; on end of stream `receive_eof()`;
    - timer: at `next_wake`, `events = connection.tick(now)`;
    - writer: after either, and after any `send_*`, while `has_output`: write `take_output()`.

    Every method is synchronous and returns at once. A `send_*` for a call that is over does
    nothing and returns False, so a late reply needs no check. `unary_paths`: the methods whose
    calls are handed over whole, as one UnaryCall. Instants are seconds of any one clock.
    """

    def __init__(
        self,
        limits: Http2Limits | None = None,
        *,
        unary_paths: frozenset[str] = frozenset(),
        now: float,
    ) -> None:
        limits = limits or Http2Limits()
        super().__init__(limits, unary_paths)
        self._now = now
        self._heard_at = now
        self._handshake_deadline = now + limits.handshake_timeout_seconds
        self._age_deadline = now + limits.max_connection_age_seconds
        self._grace_deadline = math.inf
        self._drain_deadline = math.inf
        self._keepalive_deadline = math.inf
        self._out.append(
            settings_frame(
                {
                    SETTING_MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    SETTING_INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    SETTING_MAX_FRAME_SIZE: limits.max_frame_bytes,
                    SETTING_MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
        )
        if limits.connection_window_bytes > DEFAULT_WINDOW:
            self._out.append(
                window_update_frame(0, limits.connection_window_bytes - DEFAULT_WINDOW)
            )

    # ---- bytes and time in ---------------------------------------------------------------------

    def receive(self, chunk: bytes, now: float) -> list[Event]:
        """What these bytes mean. Large messages may be views of `chunk`. Never raises for what a
        peer sent: a broken rule ends the list with ConnectionClosed."""
        if self._is_closed:
            return []
        self._now = now
        self._heard_at = now
        try:
            self._take(chunk)
        except ConnectionFault as fault:
            self._fail(fault.error_code, fault.reason)
        except HpackError as error:
            self._fail(ErrorCode.COMPRESSION_ERROR, f"a header block is not valid: {error}")
        self._close_if_due()
        return self._taken_events()

    def receive_eof(self) -> list[Event]:
        """The client closed its side of the socket."""
        if self._is_closed:
            return []
        self._is_closed = True
        self._forget_calls()
        self._events.append(ConnectionClosed(ErrorCode.NO_ERROR, "the client closed the socket"))
        return self._taken_events()

    def tick(self, now: float) -> list[Event]:
        """Do what is due at `now`; harmless if nothing is."""
        if self._is_closed:
            return []
        self._now = now
        try:
            self._check_deadlines(now)
        except ConnectionFault as fault:
            self._fail(fault.error_code, fault.reason)
        self._close_if_due()
        return self._taken_events()

    @property
    def next_wake(self) -> float:
        """When `tick` has something to do; infinity if never. Ask again after every call."""
        if self._is_closed:
            return math.inf
        if self._drain_state == DRAINED and not self._calls:
            return self._now
        if self._queued_bytes > self.limits.max_queued_bytes and self._queued_calls > 1:
            return self._now
        return min(
            math.inf if self._peer_settings_seen else self._handshake_deadline,
            self._block_deadline,
            self._age_deadline,
            self._grace_deadline,
            self._drain_deadline,
            self._keepalive_wake(),
            self._sweep_at,
        )

    @property
    def is_closed(self) -> bool:
        """True once ConnectionClosed was said."""
        return self._is_closed

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    # ---- the end -------------------------------------------------------------------------------

    def goaway(self, now: float) -> None:
        """End gracefully: the client is asked to open no more calls, those that it has go on, and
        ConnectionClosed follows the last of them. Repeating it does nothing."""
        self._now = now
        if self._drain_state == SERVING and not self._is_closed:
            self._say_first_goaway()
            self._drain_deadline = now + self.limits.drain_ping_timeout_seconds

    def close(self, error_code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End at once: calls still open are dropped, and there is no event for it."""
        if not self._is_closed:
            self._fail(error_code, reason)
            self._events.clear()

    def _fail(self, error_code: ErrorCode, reason: str) -> None:
        self._out.append(goaway_frame(self._last_stream_id, error_code, reason.encode()))
        self._is_closed = True
        self._forget_calls()
        self._events.append(ConnectionClosed(error_code, reason))

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._queued_bytes = self._queued_calls = 0
        self._held_bytes = self._assembling = 0
        self._ready.clear()
        self._starved.clear()
        self._favoured = None
        self._block = None
        self._partial = bytearray()
        self._data_call = None

    def _close_if_due(self) -> None:
        if self._is_closed:
            return
        if self._queued_bytes > self.limits.max_queued_bytes and self._queued_calls > 1:
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, UNREAD)
        elif self._drain_state == DRAINED and not self._calls:
            self._is_closed = True
            self._events.append(ConnectionClosed(ErrorCode.NO_ERROR, "drained"))

    def _taken_events(self) -> list[Event]:
        events = self._events
        self._events = []
        return events

    # ---- time ----------------------------------------------------------------------------------

    def _check_deadlines(self, now: float) -> None:
        if now >= self._handshake_deadline and not self._peer_settings_seen:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the client's preface is overdue")
        if now >= self._block_deadline:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is overdue")
        if now >= self._grace_deadline:
            raise ConnectionFault(ErrorCode.NO_ERROR, "max_age")
        if now >= self._age_deadline:
            self._age_deadline = math.inf
            self._grace_deadline = now + self.limits.max_connection_age_grace_seconds
            self.goaway(now)
        if now >= self._drain_deadline:
            self._drain_deadline = math.inf
            if self._drain_state == DRAINING:
                self._say_last_goaway()
        self._keep_alive(now)
        if now >= self._sweep_at:
            self._sweep_stalled(now)

    def _keepalive_wake(self) -> float:
        if self._keepalive_ping_out:
            return self._keepalive_deadline
        if self._calls or self.limits.keepalive_permit_without_calls:
            return self._heard_at + self.limits.keepalive_time_seconds
        return math.inf

    def _keep_alive(self, now: float) -> None:
        if now < self._keepalive_wake():
            return
        limits = self.limits
        if self._keepalive_ping_out:
            if self._heard_at <= self._keepalive_deadline - limits.keepalive_timeout_seconds:
                raise ConnectionFault(ErrorCode.NO_ERROR, "keepalive watchdog timeout")
            self._keepalive_ping_out = False  # the client lives, it only did not answer
            return
        if self._sent_since_ping:
            self._sent_since_ping = False
            self._pings.forgive()
            self._keepalive_pings = 0
        if 0 < limits.max_pings_without_data <= self._keepalive_pings:
            self._heard_at = now  # looks again after another keep-alive time
            return
        self._keepalive_pings += 1
        self._keepalive_ping_out = True
        self._keepalive_deadline = now + limits.keepalive_timeout_seconds
        self._control(ping_frame(KEEPALIVE_PING, ack=False))

    def _sweep_stalled(self, now: float) -> None:
        """End what has made no progress since the last sweep.

        A sweep marks each call that has something unfinished, and any progress unmarks it; what
        the next sweep finds marked is stalled. So no other step needs to know the time.
        """
        self._sweep_at = math.inf
        for call in list(self._calls.values()):
            if call.outbox is not None:
                self._sweep_at = now + self.limits.stall_timeout_seconds
                if not call.outbox.is_marked:
                    call.outbox.is_marked = True
                elif call.send_window > 0:
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, UNREAD)
                else:
                    self._give_up(call)
            elif call.inbox is not None and call.inbox.body is not None:
                self._sweep_at = now + self.limits.stall_timeout_seconds
                if call.recv_window <= 0 or self._recv_window <= 0:
                    call.inbox.mark = -1  # it waits for credit
                elif call.inbox.mark != call.inbox.missing:
                    call.inbox.mark = call.inbox.missing
                else:
                    self._give_up(call)

    def _give_up(self, call: CallState) -> None:
        self._say_reset(call, ErrorCode.ENHANCE_YOUR_CALM, by_peer=False)
        self._drop(call, by_peer=False)
        self._control(rst_stream_frame(call.stream_id, ErrorCode.ENHANCE_YOUR_CALM))
