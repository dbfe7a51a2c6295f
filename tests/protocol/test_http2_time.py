"""What the clock does to a connection, with literal times."""

from __future__ import annotations

import math

from protocol.http2_events import CallReset, ConnectionClosed, UnaryCall
from protocol.http2_limits import Http2Limits
from protocol.http2_wire import (
    ACK,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PING,
    PREFACE,
    SETTING_INITIAL_WINDOW_SIZE,
    ErrorCode,
    frame,
    window_update_frame,
)
from tests.protocol.http2_peer import Peer, closed_with, grpc

LIMITS = Http2Limits(
    keepalive_time_seconds=100.0,
    keepalive_timeout_seconds=20.0,
    stall_timeout_seconds=30.0,
    handshake_timeout_seconds=10.0,
)


def ping(peer: Peer) -> bytes:
    """The one ping that the server sent since last asked."""
    (sent,) = peer.of(PING)
    peer.frames.clear()
    return sent.payload


def test_an_idle_connection_wakes_nobody() -> None:
    peer = Peer()
    peer.tick(0.0)
    assert peer.connection.next_wake == math.inf


# ---- preface and header blocks -----------------------------------------------------------------


def test_a_client_that_says_nothing_is_let_go() -> None:
    peer = Peer(LIMITS, handshake=False)
    assert peer.connection.next_wake == 10.0
    assert peer.tick(9.5) == []
    closed = closed_with(peer.tick(10.0))
    assert closed.reason == "the client's preface is overdue"
    assert peer.connection.next_wake == math.inf
    assert peer.tick(11.0) == []


def test_a_handshake_in_time_is_no_reason_to_wake() -> None:
    peer = Peer(LIMITS, handshake=False)
    peer.send(PREFACE, frame(4, 0, 0))
    assert peer.tick(10.0) == []
    assert peer.connection.next_wake == math.inf


def test_a_header_block_must_be_finished() -> None:
    peer = Peer(LIMITS)
    peer.tick(50.0)
    peer.send(peer.headers(1, flags=0))
    assert peer.connection.next_wake == 60.0
    closed = closed_with(peer.tick(60.0))
    assert closed.reason == "a header block is overdue"


# ---- keep-alive --------------------------------------------------------------------------------


def test_a_silent_client_with_a_call_is_asked_for_a_sign_of_life() -> None:
    peer = Peer(LIMITS)
    peer.send(peer.headers(1))
    peer.tick(0.0)
    assert peer.connection.next_wake == 100.0
    peer.tick(99.0)
    assert peer.of(PING) == []
    peer.tick(100.0)
    opaque = ping(peer)
    assert peer.connection.next_wake == 120.0
    assert peer.send(frame(PING, ACK, 0, opaque)) == []
    assert peer.connection.next_wake == 200.0


def test_a_client_that_does_not_answer_is_let_go() -> None:
    peer = Peer(LIMITS)
    peer.send(peer.headers(1))
    peer.tick(100.0)
    closed = closed_with(peer.tick(120.0))
    assert (closed.error_code, closed.reason) == (0, "keepalive watchdog timeout")


def test_any_bytes_are_a_sign_of_life() -> None:
    peer = Peer(LIMITS)
    peer.send(peer.headers(1))
    peer.tick(100.0)
    peer.now = 110.0
    peer.send(peer.data(1, grpc(b"hello")))
    assert peer.tick(120.0) == []
    assert peer.connection.next_wake == 210.0


def test_without_calls_there_are_no_pings_unless_permitted() -> None:
    peer = Peer(LIMITS)
    peer.tick(1_000.0)
    assert peer.frames == []
    permitting = Http2Limits(keepalive_time_seconds=100.0, keepalive_permit_without_calls=True)
    peer = Peer(permitting)
    peer.tick(100.0)
    assert len(peer.of(PING)) == 1


def test_pings_without_data_between_them_are_counted() -> None:
    peer = Peer(LIMITS)
    peer.send(peer.headers(1))
    for now in (100.0, 200.0):
        peer.tick(now)
        peer.send(frame(PING, ACK, 0, ping(peer)))
    peer.tick(300.0)
    assert peer.of(PING) == []
    assert peer.connection.next_wake == 400.0
    peer.connection.send_response_headers(1)
    peer.tick(400.0)
    assert len(peer.of(PING)) == 1


# ---- the client's pings ------------------------------------------------------------------------


def client_ping(peer: Peer, now: float) -> ConnectionClosed | None:
    peer.now = now
    events = peer.send(frame(PING, 0, 0, b"12345678"))
    return closed_with(events) if events else None


