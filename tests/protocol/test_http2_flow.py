"""Windows in both directions: nobody stalls, nobody is flooded, calls take turns."""

from __future__ import annotations

import pytest

from protocol.http2_events import CallReset, MessageReceived, UnaryCall
from protocol.http2_limits import Http2Limits
from protocol.http2_wire import (
    DATA,
    END_STREAM,
    HEADERS,
    PADDED,
    RST_STREAM,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_FRAME_SIZE,
    ErrorCode,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from tests.protocol.http2_peer import PATH, Peer, closed_with, grpc, request

WINDOW = 65_535
SMALL = Http2Limits(
    max_frame_bytes=16_384, stream_window_bytes=20_000, connection_window_bytes=100_000
)


# ---- what the client may send ------------------------------------------------------------------


def test_a_600_kb_tensor_needs_no_update_of_its_stream() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    body = grpc(bytes(600_000))
    events = peer.send(peer.headers(1))
    for pos in range(0, len(body), 16_384):
        events += peer.send(peer.data(1, body[pos : pos + 16_384], end=pos + 16_384 > len(body)))
    (call,) = events
    assert isinstance(call, UnaryCall)
    assert len(call.message) == 600_000
    assert peer.frames == []


def test_a_message_larger_than_every_window_gets_through() -> None:
    peer = Peer(SMALL)
    peer.send(peer.headers(1))
    body = grpc(bytes(range(256)) * 4000)
    stream_window = 20_000
    connection_window = 100_000
    sent = 0
    events = []
    while sent < len(body):
        step = min(stream_window, connection_window, 16_384, len(body) - sent)
        assert step, "the client is stalled"
        events += peer.send(peer.data(1, body[sent : sent + step]))
        sent += step
        stream_window += sum(peer.window_updates(1)) - step
        connection_window += sum(peer.window_updates(0)) - step
        peer.frames.clear()
    (message,) = events
    assert isinstance(message, MessageReceived)
    assert message.message == body[5:]


def test_a_message_is_paid_for_until_it_is_acknowledged() -> None:
    peer = Peer(SMALL)
    peer.send(peer.headers(1))
    peer.send(peer.data(1, grpc(bytes(9_995))), peer.data(1, grpc(bytes(9_995))))
    assert peer.connection.buffered_bytes == 20_000
    assert peer.frames == []
    assert peer.send(peer.data(1, b"x"))[-1] == CallReset(
        1, ErrorCode.FLOW_CONTROL_ERROR, by_peer=False
    )
    assert peer.reset_of(1) == ErrorCode.FLOW_CONTROL_ERROR
    assert peer.connection.buffered_bytes == 0


def test_acknowledging_gives_credit_back_in_large_pieces() -> None:
    peer = Peer(SMALL)
    peer.send(peer.headers(1))
    for _ in range(2):
        for _ in range(4):
            peer.send(peer.data(1, grpc(bytes(4_995))))
        for _ in range(4):
            peer.connection.acknowledge(1, 4_995)
    peer.read()
    assert peer.window_updates(1) == [10_000] * 4
    assert peer.window_updates(0) == [25_000]
    assert peer.connection.buffered_bytes == 0


def test_more_is_never_given_back_than_was_taken() -> None:
    peer = Peer(SMALL)
    peer.opened(1, bytes(100))
    peer.connection.acknowledge(1, 50_000)
    peer.connection.acknowledge(1, 50_000)
    peer.connection.send_unary_reply(1, b"")
    assert peer.connection.buffered_bytes == 0
    peer.read()
    assert peer.window_updates(0) == []


def test_what_nobody_acknowledged_is_given_back_when_the_call_ends() -> None:
    peer = Peer(SMALL)
    for stream_id, end in ((1, "reply"), (3, "reset"), (5, "cancel"), (7, "trailers")):
        peer.opened(stream_id, bytes(6_245))
        match end:
            case "reply":
                peer.connection.send_unary_reply(stream_id, b"")
            case "reset":
                peer.connection.reset(stream_id)
            case "cancel":
                peer.send(rst_stream_frame(stream_id, ErrorCode.CANCEL))
            case _:
                peer.connection.send_trailers(stream_id, 0)
        assert peer.connection.buffered_bytes == 0
    peer.read()
    assert peer.window_updates(0) == [25_000]


def test_data_beyond_the_connection_s_window_ends_the_connection() -> None:
    peer = Peer(SMALL)
    for stream_id in range(1, 13, 2):
        peer.send(peer.headers(stream_id))
    events = []
    for stream_id in range(1, 13, 2):
        # Whole messages that nobody acknowledges.
        events += peer.send(
            peer.data(stream_id, grpc(bytes(9_995))), peer.data(stream_id, grpc(bytes(7_995)))
        )
    closed = closed_with(events)
    assert closed.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert closed.reason == "DATA beyond the connection's window"


def test_discarded_bytes_are_given_back_at_once() -> None:
    peer = Peer(SMALL)
    peer.send(peer.headers(1, request(content_type="text/plain")))
    for _ in range(4):
        peer.send(peer.data(1, bytes(10_000)))
    assert peer.window_updates(1) == [10_000] * 4
    assert peer.window_updates(0) == [30_000]
    padding = b"\xff" + bytes(255)
    peer = Peer(SMALL)
    peer.send(peer.headers(1))
    for _ in range(100):
        peer.send(peer.data(1, padding, flags=PADDED))
    assert sum(peer.window_updates(1)) >= 20_000


def test_messages_in_progress_share_a_budget_and_the_favoured_one_gets_through() -> None:
    limits = Http2Limits(
        max_frame_bytes=16_384,
        stream_window_bytes=10_000,
        connection_window_bytes=1 << 20,
        assembly_bytes=30_000,
    )
    peer = Peer(limits)
    body = grpc(bytes(200_000))
    sent = dict.fromkeys((1, 3, 5, 7), 0)
    window = dict.fromkeys(sent, 10_000)
    done: list[int] = []
    peak = 0
    for stream_id in sent:
        peer.send(peer.headers(stream_id))
    while len(done) < len(sent):
        progress = False
        for stream_id in sent:
            step = min(window[stream_id], len(body) - sent[stream_id], 1_000)
            if not step:
                continue
            progress = True
            for event in peer.send(peer.data(stream_id, body[sent[stream_id] :][:step])):
                assert isinstance(event, MessageReceived)
                done.append(event.stream_id)
                peer.connection.acknowledge(event.stream_id, len(event.message))
                peer.connection.send_trailers(event.stream_id, 0)
                peer.read()
            sent[stream_id] += step
            window[stream_id] -= step
            for each in window:
                window[each] += sum(peer.window_updates(each))
            peer.frames.clear()
            peak = max(peak, peer.connection.buffered_bytes)
        assert progress, f"stalled: {sent} {window}"
    assert sorted(done) == [1, 3, 5, 7]
    # Four first windows, the budget, and one message beyond it.
    assert peak <= 4 * 10_000 + 30_000 + 200_005


def test_a_favoured_call_that_dies_makes_room_for_the_next() -> None:
    limits = Http2Limits(
        max_frame_bytes=16_384,
        stream_window_bytes=10_000,
        connection_window_bytes=1 << 20,
        assembly_bytes=0,
    )
    peer = Peer(limits)
    body = grpc(bytes(50_000))
    peer.send(peer.headers(1), peer.headers(3), peer.headers(5))
    for stream_id in (1, 3, 5):
        peer.send(peer.data(stream_id, body[:6_000]))
    assert [peer.window_updates(stream_id) for stream_id in (1, 3, 5)] == [[6_000], [], []]
    peer.send(rst_stream_frame(3, ErrorCode.CANCEL))
    assert peer.window_updates(5) == []
    peer.send(rst_stream_frame(1, ErrorCode.CANCEL))
    assert peer.window_updates(5) == [6_000]
    assert peer.connection.buffered_bytes == 5_995


# ---- what the server may send ------------------------------------------------------------------


def test_a_reply_waits_for_its_stream_s_window_and_others_pass_it() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 10})
    peer.opened(1)
    peer.opened(3)
    peer.connection.send_unary_reply(1, b"0123456789")
    assert peer.connection.pending_bytes(1) == 15
    peer.connection.send_unary_reply(3, b"short")
    peer.read()
    assert peer.body(3) == grpc(b"short")
    assert peer.body(1) == grpc(b"0123456789")[:10]
    assert peer.connection.pending_bytes(1) == 5
    assert not peer.connection.has_output
    assert peer.send(window_update_frame(1, 3)) == []
    assert peer.send(window_update_frame(1, 100)) == []
    assert peer.body(1) == grpc(b"0123456789")
    assert peer.of(HEADERS, 1)[-1].flags & END_STREAM
    assert peer.connection.open_calls == 0


