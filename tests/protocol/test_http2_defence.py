"""Attacks on the HTTP/2 codec, and honest clients that look a little like them."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest

from protocol import http2_output
from protocol.hpack import encode_literal
from protocol.http2_budget import Budget
from protocol.http2_events import CallReset, ConnectionClosed, Event
from protocol.http2_limits import Http2Limits
from protocol.http2_output import REMEMBERED_RESETS
from protocol.http2_wire import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTINGS,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from tests.protocol.http2_peer import Peer, closed_with, grpc, request

USELESS = "too many frames that do no useful work"
CALM = ErrorCode.ENHANCE_YOUR_CALM


def flood(peer: Peer, make: Callable[[int], bytes], *, most: int) -> int:
    """Send until the connection is ended for it; returns how many it took, fails after `most`."""
    for number in range(most):
        events = peer.send(make(number))
        if events and isinstance(events[-1], ConnectionClosed):
            closed = events[-1]
            assert (closed.error_code, closed.reason) == (CALM, USELESS)
            assert peer.goaway_code() == CALM
            return number + 1
    pytest.fail(f"{most} times, and the connection is still open")


def test_rapid_reset() -> None:
    peer = Peer()
    taken = flood(
        peer,
        lambda n: peer.call(2 * n + 1) + rst_stream_frame(2 * n + 1, ErrorCode.CANCEL),
        most=3_000,
    )
    assert 1_900 < taken < 2_100


def test_rapid_reset_that_pretends_to_be_useful_by_sending_messages() -> None:
    peer = Peer()

    def message_and_reset(number: int) -> bytes:
        stream_id = 2 * number + 1
        peer.connection.acknowledge(stream_id - 2, 0)
        return (
            peer.headers(stream_id)
            + peer.data(stream_id, grpc(b""))
            + rst_stream_frame(stream_id, ErrorCode.CANCEL)
        )

    flood(peer, message_and_reset, most=3_000)


@pytest.mark.parametrize("seed", range(3))
def test_a_busy_client_that_cancels_half_of_its_calls_survives(seed: int) -> None:
    chance = random.Random(seed)
    peer = Peer()
    answered = 0
    for number in range(10_000):  # within one instant, so time earns nothing
        stream_id = 2 * number + 1
        peer.send(peer.call(stream_id))
        if chance.random() < 0.5:
            events = peer.send(rst_stream_frame(stream_id, ErrorCode.CANCEL))
            assert events == [CallReset(stream_id, ErrorCode.CANCEL, by_peer=True)]
        else:
            answered += peer.connection.send_unary_reply(stream_id, b"answer")
            peer.read()
        peer.frames.clear()
    assert answered > 4_500
    assert not peer.connection.is_closed


def test_cancelling_everything_slowly_is_allowed() -> None:
    peer = Peer()
    for number in range(5_000):
        peer.now = number / 150
        stream_id = 2 * number + 1
        peer.send(peer.call(stream_id), rst_stream_frame(stream_id, ErrorCode.CANCEL))
    assert not peer.connection.is_closed


@pytest.mark.parametrize("provoke", ["update of zero", "data after the end", "bad headers", "size"])
def test_made_you_reset(provoke: str) -> None:
    """The client makes the server reset calls, so that none counts as its own reset."""
    peer = Peer()

    def attack(number: int) -> bytes:
        stream_id = 2 * number + 1
        match provoke:
            case "update of zero":
                return peer.call(stream_id) + window_update_frame(stream_id, 0)
            case "data after the end":
                return peer.call(stream_id) + peer.data(stream_id, b"x")
            case "bad headers":
                return peer.headers(stream_id, request(connection="close"))
            case _:
                return peer.headers(stream_id) + peer.data(stream_id, b"\x02" + bytes(4))

    assert flood(peer, attack, most=2_000) < 1_100


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("settings", settings_frame({SETTING_INITIAL_WINDOW_SIZE: 1})),
        ("settings acknowledgements", frame(SETTINGS, ACK, 0)),
        ("priority", frame(PRIORITY, 0, 1, bytes(5))),
        ("unknown frames", frame(0xBE, 0, 0, b"grease")),
        ("goaway", goaway_frame(0, 0)),
        ("connection window", window_update_frame(0, 1)),
        ("ping acknowledgements", frame(PING, ACK, 0, bytes(8))),
    ],
)
def test_floods_of_control_frames(name: str, octets: bytes) -> None:
    peer = Peer()
    peer.opened(1)
    # The handshake cost one SETTINGS frame.
    assert flood(peer, lambda _: octets, most=10_000) > 300, name


def test_a_flood_of_pings_is_stopped_by_the_budget_where_strikes_are_not_counted() -> None:
    peer = Peer(Http2Limits(max_ping_strikes=0))
    assert flood(peer, lambda _: frame(PING, 0, 0, bytes(8)), most=3_000) > 1_900


def test_a_flood_in_one_chunk_is_stopped_before_it_is_answered() -> None:
    peer = Peer(Http2Limits(max_ping_strikes=0, budget_tokens=1e9))
    closed = closed_with(peer.send(frame(PING, 0, 0, bytes(8)) * 20_000))
    assert closed.reason == "the client does not read the answers it asks for"
    peer = Peer(Http2Limits(max_ping_strikes=0, budget_tokens=1e9))
    for _ in range(4):  # read in between, they are not too many
        assert peer.send(frame(PING, 0, 0, bytes(8)) * 5_000) == []


def test_empty_and_tiny_data_frames() -> None:
    for payload, flags in ((b"", 0), (b"\x00", PADDED), (b"\x02\x00\x00", PADDED)):
        peer = Peer()
        peer.send(peer.headers(1))
        octets = peer.data(1, payload, flags=flags)
        assert flood(peer, lambda _, o=octets: o, most=10_000) > 3_000  # type: ignore[misc]  # bound
    peer = Peer()
    peer.send(peer.headers(1), peer.data(1, grpc(bytes(100_000))[:5]))
    assert flood(peer, lambda _: peer.data(1, b"x"), most=10_000) > 3_000


def test_a_hoard_of_empty_messages() -> None:
    """Five octets on the wire, a hundred in a queue: 3,000 of them in each frame."""
    peer = Peer()
    peer.send(peer.headers(1))
    octets = peer.data(1, grpc(b"") * 1_000)
    closed = closed_with([event for _ in range(10) for event in peer.send(octets)])
    assert closed.reason == USELESS


def test_a_stream_of_small_messages_that_are_accepted_is_no_flood() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    for _ in range(20_000):
        (event,) = peer.send(peer.data(1, grpc(b"token")))
        assert event.stream_id == 1  # type: ignore[union-attr]  # it is a MessageReceived
        peer.connection.acknowledge(1, 5)


def test_window_updates_of_a_client_that_reads_a_stream_are_no_flood() -> None:
    peer = Peer()
    peer.opened(1)
    peer.connection.send_response_headers(1)
    for _ in range(20_000):
        peer.connection.send_message(1, b"token")
        peer.read()
        assert peer.send(window_update_frame(0, 10), window_update_frame(1, 10)) == []
        peer.frames.clear()


def test_calls_beyond_the_limit_are_refused_and_at_last_not_even_that() -> None:
    peer = Peer(Http2Limits(max_concurrent_streams=2))
    peer.opened(1)
    peer.opened(3)
    assert peer.send(peer.call(5)) == []
    assert peer.reset_of(5) == ErrorCode.REFUSED_STREAM
    peer.connection.send_unary_reply(1, b"")
    peer.opened(7)
    assert flood(peer, lambda n: peer.call(9 + 2 * n), most=3_000) > 1_000


def test_a_client_that_opens_a_thousand_calls_too_many_at_once_survives() -> None:
    peer = Peer()
    events = peer.send(*(peer.call(stream_id) for stream_id in range(1, 4_001, 2)))
    assert len(events) == 1_024
    assert not peer.connection.is_closed


# ---- header bombs ------------------------------------------------------------------------------


def test_continuation_flood() -> None:
    peer = Peer()
    peer.send(frame(HEADERS, 0, 1, b""))
    assert flood(peer, lambda _: frame(CONTINUATION, 0, 1, b""), most=3_000) > 1_000
    peer = Peer()
    peer.send(frame(HEADERS, 0, 1, b""))
    octets = frame(CONTINUATION, 0, 1, encode_literal("x", "y" * 16_000, 0, 4))
    events = [*peer.send(octets), *peer.send(octets), *peer.send(octets), *peer.send(octets)]
    assert events == []
    closed = closed_with(peer.send(octets))
    assert (closed.error_code, closed.reason) == (CALM, "a header block is over the limit 65536")


def test_a_header_block_over_the_limit_is_refused_before_it_is_read() -> None:
    peer = Peer()
    octets = frame(HEADERS, END_HEADERS, 1, bytes(500_000))
    for pos in range(9):
        assert peer.send(octets[pos : pos + 1]) == [] or pos == 8
    assert peer.goaway_code() == CALM
    peer = Peer()
    assert closed_with(peer.send(octets)).error_code == CALM


def test_a_header_list_over_the_limit_ends_that_call_only() -> None:
    peer = Peer()
    bomb = [*request(), ("x", "y" * 4_000)]
    peer.send(peer.headers(1, bomb, end=True))
    (answer,) = peer.send(peer.headers(3, end=True))
    peer.frames.clear()
    # The whole of a kilobyte: four megabytes, were it decoded.
    assert peer.send(frame(HEADERS, END_HEADERS, 5, b"\xbe" * 1_000)) == []
    (head,) = peer.heads(5)
    assert ("grpc-status", "8") in head
    assert ("grpc-message", "received metadata size exceeds limit of 16384 bytes") in head
    assert peer.reset_of(5) == ErrorCode.NO_ERROR
    assert answer.stream_id == 3  # type: ignore[union-attr]  # it is a CallOpened
    peer.opened(7)
    peer.send(peer.headers(9))
    events = peer.send(peer.headers(9, [("x", "y" * 20_000)], end=True))
    assert events == [CallReset(9, ErrorCode.PROTOCOL_ERROR, by_peer=False)]


# ---- memory ------------------------------------------------------------------------------------


def test_a_claimed_length_allocates_nothing() -> None:
    peer = Peer()
    tracemalloc.start()
    for stream_id in range(1, 101, 2):
        peer.send(
            peer.headers(stream_id), peer.data(stream_id, b"\x00\x7f\xff\xff\xff" + b"x" * 200)
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert peer.connection.buffered_bytes == 50 * 200


def test_a_long_life_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_output, "REMEMBERED_RESETS", 64)
    peer = Peer()

    def live(first: int, calls: int) -> None:
        for stream_id in range(first, first + 2 * calls, 2):
            kind = stream_id // 2 % 4
            peer.now += 0.01
            peer.send(peer.headers(stream_id, [*request(), ("x-id", str(stream_id))]))
            peer.send(peer.data(stream_id, grpc(b"x"), end=kind != 1))
            if kind == 0:
                peer.send(rst_stream_frame(stream_id, 8))
            elif kind == 1:
                peer.connection.reset(stream_id)
            else:
                peer.connection.send_unary_reply(stream_id, b"y")
            peer.read()
            peer.frames.clear()

    peer.send(window_update_frame(0, 1 << 30))
    tracemalloc.start()
    live(1, 1_000)
    before = tracemalloc.take_snapshot()
    live(2_001, 1_000)
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    # The codec's own modules, not http2_peer.py.
    ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/protocol/h*[!r].py")
    grown = sum(
        entry.size_diff
        for entry in after.filter_traces([ours]).compare_to(
            before.filter_traces([ours]), "filename"
        )
    )
    # The two generations of remembered resets may stand at different places.
    assert grown < 20_000
    assert peer.connection.open_calls == 0
    assert peer.connection.buffered_bytes == 0


def test_frames_of_calls_reset_long_ago_are_ignored_not_punished() -> None:
    peer = Peer()
    resets = 3 * REMEMBERED_RESETS
    for number in range(resets):
        stream_id = 2 * number + 1
        peer.now += 0.01
        peer.send(peer.headers(stream_id))
        peer.connection.reset(stream_id)
    peer.read()
    assert peer.send(peer.data(1, b"x" * 500), peer.data(2 * resets - 1, b"x" * 500)) == []
    assert len(peer.connection._resets) + len(peer.connection._old_resets) <= 2 * REMEMBERED_RESETS


# ---- the bucket --------------------------------------------------------------------------------


def test_the_budget_is_filled_by_time_and_work_up_to_its_capacity() -> None:
    budget = Budget(10.0, 2.0)
    assert budget.charge(10.0, 100.0)
    assert not budget.charge(1.0, 100.0)
    assert budget.charge(1.0, 101.0)
    assert budget.charge(10.0, 1_000.0)
    assert not budget.charge(1.0, 999.0)
    budget.tokens += 1_000.0
    assert budget.charge(10.0, 1_000.0)
    assert not budget.charge(0.5, 1_000.0)


def test_events_before_the_offence_are_still_delivered() -> None:
    peer = Peer()
    events: list[Event] = peer.send(peer.call(1), frame(0x05, 0, 1, bytes(4)))
    assert len(events) == 2
    assert closed_with(events).reason == "a client sent PUSH_PROMISE"