def test_pings_are_answered_until_they_are_too_many() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    for number in range(3):  # the first is free, two strikes are tolerated
        assert client_ping(peer, 10.0 + number) is None
    assert [f.flags for f in peer.of(PING)] == [ACK] * 3
    closed = client_ping(peer, 14.0)
    assert closed is not None
    assert (closed.error_code, closed.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
    (goaway,) = peer.of(GOAWAY)
    assert goaway.payload[8:] == b"too_many_pings"


def test_pings_at_the_permitted_interval_are_no_strikes() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    for number in range(10):
        assert client_ping(peer, 300.0 * number) is None


def test_without_calls_two_hours_are_the_interval() -> None:
    peer = Peer()
    for number in range(3):
        assert client_ping(peer, 7_199.0 * number) is None
    assert client_ping(peer, 7_199.0 * 3) is not None
    peer = Peer(Http2Limits(keepalive_permit_without_calls=True))
    for number in range(10):
        assert client_ping(peer, 300.0 * number) is None


def test_sending_anything_forgives_pings() -> None:
    peer = Peer()
    for number in range(20):
        stream_id = 2 * number + 1
        peer.opened(stream_id)
        assert client_ping(peer, float(number)) is None
        peer.connection.send_unary_reply(stream_id, b"")
        peer.read()


def test_no_strikes_at_all_can_be_configured() -> None:
    peer = Peer(Http2Limits(max_ping_strikes=0))
    for number in range(100):
        assert client_ping(peer, number / 10) is None


# ---- the graceful end --------------------------------------------------------------------------


def test_goodbye_takes_two_steps_and_waits_for_the_last_call() -> None:
    peer = Peer()
    peer.opened(1)
    peer.connection.goaway(5.0)
    peer.connection.goaway(6.0)
    goaway, goodbye = peer.read()
    assert int.from_bytes(goaway.payload[:4], "big") == MAX_STREAM_ID
    assert goaway.number == ErrorCode.NO_ERROR
    # Under way when the first was sent: served.
    (call,) = peer.send(peer.call(3))
    assert isinstance(call, UnaryCall)
    peer.frames.clear()
    assert peer.send(frame(PING, ACK, 0, goodbye.payload)) == []
    (last,) = peer.frames
    assert int.from_bytes(last.payload[:4], "big") == 3
    # Too late: refused, and its headers still count for compression.
    assert peer.send(peer.headers(5, [("x-new", "1")]), peer.data(5, b"", end=True)) == []
    assert peer.reset_of(5) == ErrorCode.REFUSED_STREAM
    peer.connection.send_unary_reply(1, b"")
    assert peer.tick(7.0) == []
    peer.connection.send_unary_reply(3, b"")
    assert peer.connection.next_wake <= 7.0
    assert peer.tick(7.0) == [ConnectionClosed(0, "drained")]
    assert peer.connection.is_closed


def test_goodbye_does_not_wait_for_ever_for_the_ping() -> None:
    peer = Peer(LIMITS)
    peer.opened(1)
    peer.connection.goaway(5.0)
    assert peer.connection.next_wake == 10.0
    peer.tick(10.0)
    assert [int.from_bytes(f.payload[:4], "big") for f in peer.of(GOAWAY)] == [MAX_STREAM_ID, 1]
    peer.connection.send_unary_reply(1, b"")
    assert peer.send(b"") == [ConnectionClosed(0, "drained")]


def test_a_goodbye_that_was_heard_is_not_said_again() -> None:
    peer = Peer(LIMITS)
    peer.opened(1)
    peer.connection.goaway(5.0)
    _, goodbye = peer.read()
    peer.send(frame(PING, ACK, 0, goodbye.payload))
    assert peer.tick(10.0) == []
    assert len(peer.of(GOAWAY)) == 2


def test_without_calls_goodbye_is_quick() -> None:
    peer = Peer()
    peer.connection.goaway(5.0)
    _, goodbye = peer.read()
    assert peer.send(frame(PING, ACK, 0, goodbye.payload)) == [ConnectionClosed(0, "drained")]
    assert peer.connection.next_wake == math.inf


def test_an_old_connection_says_goodbye_and_then_ends() -> None:
    limits = Http2Limits(
        max_connection_age_seconds=60.0,
        max_connection_age_grace_seconds=15.0,
        drain_ping_timeout_seconds=5.0,
    )
    peer = Peer(limits)
    peer.opened(1)
    peer.tick(1.0)
    assert peer.connection.next_wake == 60.0
    assert peer.tick(60.0) == []
    assert len(peer.of(GOAWAY)) == 1
    assert peer.tick(65.0) == []
    assert len(peer.of(GOAWAY)) == 2
    assert peer.connection.next_wake == 75.0
    closed = closed_with(peer.tick(75.0))
    assert (closed.error_code, closed.reason) == (0, "max_age")
    assert not peer.connection.send_unary_reply(1, b"")


# ---- stalls ------------------------------------------------------------------------------------


def test_a_call_whose_window_stays_shut_is_reset() -> None:
    peer = Peer(LIMITS, settings={SETTING_INITIAL_WINDOW_SIZE: 4})
    peer.tick(0.0)
    for stream_id in (1, 3, 5):
        peer.opened(stream_id)
        peer.connection.send_response_headers(stream_id)
    peer.connection.send_message(1, b"stuck")
    peer.connection.send_message(3, b"slow")
    peer.read()
    assert peer.connection.next_wake == 30.0
    assert peer.tick(30.0) == []
    peer.send(window_update_frame(3, 1))
    assert peer.connection.next_wake == 60.0
    assert peer.tick(60.0) == [CallReset(1, ErrorCode.ENHANCE_YOUR_CALM, by_peer=False)]
    assert peer.reset_of(1) == ErrorCode.ENHANCE_YOUR_CALM
    peer.send(window_update_frame(3, 100))
    assert peer.body(3) == grpc(b"slow")
    assert peer.tick(90.0) == []
    assert peer.connection.next_wake > 90.0 + 30.0


def test_a_finished_call_that_stalls_is_dropped_without_an_event() -> None:
    peer = Peer(LIMITS, settings={SETTING_INITIAL_WINDOW_SIZE: 0})
    peer.opened(1)
    peer.connection.send_unary_reply(1, b"never read")
    peer.read()
    assert peer.tick(30.0) == []
    assert peer.tick(60.0) == []
    assert peer.connection.open_calls == 0
    assert peer.reset_of(1) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_connection_whose_window_stays_shut_ends() -> None:
    peer = Peer(LIMITS, settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    peer.opened(1)
    peer.connection.send_unary_reply(1, bytes(100_000))
    peer.read()
    assert peer.tick(30.0) == []
    closed = closed_with(peer.tick(60.0))
    assert closed.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert closed.reason == "the client does not read its responses"


def test_an_upload_that_does_not_move_on_is_reset() -> None:
    peer = Peer(LIMITS)
    for stream_id in (1, 3, 5):
        peer.send(peer.headers(stream_id), peer.data(stream_id, grpc(bytes(20_000))[:9_000]))
    assert peer.connection.next_wake == 30.0
    assert peer.tick(30.0) == []
    peer.send(peer.data(3, bytes(200)))
    peer.send(peer.data(5, bytes(11_005)), peer.data(5, grpc(bytes(20_000))[:9_000]))
    assert peer.tick(60.0) == [CallReset(1, ErrorCode.ENHANCE_YOUR_CALM, by_peer=False)]
    peer.send(peer.data(3, bytes(10_805), end=True))
    assert peer.tick(90.0) == [CallReset(5, ErrorCode.ENHANCE_YOUR_CALM, by_peer=False)]
    assert peer.tick(120.0) == []
    assert peer.connection.open_calls == 1
    assert peer.connection.next_wake > 120.0


def test_an_upload_that_waits_for_credit_is_not_stalled() -> None:
    limits = Http2Limits(stream_window_bytes=1_000, assembly_bytes=0, stall_timeout_seconds=30.0)
    peer = Peer(limits)
    for stream_id in (1, 3):
        peer.send(peer.headers(stream_id))
        peer.send(peer.data(stream_id, grpc(bytes(5_000))[:1_000]))
    assert peer.window_updates(1) == [1_000]
    assert peer.window_updates(3) == []
    peer.tick(30.0)
    assert peer.tick(60.0) == [CallReset(1, ErrorCode.ENHANCE_YOUR_CALM, by_peer=False)]
    assert peer.window_updates(3) == [1_000]  # its turn has come
    peer.send(peer.data(3, bytes(1_000)))
    assert peer.tick(90.0) == []


def test_a_stalled_client_cannot_hide_behind_other_calls() -> None:
    peer = Peer(LIMITS, settings={SETTING_INITIAL_WINDOW_SIZE: 20})
    peer.opened(1)
    peer.connection.send_unary_reply(1, bytes(100))
    peer.read()
    for step in range(1, 4):
        events = peer.tick(20.0 * step)
        peer.opened(2 * step + 1)
        peer.connection.send_unary_reply(2 * step + 1, b"")
        peer.read()
        assert events == []
    assert peer.of(HEADERS, 7)
    assert peer.tick(80.0) == []
    assert peer.connection.open_calls == 0