def test_the_connection_s_window_is_shared_frame_by_frame() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    for stream_id in (1, 3, 5):
        peer.opened(stream_id)
    for stream_id in (1, 3, 5):
        peer.connection.send_unary_reply(stream_id, bytes(40_000))
    peer.read()
    sizes = [(f.stream_id, len(f.payload)) for f in peer.of(DATA)]
    assert sizes == [(1, 16384), (3, 16384), (5, 16384), (1, 16383)]
    assert not peer.connection.has_output
    peer.frames.clear()
    peer.send(window_update_frame(0, 1 << 20))
    assert [f.stream_id for f in peer.of(DATA)] == [3, 5, 1, 3, 5]
    assert peer.connection.open_calls == 0


def test_replies_keep_their_place_behind_those_that_wait() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    peer.opened(1)
    peer.opened(3)
    peer.connection.send_unary_reply(1, bytes(70_000))
    peer.connection.send_unary_reply(3, b"small")
    peer.read()
    assert peer.body(3) == grpc(b"small")  # it took its turn before the window was used up
    assert len(peer.body(1)) == WINDOW - 10


def test_a_settings_frame_changes_the_windows_of_open_calls() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 100})
    peer.opened(1)
    peer.connection.send_response_headers(1)
    peer.connection.send_message(1, bytes(55))
    peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 10}))  # the window is -50 now
    peer.connection.send_message(1, bytes(25))
    assert peer.read() == []
    peer.send(window_update_frame(1, 60))
    assert len(peer.body(1)) == 70
    peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 30}))
    assert len(peer.body(1)) == 90
    peer.connection.send_message(1, bytes(5))
    peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 0}))
    peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 200}))
    assert len(peer.body(1)) == 100


