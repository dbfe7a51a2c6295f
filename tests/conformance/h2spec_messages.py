"""h2spec's cases for RFC 9113 sections 7 and 8: error codes and HTTP messages. 20 of them."""

from __future__ import annotations

from typing import Final

from protocol.http2_wire import (
    END_STREAM,
    PUSH_PROMISE,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
)
from tests.conformance.h2spec_client import (
    Case,
    Client,
    alive,
    connection_error,
    data,
    plain,
    stream_error,
    without,
)
from tests.protocol.http2_peer import Fields

MALFORMED: Final = stream_error(ErrorCode.PROTOCOL_ERROR)


def refused(number: str, title: str, fields: Fields) -> Case:
    """A request whose fields alone make it malformed."""
    return Case(f"http2/{number}", title, lambda c: c.headers(1, fields, end=True), MALFORMED)


def post(client: Client, content_length: str | None = None) -> bytes:
    return client.get(1, method="POST", end=False, content_length=content_length)


CASES: Final = [
    Case("http2/7/1", "GOAWAY with an unknown code", goaway_frame(0, 0xFF), alive),
    Case(
        "http2/7/2",
        "RST_STREAM with an unknown code",
        lambda c: c.get(1, end=False) + rst_stream_frame(1, 0xFF),
        alive,
    ),
    Case(
        "http2/8.1/1",
        "second HEADERS without END_STREAM",
        lambda c: post(c) + data(1, b"test", 0) + c.headers(1, [("x-test", "ok")]),
        MALFORMED,
    ),
    refused("8.1.2/1", "upper-case name", [*plain(), ("X-TEST", "ok")]),
    refused("8.1.2.1/1", "unknown pseudo-field", [(":test", "ok"), *plain()]),
    refused("8.1.2.1/2", "pseudo-field of responses", [(":status", "200"), *plain()]),
    Case(
        "http2/8.1.2.1/3",
        "pseudo-field in trailers",
        lambda c: post(c) + data(1, b"test", 0) + c.headers(1, [(":method", "GET")], end=True),
        MALFORMED,
    ),
    refused(
        "8.1.2.1/4",
        "pseudo-field after a field",
        [*without(":path"), ("x-test", "ok"), (":path", "/")],
    ),
    refused("8.1.2.2/1", "connection-specific field", [*plain(), ("connection", "keep-alive")]),
    refused("8.1.2.2/2", "te that is not trailers", [*plain(), ("te", "trailers, deflate")]),
    refused("8.1.2.3/1", "empty :path", plain(path="")),
    refused("8.1.2.3/2", "no :method", without(":method")),
    refused("8.1.2.3/3", "no :scheme", without(":scheme")),
    refused("8.1.2.3/4", "no :path", without(":path")),
    refused("8.1.2.3/5", "two :method", [(":method", "GET"), *plain()]),
    refused("8.1.2.3/6", "two :scheme", [(":scheme", "http"), *plain()]),
    refused("8.1.2.3/7", "two :path", [(":path", "/"), *plain()]),
    Case(
        "http2/8.1.2.6/1",
        "content-length that is not the payload's",
        lambda c: post(c, content_length="1") + data(1, b"test"),
        MALFORMED,
    ),
    Case(
        "http2/8.1.2.6/2",
        "content-length that is not the sum of the payloads",
        lambda c: post(c, content_length="1") + data(1, b"", 0) + data(1, b"test"),
        MALFORMED,
    ),
    Case(
        "http2/8.2/1",
        "PUSH_PROMISE",
        lambda c: c.get(1) + frame(PUSH_PROMISE, END_STREAM | 4, 1, b"\x00\x00\x00\x02"),
        connection_error(ErrorCode.PROTOCOL_ERROR),
    ),
]
