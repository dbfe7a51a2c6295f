"""h2spec's cases for RFC 9113 sections 3 to 5: connections, frames, streams. 33 of them."""

from __future__ import annotations

from typing import Final

from protocol.http2_wire import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WITH_PRIORITY,
    ErrorCode,
    frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from tests.conformance.h2spec_client import (
    LIMITS,
    PINGS,
    Case,
    Client,
    alive,
    answered,
    connection_error,
    continuation,
    data,
    headers,
    priority,
    stream_error,
)

PROTOCOL: Final = ErrorCode.PROTOCOL_ERROR
CLOSED: Final = ErrorCode.STREAM_CLOSED
SIZE: Final = ErrorCode.FRAME_SIZE_ERROR
CANCEL: Final = rst_stream_frame(1, ErrorCode.CANCEL)
UNKNOWN: Final = frame(0x16, 0, 0, bytes(8))


def settings_came_first(client: Client) -> None:
    assert client.frames[0].kind == SETTINGS
    assert not client.frames[0].flags


def too_many_at_once(client: Client) -> bytes:
    # Nothing is complete, so nothing is answered.
    calls = range(1, 2 * LIMITS.max_concurrent_streams + 2, 2)
    return b"".join(client.get(stream_id, end=False) for stream_id in calls)


def self_dependent(client: Client) -> bytes:
    flags = END_HEADERS | END_STREAM | WITH_PRIORITY
    return headers(1, b"\x00\x00\x00\x01\xff" + client.block(), flags)


# These are run before the handshake.
FIRST: Final = [
    Case("http2/3.5/1", "preface", PREFACE + settings_frame({}), settings_came_first),
    Case(
        "http2/3.5/2",
        "wrong preface",
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        connection_error(PROTOCOL),
    ),
]

FRAMES: Final = [
    Case("http2/4.1/1", "unknown kind of frame", UNKNOWN, alive),
    Case("http2/4.1/2", "unknown flag", frame(PING, 0x16, 0, PINGS), alive),
    Case("http2/4.1/3", "reserved bit", frame(PING, 0, 1 << 31, PINGS), alive),
    Case(
        "http2/4.2/1",
        "DATA of 2^14 octets",
        lambda c: c.get(1, method="POST", end=False) + data(1, bytes(16_384)),
        answered(1),
    ),
    Case(
        "http2/4.2/2",
        "DATA larger than MAX_FRAME_SIZE",
        lambda c: c.get(1, method="POST", end=False) + data(1, bytes(16_385)),
        stream_error(SIZE),
    ),
    Case(
        "http2/4.2/3",
        "HEADERS larger than MAX_FRAME_SIZE",
        lambda c: headers(1, c.block(x="y" * 30_000)),
        connection_error(SIZE),
    ),
    Case(
        "http2/4.3/1",
        "invalid header block",
        headers(1, b"\x40"),
        connection_error(ErrorCode.COMPRESSION_ERROR),
    ),
    Case(
        "http2/4.3/2",
        "PRIORITY inside a header block",
        lambda c: c.get(1, flags=0) + priority(1, 0),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/4.3/3",
        "HEADERS of another stream inside a header block",
        lambda c: c.get(1, flags=0) + c.get(3),
        connection_error(PROTOCOL),
    ),
]

STATES: Final = [
    Case("http2/5.1/1", "idle: DATA", data(1, b"test"), connection_error(PROTOCOL)),
    Case("http2/5.1/2", "idle: RST_STREAM", CANCEL, connection_error(PROTOCOL)),
    Case(
        "http2/5.1/3",
        "idle: WINDOW_UPDATE",
        window_update_frame(1, 100),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/5.1/4",
        "idle: CONTINUATION",
        lambda c: continuation(1, c.block()),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/5.1/5",
        "half-closed (remote): DATA",
        lambda c: c.get(1) + data(1, b"test"),
        stream_error(CLOSED),
    ),
    Case(
        "http2/5.1/6",
        "half-closed (remote): HEADERS",
        lambda c: c.get(1) + c.get(1),
        stream_error(CLOSED),
    ),
    Case(
        "http2/5.1/7",
        "half-closed (remote): CONTINUATION",
        lambda c: c.get(1) + continuation(1, c.block()),
        stream_error(CLOSED, PROTOCOL),
    ),
    Case(
        "http2/5.1/8",
        "reset by the client: DATA",
        lambda c: c.get(1, end=False) + CANCEL + data(1, b"test"),
        stream_error(CLOSED),
    ),
    Case(
        "http2/5.1/9",
        "reset by the client: HEADERS",
        lambda c: c.get(1, end=False) + CANCEL + c.get(1),
        stream_error(CLOSED),
    ),
    Case(
        "http2/5.1/10",
        "reset by the client: CONTINUATION",
        lambda c: c.get(1, end=False) + CANCEL + continuation(1, c.block()),
        stream_error(CLOSED, PROTOCOL),
    ),
    Case(
        "http2/5.1/11",
        "closed: DATA",
        lambda c: (c.get(1), data(1, b"test")),
        connection_error(CLOSED),
    ),
    Case(
        "http2/5.1/12", "closed: HEADERS", lambda c: (c.get(1), c.get(1)), connection_error(CLOSED)
    ),
    Case(
        "http2/5.1/13",
        "closed: CONTINUATION",
        lambda c: (c.get(1), continuation(1, c.block())),
        connection_error(CLOSED, PROTOCOL),
    ),
    Case("http2/5.1.1/1", "even stream", lambda c: c.get(100), connection_error(PROTOCOL)),
    Case(
        "http2/5.1.1/2",
        "stream lower than the last",
        lambda c: c.get(5) + c.get(3),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/5.1.2/1",
        "more streams than allowed",
        too_many_at_once,
        stream_error(PROTOCOL, ErrorCode.REFUSED_STREAM, stream_id=201),
    ),
    Case("http2/5.3.1/1", "HEADERS that depends on itself", self_dependent, stream_error(PROTOCOL)),
    Case(
        "http2/5.3.1/2",
        "PRIORITY that depends on itself",
        lambda c: c.get(1, end=False) + priority(1, 1),
        stream_error(PROTOCOL),
    ),
    Case(
        "http2/5.4.1/1",
        "connection error: the connection is closed",
        frame(PING, 0, 3, bytes(8)),
        connection_error(PROTOCOL),
    ),
    Case(
        "http2/5.4.1/2",
        "connection error: GOAWAY comes first",
        frame(PING, 0, 3, bytes(8)),
        connection_error(PROTOCOL),
    ),
    Case("http2/5.5/1", "extension frame", UNKNOWN, alive),
    Case(
        "http2/5.5/2",
        "extension frame inside a header block",
        lambda c: frame(HEADERS, END_STREAM, 1, c.block()) + UNKNOWN,
        connection_error(PROTOCOL),
    ),
]

CASES: Final = [*FRAMES, *STATES]