def test_a_window_taken_away_before_a_turn_leaves_the_queue_in_order() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 100})
    connection = peer.connection
    peer.opened(1)
    connection.send_response_headers(1)
    connection.send_message(1, bytes(20_000))
    connection.receive(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 0}), 0.0)
    assert connection.has_output
    peer.read()
    assert peer.body(1) == b""
    peer.send(window_update_frame(1, 50_000))
    assert len(peer.body(1)) == 20_005


def test_output_is_framed_a_piece_at_a_time() -> None:
    limits = Http2Limits(output_bytes=50_000, pending_bytes=100_000)
    peer = Peer(limits, settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 30})
    peer.send(window_update_frame(0, 1 << 30))
    peer.opened(1)
    connection = peer.connection
    connection.send_response_headers(1)
    assert connection.writable(1)
    for number in range(40):
        assert connection.writable(1) == (number < 15)  # five at once, ten waiting
        connection.send_message(1, bytes([number]) * 9_995)
    taken = sum(map(len, connection.take_output()))
    assert 50_000 <= taken < 80_000
    total = taken
    while connection.has_output:
        taken = sum(map(len, connection.take_output()))
        assert taken < 80_000
        total += taken
    assert total > 400_000
    assert connection.writable(1)


def test_tiny_messages_fill_a_queue_by_their_number() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 0})
    peer.opened(1)
    peer.connection.send_response_headers(1)
    for _ in range(1_024):
        assert peer.connection.writable(1)
        peer.connection.send_message(1, b"")
    assert not peer.connection.writable(1)


def test_a_client_that_leaves_a_gigabyte_unread_is_let_go() -> None:
    limits = Http2Limits(max_queued_bytes=100_000)
    peer = Peer(limits)
    peer.opened(1)
    peer.opened(3)
    peer.connection.send_unary_reply(1, bytes(300_000))  # one large answer is no offence
    peer.read()
    assert peer.tick(1.0) == []
    peer.connection.send_unary_reply(3, bytes(20))
    assert peer.connection.next_wake <= 1.0
    closed = closed_with(peer.tick(1.0))
    assert closed.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert closed.reason == "the client does not read its responses"


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (window_update_frame(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update_frame(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (window_update_frame(7, 1), ErrorCode.PROTOCOL_ERROR),
        (window_update_frame(2, 1), ErrorCode.PROTOCOL_ERROR),
        (settings_frame({SETTING_INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (settings_frame({SETTING_MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_updates_that_end_the_connection(update: bytes, code: ErrorCode) -> None:
    peer = Peer()
    peer.opened(1)
    assert closed_with(peer.send(update)).error_code == code
    assert peer.goaway_code() == code


def test_updates_that_end_the_call() -> None:
    peer = Peer()
    for stream_id, increment, code in (
        (1, 0, ErrorCode.PROTOCOL_ERROR),
        (3, 2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR),
    ):
        peer.opened(stream_id)
        assert peer.send(window_update_frame(stream_id, increment)) == [
            CallReset(stream_id, code, by_peer=False)
        ]
        assert peer.reset_of(stream_id) == code
        assert peer.send(window_update_frame(stream_id, 5)) == []


def test_an_initial_window_that_overflows_a_call_s_window_ends_the_connection() -> None:
    peer = Peer()
    peer.opened(1)
    peer.send(window_update_frame(1, 2**31 - 1 - WINDOW))
    closed = closed_with(peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: WINDOW + 1})))
    assert closed.error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_an_answer_that_waits_is_dropped_silently_if_the_client_cancels() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 0})
    peer.opened(1)
    peer.connection.send_unary_reply(1, b"never read")
    peer.read()
    assert peer.send(rst_stream_frame(1, ErrorCode.CANCEL)) == []
    assert peer.connection.open_calls == 0
    peer.frames.clear()
    peer.send(window_update_frame(0, 10))
    assert peer.frames == []


def test_what_comes_after_the_answer_is_discarded() -> None:
    """The answer waits for the window, the client still sends: nobody wants to hear of it."""
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 4})
    peer.send(peer.headers(1), peer.data(1, grpc(b"question")[:7]))
    connection = peer.connection
    assert connection.send_response_headers(1)
    assert connection.send_message(1, b"answer")
    assert connection.send_trailers(1, 0)
    assert not connection.send_message(1, b"more")
    assert not connection.send_trailers(1, 2)
    assert not connection.send_unary_reply(1, b"again")
    assert not connection.send_response_headers(1)
    assert peer.send(peer.data(1, grpc(b"question")[7:], end=True)) == []
    assert peer.send(window_update_frame(1, 100)) == []
    assert peer.body(1) == grpc(b"answer")
    assert peer.of(RST_STREAM) == []
    assert connection.open_calls == 0
    assert connection.buffered_bytes == 0


def test_a_message_in_pieces_is_one_message() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    connection = peer.connection
    replies: list[list[bytes | memoryview]] = [
        [b"a"],
        [b"a", memoryview(b"bc"), b""],
        [b"d", bytes(30_000)],
    ]
    for stream_id, pieces in zip((1, 3, 5), replies, strict=True):
        peer.opened(stream_id)
        assert connection.send_unary_reply(stream_id, pieces)
        peer.read()
        assert peer.body(stream_id) == grpc(b"".join(pieces))
    peer.opened(7)
    connection.send_response_headers(7)
    connection.send_message(7, [b"x", b"y"])
    peer.read()
    assert peer.body(7) == grpc(b"xy")


def test_large_pieces_in_one_frame_stay_apart() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20, SETTING_MAX_FRAME_SIZE: 1 << 20})
    peer.opened(1)
    large = [bytes(20_000), bytes(25_000)]
    peer.connection.send_unary_reply(1, [*large])
    output = peer.connection.take_output()
    assert [b.obj for b in output if isinstance(b, memoryview)] == large
    assert len(output) == 4


