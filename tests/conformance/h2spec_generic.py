"""h2spec's generic cases: 44 things that every server has to accept."""

from __future__ import annotations

from typing import Final

from protocol.hpack import encode_literal, write_integer
from protocol.hpack_tables import huffman_encode
from protocol.http2_wire import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    WITH_PRIORITY,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from tests.conformance.h2spec_client import (
    Case,
    Client,
    alive,
    answered,
    continuation,
    data,
    headers,
    priority,
)

FIRST_THREE: Final = b"\x82\x86\x84"  # GET, http, /
AUTHORITY: Final = encode_literal(":authority", "localhost", 0, 4)


def acked(client: Client) -> None:
    assert client.closed is None
    assert client.settings_acks() == 1


def coded(name: str, value: str, first: int, bits: int, index: int = 0) -> bytes:
    """A literal whose strings are Huffman-coded."""
    block = write_integer(index, bits, first)
    for text in (name, value) if not index else (value,):
        octets = huffman_encode(text)
        block += write_integer(len(octets), 7, 0x80) + octets
    return block


def with_field(block: bytes) -> bytes:
    return headers(1, FIRST_THREE + AUTHORITY + block)


def three_parts(client: Client) -> bytes:
    block = client.block(x_long="y" * 300)
    return (
        headers(1, block[:100], END_STREAM)
        + continuation(1, block[100:200], 0)
        + continuation(1, block[200:])
    )


