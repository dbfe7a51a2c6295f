"""The HTTP/2 client codec against the h2 library and against our own server's codec."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from perf_analyzer.http2_client import ConnectionFailed, Http2Client
from protocol.http2 import Http2Connection
from protocol.http2_events import UnaryCall
from protocol.http2_wire import DATA, HEADERS, PUSH_PROMISE, frame

PATH = "/inference.GRPCInferenceService/ModelInfer"
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "here:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Waiting:
    """Somebody who waits for a call."""

    def __init__(self) -> None:
        self.begun_at = 0.0
        self.messages: list[bytes] = []
        self.ends: list[tuple[int, str]] = []
        self.failures: list[str] = []

    def on_message(self, message: bytes | bytearray | memoryview, now: float) -> None:
        self.messages.append(bytes(message))

    def on_end(self, status: int, text: str, now: float) -> None:
        self.ends.append((status, text))

    def on_failure(self, text: str) -> None:
        self.failures.append(text)


class H2Server:
    """The library's server, which answers every whole message with itself."""

    def __init__(self, **settings: int) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        if settings:
            names = {name: getattr(h2.settings.SettingCodes, name) for name in settings}
            values = {names[name]: value for name, value in settings.items()}
            self.connection.local_settings = h2.settings.Settings(
                client=False, initial_values=values
            )
        self.connection.initiate_connection()
        self.headers: list[list[tuple[str, str]]] = []
        self.bodies: dict[int, bytes] = {}
        self.done: list[int] = []
        self.most_open = 0

    def take(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.headers.append(list(event.headers))
                self.bodies[event.stream_id] = b""
                self.most_open = max(self.most_open, len(self.bodies) - len(self.done))
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                length = event.flow_controlled_length
                self.connection.acknowledge_received_data(length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.done.append(event.stream_id)

    def answer(self, stream_id: int, body: bytes, status: str = "0", **more: str) -> None:
        head = [(":status", "200"), ("content-type", "application/grpc")]
        self.connection.send_headers(stream_id, head)
        for start in range(0, len(body), 16_384):
            self.connection.send_data(stream_id, body[start : start + 16_384])
        trailers = [("grpc-status", status), *more.items()]
        self.connection.send_headers(stream_id, trailers, end_stream=True)


def connected(**settings: int) -> tuple[Http2Client, H2Server]:
    codec, server = Http2Client(FIELDS), H2Server(**settings)
    exchange(codec, server)
    assert codec.ready
    return codec, server


def exchange(codec: Http2Client, server: H2Server) -> None:
    """Carry bytes both ways until nobody has any."""
    while True:
        ours = b"".join(bytes(piece) for piece in codec.out)
        codec.out.clear()
        server.take(ours)
        theirs = server.connection.data_to_send()
        if not ours and not theirs:
            return
        codec.receive(theirs, 1.0)


def test_a_call_goes_there_and_back() -> None:
    codec, server = connected()
    call = Waiting()

    codec.start(call, call, b"question")
    exchange(codec, server)
    server.answer(1, server.bodies[1])
    exchange(codec, server)

    assert server.headers == [FIELDS]
    assert server.bodies[1] == b"\0\0\0\0\x08question"
    assert call.messages == [b"question"]
    assert call.ends == [(0, "")]
    assert codec.open_calls == 0


def test_later_header_blocks_are_short_and_mean_the_same() -> None:
    codec, server = connected()
    call = Waiting()
    sizes = []
    for _ in range(3):
        codec.start(call, call, b"")
        sizes.append(sum(map(len, codec.out)))
        exchange(codec, server)

    assert server.headers == [FIELDS] * 3
    assert sizes[1] == sizes[2] < 40 < sizes[0]


def test_a_server_without_a_header_table_gets_whole_blocks() -> None:
    codec, server = connected(HEADER_TABLE_SIZE=0)
    call = Waiting()
    for _ in range(2):
        codec.start(call, call, b"")
        exchange(codec, server)

    assert server.headers == [FIELDS] * 2


def test_a_message_larger_than_every_window_arrives_whole() -> None:
    codec, server = connected()
    call = Waiting()
    message = bytes(range(256)) * 4000  # 1 MB through windows of 64 KiB

    codec.start(call, call, message)
    codec.start(call, call, message[:100_000])
    exchange(codec, server)

    assert server.bodies[1][5:] == message
    assert server.bodies[3][5:] == message[:100_000]
    assert sorted(server.done) == [1, 3]


def test_a_message_may_come_in_any_pieces() -> None:
    codec, server = connected()
    call = Waiting()
    codec.start(call, call, b"q")
    exchange(codec, server)
    server.answer(1, b"\0\0\0\0\x05hello" * 3)
    data = server.connection.data_to_send()

    for place in range(len(data)):
        codec.receive(data[place : place + 1], 1.0)

    assert call.messages == [b"hello"] * 3
    assert call.ends == [(0, "")]


def test_a_response_that_nobody_wants_is_not_kept() -> None:
    codec, server = connected()
    call = Waiting()

    codec.start(call, call, b"q", keeps=False)
    exchange(codec, server)
    server.answer(1, b"\0\0\0\0\x05hello")
    exchange(codec, server)

    assert call.messages == []
    assert call.ends == [(0, "")]


def test_errors_have_their_status_and_text() -> None:
    codec, server = connected()
    call = Waiting()
    codec.start(call, call, b"q")
    codec.start(call, call, b"q")
    exchange(codec, server)
    trailers = [(":status", "200"), ("grpc-status", "5"), ("grpc-message", "no%20such model")]
    server.connection.send_headers(1, trailers, end_stream=True)
    server.connection.reset_stream(3, error_code=7)
    exchange(codec, server)

    assert call.ends == [(5, "no such model"), (14, "the call was reset by the server (7)")]


def test_no_more_calls_are_open_than_the_server_allows() -> None:
    codec, server = connected(MAX_CONCURRENT_STREAMS=2)
    call = Waiting()
    for _ in range(5):
        codec.start(call, call, b"q")
    exchange(codec, server)

    assert server.done == [1, 3]
    for stream_id in (1, 3, 5, 7, 9):
        server.answer(stream_id, b"")
        exchange(codec, server)
    assert len(call.ends) == 5
    assert server.done == [1, 3, 5, 7, 9]


def test_a_stream_carries_messages_until_it_is_closed() -> None:
    codec, server = connected()
    lane, stamped = Waiting(), Waiting()
    stream_id = codec.open_stream(lane)
    codec.send_message(stream_id, stamped, b"one")
    codec.send_message(stream_id, stamped, b"x" * 200_000)
    codec.half_close(stream_id)
    exchange(codec, server)
    server.answer(stream_id, server.bodies[stream_id])
    exchange(codec, server)

    assert [len(message) for message in lane.messages] == [3, 200_000]
    assert lane.ends == [(0, "")]


def test_calls_say_when_their_bytes_are_ready_to_go() -> None:
    codec, _ = connected()
    call = Waiting()

    codec.start(call, call, b"q")

    assert codec.unsent == [call]


def test_a_server_that_goes_away_fails_what_it_will_not_answer() -> None:
    codec, server = connected()
    first, second = Waiting(), Waiting()
    codec.start(first, first, b"q")
    codec.start(second, second, b"q")
    exchange(codec, server)
    server.connection.close_connection(last_stream_id=1, additional_data=b"bye")
    codec.receive(server.connection.data_to_send(), 1.0)

    assert first.failures == []
    assert second.failures == ["the server closes the connection: bye"]
    with pytest.raises(ConnectionFailed, match="no more calls"):
        codec.start(first, first, b"q")


def test_a_closed_connection_fails_everything() -> None:
    codec, server = connected(MAX_CONCURRENT_STREAMS=1)
    call = Waiting()
    codec.start(call, call, b"q")
    codec.start(call, call, b"q")
    exchange(codec, server)

    codec.receive_eof(2.0)

    assert call.failures == ["the connection was closed by the server"] * 2


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"), "headers cannot be read"),
        (frame(HEADERS, 0, 1, b"") + frame(DATA, 0, 1), "interrupted"),
        (frame(9, 4, 1, b""), "continues that had not begun"),
        (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"), "pushes"),
    ],
)
def test_broken_rules_end_the_connection(octets: bytes, problem: str) -> None:
    codec, _ = connected()
    call = Waiting()
    codec.start(call, call, b"q")

    with pytest.raises(ConnectionFailed, match=problem):
        codec.receive(octets, 1.0)


def test_our_own_server_understands_our_own_client() -> None:
    codec, server = Http2Client(FIELDS), Http2Connection(unary_paths=frozenset({PATH}), now=0.0)
    call = Waiting()
    codec.receive(b"".join(server.take_output()), 0.0)
    codec.start(call, call, b"question")
    events = server.receive(b"".join(bytes(piece) for piece in codec.out), 0.0)
    (unary,) = (event for event in events if isinstance(event, UnaryCall))

    server.send_unary_reply(unary.stream_id, unary.message)
    codec.receive(b"".join(server.take_output()), 1.0)

    assert call.messages == [b"question"]
    assert call.ends == [(0, "")]
