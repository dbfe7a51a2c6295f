"""Calls through the HTTP/2 codec: what comes in, what goes out."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.http2_events import (
    CallHalfClosed,
    CallOpened,
    CallReset,
    ConnectionClosed,
    Event,
    GoAwayReceived,
    HttpRequest,
    MessageReceived,
    PingAcked,
    UnaryCall,
)
from protocol.http2_limits import Http2Limits
from protocol.http2_output import COPY_BYTES
from protocol.http2_wire import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING_HEADER_TABLE_SIZE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_FRAME_SIZE,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
    settings_frame,
    settings_of,
    window_update_frame,
)
from tests.protocol.http2_peer import PATH, Peer, closed_with, grpc, request

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]
UNARY = frozenset((PATH,))


def bytewise(peer: Peer, octets: bytes) -> list[Event]:
    return [event for pos in range(len(octets)) for event in peer.send(octets[pos : pos + 1])]


# ---- the beginning ---------------------------------------------------------------------------


def test_the_server_announces_its_limits_first_and_acknowledges_the_client_s() -> None:
    peer = Peer(Http2Limits(max_concurrent_streams=7), handshake=False)
    first, update = peer.read()
    assert (first.kind, first.flags, first.stream_id) == (SETTINGS, 0, 0)
    assert dict(settings_of(first.payload)) == {3: 7, 4: 1 << 20, 5: 1 << 20, 6: 16 << 10}
    assert (update.kind, update.number) == (WINDOW_UPDATE, (64 << 20) - 65_535)
    assert peer.send(PREFACE, settings_frame({})) == []
    assert peer.settings_acks() == 1


def test_a_preface_may_come_in_pieces() -> None:
    peer = Peer(handshake=False)
    assert bytewise(peer, PREFACE + settings_frame({1: 4096})) == []
    assert peer.settings_acks() == 1


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01"]
)
def test_a_client_without_the_preface_is_told_so(garbage: bytes) -> None:
    peer = Peer(handshake=False)
    closed = closed_with(peer.send(garbage))
    assert closed.error_code == ErrorCode.PROTOCOL_ERROR
    assert closed.reason == "the client does not speak HTTP/2: no connection preface"
    assert peer.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert peer.connection.is_closed
    assert peer.send(PREFACE) == []


def test_the_first_frame_must_be_settings() -> None:
    for wrong in (frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0)):
        peer = Peer(handshake=False)
        closed = closed_with(peer.send(PREFACE, wrong))
        assert closed.reason == "the first frame is not a SETTINGS frame"


# ---- unary calls -----------------------------------------------------------------------------


def test_a_unary_call_that_comes_whole_is_one_event_and_its_reply_one_buffer() -> None:
    peer = Peer()
    for stream_id in (1, 3, 5):
        call = peer.opened(stream_id, b"question")
        assert (call.stream_id, call.message, call.compressed) == (stream_id, b"question", False)
        assert call.head.path == PATH
        assert call.head.headers == (
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "test"),
        )
        assert peer.connection.send_unary_reply(stream_id, b"answer")
        assert len(peer.connection.take_output()) == 1 or stream_id == 1
        assert peer.connection.open_calls == 0


def test_replies_read_by_another_hpack_decoder() -> None:
    peer = Peer()
    for stream_id in (1, 3, 5, 7):
        peer.opened(stream_id)
        peer.connection.send_unary_reply(stream_id, b"answer", compressed=stream_id == 7)
        peer.read()
        assert peer.heads(stream_id) == [HEAD, OK]
        assert peer.body(stream_id) == grpc(b"answer", flag=int(stream_id == 7))
    assert peer.of(RST_STREAM) == []


def test_a_repeated_header_block_yields_the_same_head() -> None:
    peer = Peer()
    peer.opened(1)  # inserts into the dynamic table
    first = peer.opened(3)
    second = peer.opened(5)
    assert first.head is second.head
    (event,) = peer.send(peer.call(7, b"x", [*request(), ("grpc-timeout", "1S")]))
    assert isinstance(event, UnaryCall)
    assert event.head is not first.head
    assert event.head.headers[-1] == ("grpc-timeout", "1S")
    assert peer.opened(9).head.headers == first.head.headers


def test_many_calls_in_one_chunk() -> None:
    peer = Peer()
    events = peer.send(*(peer.call(stream_id, b"%d" % stream_id) for stream_id in range(1, 99, 2)))
    assert [e.stream_id for e in events if isinstance(e, UnaryCall)] == [*range(1, 99, 2)]
    for stream_id in range(1, 99, 2):
        peer.connection.send_unary_reply(stream_id, b"%d" % stream_id)
    assert len(peer.connection.take_output()) == 1
    assert peer.connection.open_calls == 0


def test_a_call_in_pieces_is_three_events_unless_its_path_is_unary() -> None:
    octets = Peer().call(1, b"question")
    first, second, third = bytewise(peer := Peer(), octets)
    assert isinstance(first, CallOpened)
    assert (first.stream_id, first.head.path, first.end_stream) == (1, PATH, False)
    assert second == MessageReceived(1, False, bytearray(b"question"))
    assert third == CallHalfClosed(1)
    assert peer.connection.send_unary_reply(1, b"answer")

    (call,) = bytewise(Peer(unary_paths=UNARY), octets)
    assert isinstance(call, UnaryCall)
    assert call.message == b"question"
    assert call.head.is_unary


def test_a_unary_path_with_no_or_two_messages_is_shown_as_it_is() -> None:
    peer = Peer(unary_paths=UNARY)
    assert peer.send(peer.headers(1)) == []
    opened, closed = peer.send(peer.data(1, b"", end=True))
    assert isinstance(opened, CallOpened)
    assert closed == CallHalfClosed(1)

    (opened,) = peer.send(peer.headers(3, end=True))
    assert isinstance(opened, CallOpened)
    assert opened.end_stream

    assert peer.send(peer.headers(5), peer.data(5, grpc(b"one"))) == []
    events = peer.send(peer.data(5, grpc(b"two", flag=1), end=True))
    assert isinstance(events[0], CallOpened)
    assert events[1:] == [
        MessageReceived(5, False, b"one"),
        MessageReceived(5, True, b"two"),
        CallHalfClosed(5),
    ]


def test_a_unary_path_that_is_cancelled_early_is_never_shown() -> None:
    peer = Peer(unary_paths=UNARY)
    assert peer.send(peer.headers(1), peer.data(1, grpc(b"one"))) == []
    assert peer.send(rst_stream_frame(1, ErrorCode.CANCEL)) == []
    assert peer.connection.open_calls == 0
    assert peer.connection.buffered_bytes == 0


def test_a_reply_to_a_call_that_is_over_does_nothing() -> None:
    peer = Peer()
    peer.opened(1)
    assert peer.send(rst_stream_frame(1, ErrorCode.CANCEL)) == [CallReset(1, 8, by_peer=True)]
    connection = peer.connection
    assert not connection.send_unary_reply(1, b"late")
    assert not connection.send_response_headers(1)
    assert not connection.send_message(1, b"late")
    assert not connection.send_trailers(1, 0)
    assert not connection.send_http_response(1, 200)
    assert not connection.reset(1)
    assert not connection.writable(1)
    assert connection.pending_bytes(1) == 0
    connection.acknowledge(1, 5)
    assert not connection.has_output
    assert connection.take_output() == []


# ---- messages --------------------------------------------------------------------------------


def test_a_large_message_in_one_chunk_is_a_view_and_one_in_pieces_is_put_together() -> None:
    payload = bytes(range(256)) * 400
    peer = Peer()
    call = peer.opened(1, payload)
    assert isinstance(call.message, memoryview)
    assert call.message == payload
    octets = peer.call(3, payload)
    events = [*peer.send(octets[:50_000]), *peer.send(octets[50_000:])]
    assert isinstance(events[1], MessageReceived)
    assert isinstance(events[1].message, memoryview)
    assert events[1].message == payload


@pytest.mark.parametrize("head_bytes", range(17, 34))
def test_a_tensor_at_the_end_of_a_message_in_pieces_is_aligned(head_bytes: int) -> None:
    tensor = np.arange(30_000, dtype=np.float64)
    octets = Peer().call(1, b"h" * head_bytes + tensor.tobytes())
    peer = Peer()
    events = [*peer.send(octets[:50_000]), *peer.send(octets[50_000:])]
    assert isinstance(events[1], MessageReceived)
    found = np.frombuffer(events[1].message[head_bytes:], dtype=np.float64)
    assert found.flags.aligned
    assert (found == tensor).all()


def test_messages_are_found_wherever_frames_and_chunks_are_cut() -> None:
    messages = [b"", b"a", b"bb" * 10, b"", b"c" * 300]
    body = b"".join(grpc(message) for message in messages)
    for step in (1, 2, 3, 4, 5, 6, 7, 50, len(body)):
        peer = Peer()
        octets = peer.headers(1)
        for pos in range(0, len(body), step):
            octets += peer.data(1, body[pos : pos + step])
        octets += peer.data(1, b"", end=True)
        for events in (peer.send(octets), bytewise(Peer(), octets)):
            found = [bytes(e.message) for e in events if isinstance(e, MessageReceived)]
            assert found == messages
            assert events[-1] == CallHalfClosed(1)


def test_padding_is_no_part_of_a_message_and_costs_no_credit() -> None:
    peer = Peer()
    padded = b"\x07" + grpc(b"hello") + bytes(7)
    events = bytewise(peer, peer.headers(1) + peer.data(1, padded, end=True, flags=PADDED))
    assert MessageReceived(1, False, bytearray(b"hello")) in events
    assert peer.connection.buffered_bytes == 10
    empty = b"\x04" + bytes(4)
    assert len(peer.send(peer.headers(3), peer.data(3, empty, end=True, flags=PADDED))) == 2


def test_a_message_over_the_limit_ends_that_call_only() -> None:
    peer = Peer(Http2Limits(max_message_bytes=100))
    peer.send(peer.headers(1), peer.data(1, b""))
    assert peer.send(peer.data(1, grpc(b"x" * 101)[:8])) == [CallReset(1, 0, by_peer=False)]
    assert peer.heads(1) == [
        [
            *HEAD,
            ("grpc-status", "8"),
            ("grpc-message", "Received message larger than max (101 vs. 100)"),
        ]
    ]
    assert peer.reset_of(1) == ErrorCode.NO_ERROR
    assert peer.send(peer.data(1, b"x" * 98, end=True)) == []  # was under way
    assert peer.opened(3, b"y" * 100).message == b"y" * 100
    assert peer.send(peer.call(5, b"z" * 101))[-1] == CallReset(5, 0, by_peer=False)


def test_a_compressed_flag_must_be_a_bit() -> None:
    peer = Peer()
    events = peer.send(peer.headers(1), peer.data(1, grpc(b"x", flag=2), end=True))
    assert events[-1] == CallReset(1, 0, by_peer=False)
    (trailers,) = peer.heads(1)
    assert ("grpc-status", "13") in trailers
    assert ("grpc-message", "a message's compressed flag is 2, not 0 or 1") in trailers


def test_a_call_that_ends_inside_a_message_is_an_error_of_that_call() -> None:
    for cut in (3, 7):
        peer = Peer(unary_paths=UNARY)
        events = peer.send(peer.headers(1), peer.data(1, grpc(b"hello")[:cut], end=True))
        assert events == []  # the frontend never heard of it
        (trailers,) = peer.heads(1)
        assert ("grpc-message", "the call ended inside a message") in trailers
        assert peer.reset_of(1) is None
        assert peer.connection.buffered_bytes == 0


def test_trailers_from_the_client_half_close() -> None:
    peer = Peer()
    peer.send(peer.headers(1), peer.data(1, grpc(b"hello")))
    assert peer.send(peer.headers(1, [("x-checksum", "1")], end=True)) == [CallHalfClosed(1)]


# ---- responses -------------------------------------------------------------------------------


def test_a_streaming_call() -> None:
    peer = Peer()
    peer.send(peer.headers(1), peer.data(1, grpc(b"go")))
    connection = peer.connection
    assert connection.send_response_headers(1, (("grpc-encoding", "gzip"),))
    assert not connection.send_response_headers(1)
    for number in range(3):
        assert connection.send_message(1, b"part %d" % number, compressed=number == 2)
    assert peer.send(peer.data(1, b"", end=True)) == [CallHalfClosed(1)]
    assert connection.send_trailers(1, 5, "not%20found", (("x-detail", "y"),))
    peer.read()
    assert peer.body(1) == grpc(b"part 0") + grpc(b"part 1") + grpc(b"part 2", flag=1)
    assert peer.of(DATA)[0].flags == 0
    assert peer.heads(1) == [
        [*HEAD, ("grpc-encoding", "gzip")],
        [("grpc-status", "5"), ("grpc-message", "not%20found"), ("x-detail", "y")],
    ]
    assert connection.open_calls == 0


@pytest.mark.parametrize("message", ["full", "no room for " + 40 * "a long name "])
def test_the_same_failure_is_told_to_everybody_in_the_same_words(message: str) -> None:
    for status in (14, 8):
        peer = Peer()
        told = [*HEAD, ("grpc-status", str(status)), ("grpc-message", message)]
        for stream in (1, 3, 5):
            peer.send(peer.headers(stream), peer.data(stream, grpc(b"go"), end=True))
            peer.connection.send_trailers(stream, status, message)
            peer.read()
            assert peer.heads(stream) == [told]


def test_an_early_answer_tells_the_client_to_stop_sending() -> None:
    peer = Peer()
    peer.send(peer.headers(1), peer.data(1, grpc(b"go")))
    peer.connection.send_trailers(1, 12, "Unimplemented")
    peer.read()
    assert [f.kind for f in peer.frames] == [HEADERS, RST_STREAM]
    assert peer.frames[0].flags == END_HEADERS | END_STREAM
    assert peer.reset_of(1) == ErrorCode.NO_ERROR
    assert peer.send(peer.data(1, grpc(b"more")), peer.headers(1, [("a", "b")], end=True)) == []
    assert peer.goaway_code() is None


def test_a_large_reply_goes_by_reference_in_frames_that_the_peer_allows() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    peer.send(window_update_frame(0, 1 << 20))
    peer.opened(1)
    payload = bytes(range(256)) * 1000
    peer.connection.send_unary_reply(1, payload)
    output = peer.connection.take_output()
    views = [buffer for buffer in output if isinstance(buffer, memoryview)]
    assert all(view.obj is payload for view in views)
    assert sum(map(len, views)) > len(payload) - 2 * COPY_BYTES
    connection_octets = b"".join(output)
    assert len(connection_octets) > len(payload)
    assert peer.connection.open_calls == 0


def test_large_frames_are_used_if_the_peer_allows_them_but_calls_take_turns() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20, SETTING_MAX_FRAME_SIZE: 1 << 20})
    peer.send(window_update_frame(0, 1 << 20))
    peer.opened(1)
    peer.opened(3)
    peer.connection.send_unary_reply(1, b"a" * 300_000)
    peer.connection.send_unary_reply(3, b"b" * 300_000)
    frames = [(f.stream_id, len(f.payload)) for f in peer.read() if f.kind == DATA]
    assert frames == [(1, 262_144), (3, 262_144), (1, 37_861), (3, 37_861)]
    assert peer.body(1) == grpc(b"a" * 300_000)


def test_a_call_alone_takes_no_turns() -> None:
    peer = Peer(settings={SETTING_INITIAL_WINDOW_SIZE: 1 << 20, SETTING_MAX_FRAME_SIZE: 1 << 20})
    peer.send(window_update_frame(0, 1 << 20))
    peer.opened(1)
    peer.connection.send_unary_reply(1, [b"head", b"a" * 150_000, b"b" * 70_000])
    frames = [len(f.payload) for f in peer.read() if f.kind == DATA]
    assert frames == [220_009]
    assert peer.body(1) == grpc(b"head" + b"a" * 150_000 + b"b" * 70_000)


def test_a_peer_without_a_header_table_gets_literals() -> None:
    peer = Peer(settings={SETTING_HEADER_TABLE_SIZE: 0})
    peer.decoder.max_allowed_table_size = 0
    for stream_id in (1, 3, 5):
        peer.opened(stream_id)
        peer.connection.send_unary_reply(stream_id, b"answer")
        peer.read()
        assert peer.heads(stream_id) == [HEAD, OK]


def test_a_peer_that_shrinks_its_header_table_later() -> None:
    peer = Peer()
    for stream_id in (1, 3, 5, 7):
        if stream_id == 5:
            peer.send(settings_frame({SETTING_HEADER_TABLE_SIZE: 100}))
            peer.decoder.max_allowed_table_size = 100
        peer.opened(stream_id)
        peer.connection.send_unary_reply(stream_id, b"answer")
        peer.read()
        assert peer.heads(stream_id) == [HEAD, OK]


def test_heads_and_trailers_index_correctly_in_any_order() -> None:
    peer = Peer()
    connection = peer.connection
    for stream_id in (1, 3, 5, 7, 9):
        peer.opened(stream_id)
    connection.send_trailers(1, 0)
    connection.send_response_headers(3)
    connection.send_response_headers(5, (("x", "y"),))
    connection.send_trailers(3, 3, "m")
    connection.send_trailers(5, 0)
    connection.send_unary_reply(7, b"")
    connection.send_trailers(9, 0)
    heads = {}
    peer.read()
    everything = peer.frames
    for stream_id in (1, 3, 5, 7, 9):
        peer.frames = list(everything)
        peer.decoder = type(peer.decoder)()
        heads[stream_id] = peer.heads(stream_id)
    assert heads == {
        1: [HEAD + OK],
        3: [HEAD, [("grpc-status", "3"), ("grpc-message", "m")]],
        5: [[*HEAD, ("x", "y")], OK],
        7: [HEAD, OK],
        9: [HEAD + OK],
    }


def test_trailers_larger_than_a_frame_continue() -> None:
    peer = Peer()
    peer.opened(1)
    peer.connection.send_trailers(1, 2, "m" * 40_000)
    peer.read()
    assert [len(f.payload) for f in peer.frames][:2] == [16384, 16384]
    assert peer.heads(1)[0][-1] == ("grpc-message", "m" * 40_000)


def test_a_reset_drops_what_waits() -> None:
    peer = Peer()
    peer.opened(1)
    peer.connection.send_response_headers(1)
    peer.connection.send_message(1, b"x" * 100_000)
    assert peer.connection.pending_bytes(1) == 100_005
    assert peer.connection.reset(1, ErrorCode.INTERNAL_ERROR)
    peer.read()
    assert peer.reset_of(1) == ErrorCode.INTERNAL_ERROR
    assert peer.of(DATA) == []


# ---- what is not gRPC ------------------------------------------------------------------------


def test_a_request_that_is_not_grpc_gets_an_http_answer() -> None:
    peer = Peer()
    (event,) = peer.send(peer.headers(1, request(method="GET", content_type=None), end=True))
    assert isinstance(event, HttpRequest)
    assert (event.head.method, event.head.is_grpc, event.end_stream) == ("GET", False, True)
    assert peer.connection.send_http_response(1, 415)
    peer.read()
    assert peer.heads(1) == [[(":status", "415")]]

    opened, closed = peer.send(
        peer.headers(3, request(content_type="application/json")),
        peer.data(3, b"{}" * 500),
        peer.data(3, b"", end=True),
    )
    assert isinstance(opened, HttpRequest)
    assert opened.head.content_type == "application/json"
    assert closed == CallHalfClosed(3)
    assert peer.connection.buffered_bytes == 0
    assert peer.connection.send_http_response(3, 415, (("content-type", "text/plain"),), b"no")
    peer.read()
    assert peer.heads(3) == [[(":status", "415"), ("content-type", "text/plain")]]
    assert peer.body(3) == b"no"
    assert peer.of(DATA, 3)[-1].flags == END_STREAM


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/json", False),
    ],
)
def test_which_content_types_are_grpc(content_type: str, *, is_grpc: bool) -> None:
    peer = Peer()
    (event,) = peer.send(peer.headers(1, request(content_type=content_type)))
    assert isinstance(event, CallOpened if is_grpc else HttpRequest)


# ---- the end ---------------------------------------------------------------------------------


def test_the_client_says_goodbye() -> None:
    peer = Peer()
    peer.opened(1)
    assert peer.send(goaway_frame(0, 0, b"bye")) == [GoAwayReceived(0, 0, b"bye")]
    assert peer.connection.send_unary_reply(1, b"still served")


def test_end_of_file_and_close() -> None:
    peer = Peer()
    peer.opened(1)
    assert peer.connection.receive_eof() == [ConnectionClosed(0, "the client closed the socket")]
    assert peer.connection.receive_eof() == []
    assert peer.connection.open_calls == 0

    peer = Peer()
    peer.opened(1)
    peer.connection.close(ErrorCode.INTERNAL_ERROR, "sorry")
    peer.connection.close()
    (goodbye,) = peer.read()
    assert (goodbye.kind, goodbye.number) == (GOAWAY, ErrorCode.INTERNAL_ERROR)
    assert goodbye.payload[8:] == b"sorry"
    assert peer.send(b"anything") == []
    peer.connection.ping(b"12345678")
    assert not peer.connection.has_output


def test_a_ping_of_the_frontend_comes_back() -> None:
    peer = Peer()
    peer.connection.ping(b"12345678")
    (ping,) = peer.read()
    assert (ping.kind, ping.flags, ping.payload) == (PING, 0, b"12345678")
    assert peer.send(frame(PING, ACK, 0, b"12345678")) == [PingAcked(b"12345678")]


def test_limits_that_http2_forbids_are_refused() -> None:
    with pytest.raises(ValueError, match="max_frame_bytes 1 is outside 16384 to 16777215"):
        Http2Limits(max_frame_bytes=1)
    with pytest.raises(ValueError, match="stream_window_bytes 0 is outside 1 to 2147483647"):
        Http2Limits(stream_window_bytes=0)
    with pytest.raises(ValueError, match="connection_window_bytes 1 is outside 65535 to"):
        Http2Limits(connection_window_bytes=1)
    with pytest.raises(ValueError, match="output_bytes 0 is less than 1"):
        Http2Limits(output_bytes=0)
    with pytest.raises(ValueError, match="max_message_bytes -1 is outside 0 to 4294967295"):
        Http2Limits(max_message_bytes=-1)