CASES: Final = [
    Case("generic/1/1", "client preface", frame(PING, 0, 0, bytes(8)), alive),
    Case(
        "generic/2/1",
        "PRIORITY on an idle stream",
        lambda c: priority(1, 0) + c.get(1),
        answered(1),
    ),
    Case(
        "generic/2/2",
        "WINDOW_UPDATE on a half-closed stream",
        lambda c: settings_frame({4: 0}) + c.get(1) + window_update_frame(1, 100),
        answered(1),
    ),
    Case(
        "generic/2/3",
        "PRIORITY on a half-closed stream",
        lambda c: c.get(1) + priority(1, 0),
        answered(1),
    ),
    Case(
        "generic/2/4",
        "RST_STREAM on a half-closed stream",
        lambda c: c.get(1) + rst_stream_frame(1, ErrorCode.CANCEL),
        alive,
    ),
    Case(
        "generic/2/5",
        "PRIORITY on a closed stream",
        lambda c: (c.get(1), priority(1, 0)),
        alive,
    ),
    Case(
        "generic/3.1/1",
        "DATA",
        lambda c: c.get(1, method="POST", end=False) + data(1, b"test"),
        answered(1),
    ),
    Case(
        "generic/3.1/2",
        "several DATA frames",
        lambda c: c.get(1, method="POST", end=False) + data(1, b"test", 0) + data(1, b"test"),
        answered(1),
    ),
    Case(
        "generic/3.1/3",
        "DATA with padding",
        lambda c: (
            c.get(1, method="POST", end=False)
            + data(1, b"\x08test" + bytes(8), PADDED | END_STREAM)
        ),
        answered(1),
    ),
    Case("generic/3.2/1", "HEADERS", lambda c: c.get(1), answered(1)),
    Case(
        "generic/3.2/2",
        "HEADERS with padding",
        lambda c: headers(1, b"\x08" + c.block() + bytes(8), END_HEADERS | END_STREAM | PADDED),
        answered(1),
    ),
    Case(
        "generic/3.2/3",
        "HEADERS with priority",
        lambda c: headers(
            1, bytes(4) + b"\xff" + c.block(), END_HEADERS | END_STREAM | WITH_PRIORITY
        ),
        answered(1),
    ),
    Case("generic/3.3/1", "priority 1", lambda c: priority(1, 0, 0) + c.get(1), answered(1)),
    Case("generic/3.3/2", "priority 256", lambda c: priority(1, 0, 255) + c.get(1), answered(1)),
    Case(
        "generic/3.3/3",
        "dependency on another stream",
        lambda c: priority(1, 0) + priority(3, 1) + c.get(1),
        answered(1),
    ),
    Case(
        "generic/3.3/4",
        "exclusive dependency",
        lambda c: priority(3, 1, exclusive=True) + c.get(1),
        answered(1),
    ),
    Case(
        "generic/3.3/5",
        "PRIORITY of a higher stream, HEADERS on a lower",
        lambda c: priority(5, 0) + c.get(3),
        answered(3),
    ),
    Case(
        "generic/3.4/1",
        "RST_STREAM",
        lambda c: c.get(1, end=False) + rst_stream_frame(1, ErrorCode.CANCEL),
        alive,
    ),
    Case("generic/3.5/1", "SETTINGS", settings_frame({3: 100}), acked),
    Case("generic/3.7/1", "PING", frame(PING, 0, 0, bytes(8)), alive),
    Case("generic/3.8/1", "GOAWAY", goaway_frame(0, 0), alive),
    Case(
        "generic/3.9/1",
        "WINDOW_UPDATE of the connection",
        window_update_frame(0, 1),
        alive,
    ),
    Case(
        "generic/3.9/2",
        "WINDOW_UPDATE of a stream",
        lambda c: c.get(1, end=False) + window_update_frame(1, 1),
        alive,
    ),
    Case(
        "generic/3.10/1",
        "CONTINUATION",
        lambda c: frame(HEADERS, END_STREAM, 1, b"") + continuation(1, c.block()),
        answered(1),
    ),
    Case("generic/3.10/2", "several CONTINUATION frames", three_parts, answered(1)),
    Case("generic/4/1", "GET", lambda c: c.get(1), answered(1)),
    Case("generic/4/2", "HEAD", lambda c: c.get(1, method="HEAD"), answered(1)),
    Case(
        "generic/4/3",
        "POST",
        lambda c: c.get(1, method="POST", end=False) + data(1, b"test"),
        answered(1),
    ),
    Case(
        "generic/4/4",
        "POST with trailers",
        lambda c: (
            c.get(1, method="POST", end=False, trailer="x-test")
            + data(1, b"test", 0)
            + c.headers(1, [("x-test", "ok")], end=True)
        ),
        answered(1),
    ),
    Case("generic/5/1", "indexed field", headers(1, FIRST_THREE + AUTHORITY), answered(1)),
    *(
        Case(f"generic/5/{number}", title, with_field(block), answered(1))
        for number, title, block in (
            (2, "indexed name", encode_literal("user-agent", "t", 0x40, 6)),
            (3, "indexed name, Huffman", coded("", "t", 0x40, 6, 58)),
            (4, "new name", encode_literal("x-test", "t", 0x40, 6)),
            (5, "new name, Huffman", coded("x-test", "t", 0x40, 6)),
            (6, "not indexed, indexed name", encode_literal("user-agent", "t", 0, 4)),
            (7, "not indexed, indexed name, Huffman", coded("", "t", 0, 4, 58)),
            (8, "not indexed, new name", encode_literal("x-test", "t", 0, 4)),
            (9, "not indexed, new name, Huffman", coded("x-test", "t", 0, 4)),
            (10, "never indexed, indexed name", encode_literal("user-agent", "t", 0x10, 4)),
            (11, "never indexed, indexed name, Huffman", coded("", "t", 0x10, 4, 58)),
            (12, "never indexed, new name", encode_literal("x-test", "t", 0x10, 4)),
            (13, "never indexed, new name, Huffman", coded("x-test", "t", 0x10, 4)),
        )
    ),
    Case(
        "generic/5/14",
        "table size update",
        headers(1, write_integer(128, 5, 0x20) + FIRST_THREE + AUTHORITY),
        answered(1),
    ),
    Case(
        "generic/5/15",
        "two table size updates",
        headers(
            1,
            write_integer(128, 5, 0x20) + write_integer(4096, 5, 0x20) + FIRST_THREE + AUTHORITY,
        ),
        answered(1),
    ),
]
