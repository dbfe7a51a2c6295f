"""h2spec's cases for RFC 9113 section 6: each kind of frame. 42 of them."""

from __future__ import annotations

from typing import Final

from protocol.http2_wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from tests.conformance.h2spec_client import (
    BODY,
    PINGS,
    Case,
    Client,
    alive,
    answered,
    body_is,
    connection_error,
    continuation,
    data,
    headers,
    priority,
    stream_error,
)

PROTOCOL: Final = ErrorCode.PROTOCOL_ERROR
SIZE: Final = ErrorCode.FRAME_SIZE_ERROR
FLOW: Final = ErrorCode.FLOW_CONTROL_ERROR
LARGEST: Final = 2**31 - 1


def acked_at_once(client: Client) -> None:
    assert client.closed is None
    assert [f.flags for f in client.of(SETTINGS)] == [ACK]


def not_answered(client: Client) -> None:
    assert client.of(PING) == []
    alive(client)


def padded_beyond(client: Client) -> bytes:
    return headers(1, b"\xff" + client.block(), END_HEADERS | END_STREAM | PADDED)


def parts(client: Client, *, last: bool) -> bytes:
    """HEADERS and two CONTINUATION frames; the third ends the block if `last`."""
    block = client.block(x_long="y" * 200)
    octets = headers(1, block[:50], END_STREAM) + continuation(1, block[50:100], 0)
    return octets + continuation(1, block[100:], END_HEADERS if last else 0)


