"""The client and the little server of the h2spec cases, and what a case may expect.

The numbering is that of the public h2spec suite, so that results can be compared. The codec
speaks gRPC; like any frontend, the little server answers other requests with plain HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.http2_events import CallHalfClosed, ConnectionClosed, Event, HttpRequest
from protocol.http2_limits import Http2Limits
from protocol.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    ErrorCode,
    frame,
)
from tests.protocol.http2_peer import Fields, Peer, request

BODY: Final = b"hello"
LIMITS: Final = Http2Limits(max_frame_bytes=16_384, max_concurrent_streams=100)
PINGS: Final = b"h2spec!!"


class Client(Peer):
    """Sends what a case says, while the server answers every plain request that is complete."""

    def __init__(self, *, handshake: bool = True) -> None:
        super().__init__(LIMITS, handshake=handshake)
        self.closed: ConnectionClosed | None = None

    def step(self, octets: bytes) -> None:
        for event in self.send(octets):
            self._answer(event)
        self.read()

    def _answer(self, event: Event) -> None:
        match event:
            case HttpRequest(stream_id=stream_id, head=head, end_stream=True):
                body = b"" if head.method == "HEAD" else BODY
                self.connection.send_http_response(stream_id, 200, (), body)
            case CallHalfClosed(stream_id=stream_id):
                self.connection.send_http_response(stream_id, 200, (), BODY)
            case ConnectionClosed():
                self.closed = event
            case _:
                pass

    # Short names for what the cases are made of.

    def get(
        self, stream_id: int, *, end: bool = True, flags: int = END_HEADERS, **changes: str | None
    ) -> bytes:
        """A request that is not gRPC."""
        return self.headers(stream_id, plain(**changes), flags=flags, end=end)

    def block(self, **changes: str | None) -> bytes:
        """The header block of such a request alone."""
        return bytes(self.encoder.encode(plain(**changes)))


def plain(**changes: str | None) -> Fields:
    fields = request(method="GET", content_type=None, te=None, user_agent=None)
    left = {name.replace("_", "-"): value for name, value in changes.items()}
    for position, (name, value) in enumerate(fields):
        fields[position] = (name, left.pop(name.removeprefix(":"), value) or "")
    return fields + [(name, value) for name, value in left.items() if value is not None]


def without(name: str) -> Fields:
    return [field for field in plain() if field[0] != name]


def priority(
    stream_id: int, depends_on: int, weight: int = 255, *, exclusive: bool = False
) -> bytes:
    word = depends_on | (1 << 31 if exclusive else 0)
    return frame(PRIORITY, 0, stream_id, word.to_bytes(4, "big") + bytes((weight,)))


def headers(stream_id: int, block: bytes, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream_id, block)


def continuation(stream_id: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(CONTINUATION, flags, stream_id, block)


# ---- expectations ----------------------------------------------------------------------------

Expectation = Callable[[Client], None]


def answered(stream_id: int = 1) -> Expectation:
    """A head came back, and the connection lives."""

    def check(client: Client) -> None:
        assert client.closed is None, client.closed
        assert client.of(HEADERS, stream_id), "no answer"

    return check


def alive(client: Client) -> None:
    """A PING is answered, and nothing was refused."""
    client.step(frame(PING, 0, 0, PINGS))
    assert client.closed is None, client.closed
    assert [f.payload for f in client.of(PING) if f.flags & ACK][-1] == PINGS


def connection_error(*codes: ErrorCode) -> Expectation:
    def check(client: Client) -> None:
        assert client.closed is not None, "the connection still lives"
        assert client.closed.error_code in codes, client.closed
        assert client.goaway_code() == client.closed.error_code

    return check


def stream_error(*codes: ErrorCode, stream_id: int = 1) -> Expectation:
    """RST_STREAM, or the stronger GOAWAY, with one of the codes."""

    def check(client: Client) -> None:
        found = client.goaway_code() if client.closed else client.reset_of(stream_id)
        assert found in codes, found

    return check


@dataclass(frozen=True)
class Case:
    """`sent`: chunks, sent one after another while the server answers between them; made by the
    client where its header compression is needed."""

    number: str
    title: str
    sent: bytes | Callable[[Client], bytes | tuple[bytes, ...]]
    expected: Expectation

    def run(self, client: Client) -> None:
        sent = self.sent if isinstance(self.sent, bytes) else self.sent(client)
        for octets in (sent,) if isinstance(sent, bytes) else sent:
            client.step(octets)
        self.expected(client)


def body_is(stream_id: int, octets: bytes) -> Expectation:
    def check(client: Client) -> None:
        assert client.closed is None, client.closed
        assert client.body(stream_id) == octets

    return check


def data(stream_id: int, octets: bytes, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream_id, octets)