def test_a_call_dropped_between_turns_is_passed_over() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    peer.opened(1)
    peer.opened(3)
    peer.connection.send_unary_reply(1, bytes(20_000))
    peer.connection.send_unary_reply(3, bytes(20_000))
    peer.connection.reset(1)
    peer.read()
    assert peer.body(1) == b""
    assert len(peer.body(3)) == 20_005
    assert len(peer.of(RST_STREAM)) == 1


@pytest.mark.parametrize("nbytes", [3, 12_000, 200_000])
def test_a_message_in_pieces_is_one_message_and_large_pieces_are_not_copied(nbytes: int) -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 30})
    peer.send(window_update_frame(0, 1 << 30))
    tensor = memoryview(bytearray(nbytes))
    whole = grpc(b"head" + bytes(nbytes) + b"tail")
    connection = peer.connection
    for stream_id in (1, 3, 5):
        peer.opened(stream_id)
        connection.send_unary_reply(stream_id, [b"head", tensor, b"tail"])
        peer.read()
        assert peer.body(stream_id) == whole

    peer.opened(7)
    connection.send_response_headers(7)
    connection.send_message(7, [b"head", tensor, b"tail"])
    buffers = connection.take_output()
    shared = [each for each in buffers if isinstance(each, memoryview) and each.obj is tensor.obj]
    assert bool(shared) == (nbytes == 200_000)


# ---- the shape of gRPC's C core ----------------------------------------------------------------


def test_a_call_with_a_window_update_before_its_data_is_taken_whole() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    peer.send(settings_frame({SETTING_INITIAL_WINDOW_SIZE: 3}))
    (call,) = peer.send(
        peer.headers(1),
        window_update_frame(1, 100),
        peer.data(1, grpc(b"question"), end=True),
        window_update_frame(0, 5),
    )
    assert isinstance(call, UnaryCall)
    assert call.message == b"question"
    peer.connection.send_unary_reply(1, bytes(98))  # 103 octets with the prefix
    assert [len(each.payload) for each in peer.read() if each.kind == DATA] == [103]


@pytest.mark.parametrize("increment", [0, 2**31 - 1])
def test_a_wrong_window_update_before_the_data_ends_that_call(increment: int) -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    events = peer.send(
        peer.headers(1), window_update_frame(1, increment), peer.data(1, grpc(b"q"), end=True)
    )
    assert not [event for event in events if isinstance(event, UnaryCall)]
    wrong = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
    assert peer.reset_of(1) == wrong


def test_a_window_update_of_another_call_may_stand_before_the_data() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    peer.send(peer.headers(1))
    (call,) = peer.send(
        peer.headers(3), window_update_frame(1, 7), peer.data(3, grpc(b"q"), end=True)
    )
    assert isinstance(call, UnaryCall)
    assert call.stream_id == 3