CASES: Final = [
    Case("http2/6.1/1", "DATA on stream 0", data(0, b"test"), connection_error(PROTOCOL)),
    Case(
        "http2/6.1/2",
        "DATA on a stream that is not open",
        lambda c: c.get(1) + data(1, b"test"),
        stream_error(ErrorCode.STREAM_CLOSED),
    ),
    Case(
        "http2/6.1/3",
        "DATA with too much padding",
        lambda c: c.get(1, method="POST", end=False) + data(1, b"\x06test", PADDED | END_STREAM),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.2/1",
        "HEADERS, then PRIORITY before the block ends",
        lambda c: c.get(1, flags=0) + priority(1, 0),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.2/2",
        "HEADERS, then HEADERS of another stream before the block ends",
        lambda c: c.get(1, flags=0) + c.get(3),
        connection_error(PROTOCOL),
    ),
    Case("http2/6.2/3", "HEADERS on stream 0", lambda c: c.get(0), connection_error(PROTOCOL)),
    Case("http2/6.2/4", "HEADERS with too much padding", padded_beyond, connection_error(PROTOCOL)),
    Case("http2/6.3/1", "PRIORITY on stream 0", priority(0, 0), connection_error(PROTOCOL)),
    Case(
        "http2/6.3/2",
        "PRIORITY of 4 octets",
        lambda c: c.get(1, end=False) + frame(PRIORITY, 0, 1, bytes(4)),
        stream_error(SIZE),
    ),
    Case(
        "http2/6.4/1",
        "RST_STREAM on stream 0",
        rst_stream_frame(0, 8),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.4/2",
        "RST_STREAM on an idle stream",
        rst_stream_frame(1, 8),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.4/3",
        "RST_STREAM of 3 octets",
        lambda c: c.get(1, end=False) + frame(RST_STREAM, 0, 1, bytes(3)),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.5/1",
        "SETTINGS acknowledgement with a payload",
        frame(SETTINGS, ACK, 0, bytes(6)),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.5/2",
        "SETTINGS on a stream",
        frame(SETTINGS, 0, 1, bytes(6)),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.5/3",
        "SETTINGS of 3 octets",
        frame(SETTINGS, 0, 0, bytes(3)),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.5.2/1",
        "ENABLE_PUSH 2",
        settings_frame({2: 2}),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.5.2/2",
        "INITIAL_WINDOW_SIZE 2^31",
        settings_frame({4: 2**31}),
        connection_error(FLOW),
    ),
    Case(
        "http2/6.5.2/3",
        "MAX_FRAME_SIZE 16383",
        settings_frame({5: 16_383}),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.5.2/4",
        "MAX_FRAME_SIZE 2^24",
        settings_frame({5: 2**24}),
        connection_error(PROTOCOL),
    ),
    Case("http2/6.5.2/5", "unknown setting", settings_frame({0xFF: 1}), alive),
    Case(
        "http2/6.5.3/1",
        "two values of INITIAL_WINDOW_SIZE: the last counts",
        lambda c: (
            frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x64\x00\x04\x00\x00\x00\x01") + c.get(1)
        ),
        body_is(1, BODY[:1]),
    ),
    Case("http2/6.5.3/2", "SETTINGS is acknowledged", settings_frame({}), acked_at_once),
    Case("http2/6.7/1", "PING is answered", frame(PING, 0, 0, PINGS), alive),
    Case("http2/6.7/2", "PING ACK is not", frame(PING, ACK, 0, b"invalid!"), not_answered),
    Case(
        "http2/6.7/3",
        "PING on a stream",
        frame(PING, 0, 1, bytes(8)),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.7/4",
        "PING of 6 octets",
        frame(PING, 0, 0, bytes(6)),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.8/1",
        "GOAWAY on a stream",
        frame(0x7, 0, 1, bytes(8)),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.9/1",
        "WINDOW_UPDATE of 0",
        window_update_frame(0, 0),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.9/2",
        "WINDOW_UPDATE of 0 on a stream",
        lambda c: c.get(1, end=False) + window_update_frame(1, 0),
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/6.9/3",
        "WINDOW_UPDATE of 3 octets",
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        connection_error(SIZE),
    ),
    Case(
        "http2/6.9.1/1",
        "a window of 1 is kept",
        lambda c: settings_frame({4: 1}) + c.get(1),
        body_is(1, BODY[:1]),
    ),
    Case(
        "http2/6.9.1/2",
        "the connection's window over 2^31-1",
        window_update_frame(0, LARGEST) * 2,
        connection_error(FLOW),
    ),
    Case(
        "http2/6.9.1/3",
        "a stream's window over 2^31-1",
        lambda c: c.get(1, end=False) + window_update_frame(1, LARGEST) * 2,
        stream_error(FLOW),
    ),
    Case(
        "http2/6.9.2/1",
        "INITIAL_WINDOW_SIZE changes open streams",
        lambda c: (settings_frame({4: 0}) + c.get(1), settings_frame({4: 1})),
        body_is(1, BODY[:1]),
    ),
    Case(
        "http2/6.9.2/2",
        "a window may become negative",
        lambda c: (
            settings_frame({4: 3}) + c.get(1),
            settings_frame({4: 2}),
            window_update_frame(1, 2),
        ),
        body_is(1, BODY[:4]),
    ),
    Case(
        "http2/6.9.2/3",
        "INITIAL_WINDOW_SIZE over the limit",
        settings_frame({4: 2**31}),
        connection_error(FLOW),
    ),
    Case(
        "http2/6.10/1",
        "several CONTINUATION frames",
        lambda c: parts(c, last=True),
        answered(1),
    ),
    Case(
        "http2/6.10/2",
        "CONTINUATION, then another frame",
        lambda c: parts(c, last=False) + data(1, b"test"),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/3",
        "CONTINUATION on stream 0",
        lambda c: c.get(1, flags=0) + continuation(0, c.block()),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/4",
        "CONTINUATION after HEADERS with END_HEADERS",
        lambda c: c.get(1, end=False) + continuation(1, c.block()),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/5",
        "CONTINUATION after CONTINUATION with END_HEADERS",
        lambda c: parts(c, last=True) + continuation(1, c.block()),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/6.10/6",
        "CONTINUATION after DATA",
        lambda c: (
            c.get(1, method="POST", end=False) + data(1, b"test", 0) + continuation(1, c.block())
        ),
        connection_error(PROTOCOL),
    ),
]
