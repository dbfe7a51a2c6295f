"""Request heads: which are well-formed, what is read from them, what is remembered."""

from __future__ import annotations

import pytest

from protocol.hpack import HpackError, encode, encode_literal
from protocol.http2_control import MAX_GOAWAY_BYTES, MAX_SETTINGS_BYTES
from protocol.http2_events import CallOpened, HttpRequest
from protocol.http2_heads import MAX_REMEMBERED_BLOCKS, HeadReader
from protocol.http2_wire import (
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PRIORITY,
    PUSH_PROMISE,
    SETTING_HEADER_TABLE_SIZE,
    SETTINGS,
    WITH_PRIORITY,
    ErrorCode,
    frame,
    settings_frame,
)
from tests.protocol.http2_peer import PATH, Fields, Peer, closed_with, request

LIST_BYTES = 16_384


def reader(*paths: str) -> HeadReader:
    return HeadReader(LIST_BYTES, frozenset(paths))


def fault(fields: Fields) -> str:
    return reader().read(encode(fields)).fault


# ---- the rules for fields ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([*request(), ("Upper", "x")], "field 'Upper' is not allowed"),
        ([*request(), ("", "x")], "field '' is not allowed"),
        ([*request(), ("a b", "x")], "field 'a b' is not allowed"),
        ([*request(), ("a:b", "x")], "field 'a:b' is not allowed"),
        ([*request(), ("x", "a\nb")], "field 'x' is not allowed"),
        ([*request(), ("x", "a\rb")], "field 'x' is not allowed"),
        ([*request(), ("x", "a\0b")], "field 'x' is not allowed"),
        ([*request(), ("x", " a")], "field 'x' is not allowed"),
        ([*request(), ("x", "a\t")], "field 'x' is not allowed"),
        ([*request(), ("connection", "close")], "field 'connection' is not allowed"),
        (
            [*request(), ("transfer-encoding", "chunked")],
            "field 'transfer-encoding' is not allowed",
        ),
        ([*request(), ("upgrade", "h2c")], "field 'upgrade' is not allowed"),
        ([*request(), ("content-length", "-1")], "field 'content-length' is not allowed"),
        ([*request(), ("content-length", "+1")], "field 'content-length' is not allowed"),
        ([*request(), ("content-length", "1" * 19)], "field 'content-length' is not allowed"),
        (
            [*request(), ("content-length", "1"), ("content-length", "2")],
            "content-length stands twice",
        ),
        (request(te="gzip"), "field 'te' is not allowed"),
        (request(path=""), "field ':path' is not allowed"),
        (request(path="inference"), "the path does not start with a slash"),
        (request(path=None), "a pseudo-field is missing"),
        (request(method=None), "a pseudo-field is missing"),
        (request(method=""), "a pseudo-field is missing"),
        (request(scheme=None), "a pseudo-field is missing"),
        ([(":status", "200"), *request()], "field ':status' is not allowed"),
        ([(":method", "POST"), *request()], "pseudo-field ':method' stands twice"),
        ([("a", "b"), *request()], "a pseudo-field stands after a field"),
        ([(":method", "CONNECT")], "CONNECT has an authority and nothing else"),
        (
            [(":method", "CONNECT"), (":scheme", "http"), (":authority", "a")],
            "CONNECT has an authority and nothing else",
        ),
    ],
)
def test_malformed_requests(fields: Fields, why: str) -> None:
    assert fault(fields) == why
    peer = Peer()
    assert peer.send(peer.headers(1, fields, end=True)) == []
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR
    assert peer.opened(3).head.path == PATH


@pytest.mark.parametrize(
    "field",
    [
        ("x", ""),
        ("x", "a\tb c"),
        ("x", "caf\xe9"),
        ("x-bin", "AAECAw"),
        ("content-length", "0"),
        ("!#$%&'*+-.^_`|~09", "x"),
    ],
)
def test_well_formed_fields(field: tuple[str, str]) -> None:
    head = reader().read(encode([*request(), field]))
    assert head.fault == ""
    assert head.headers[-1] == field


def test_what_is_read_from_a_head() -> None:
    fields = [*request(), ("content-length", "5"), ("content-length", "5"), ("a", "b")]
    head = reader(PATH).read(encode(fields))
    assert (head.path, head.method, head.scheme, head.authority) == (
        PATH, "POST", "http", "localhost:8001",
    )  # fmt: skip
    assert (head.content_type, head.content_length) == ("application/grpc", 5)
    assert (head.is_grpc, head.is_unary, head.too_large) == (True, True, False)
    assert head.headers == tuple(fields[4:])
    head = reader(PATH).read(encode(request(method="GET", authority=None)))
    assert (head.is_grpc, head.is_unary, head.authority, head.content_length) == (
        False, False, "", -1,
    )  # fmt: skip


def test_requests_without_a_path_of_their_own_are_plain_http() -> None:
    peer = Peer()
    for stream_id, fields in (
        (1, [(":method", "CONNECT"), (":authority", "a:1")]),
        (3, request(method="OPTIONS", path="*")),
    ):
        (event,) = peer.send(peer.headers(stream_id, fields, end=True))
        assert isinstance(event, HttpRequest)
        assert event.head.method == fields[0][1]


def test_a_content_length_without_a_body_is_malformed() -> None:
    peer = Peer()
    fields = [*request(), ("content-length", "5")]
    assert peer.send(peer.headers(1, fields, end=True)) == []
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR
    (opened,) = peer.send(peer.headers(3, fields))
    assert isinstance(opened, CallOpened)
    peer.send(peer.headers(3, [("a", "b")], end=True))
    assert peer.reset_of(3) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("field", [(":path", "/"), ("Upper", "x"), ("connection", "close")])
def test_malformed_trailers(field: tuple[str, str]) -> None:
    peer = Peer()
    peer.send(peer.headers(1), peer.data(1, b"\0\0\0\0\0"))
    peer.send(peer.headers(1, [("a", "b"), field], end=True))
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR


# ---- memory ------------------------------------------------------------------------------------


def test_blocks_are_remembered_until_the_table_changes() -> None:
    heads = reader()
    block = encode(request())
    first = heads.read(block)
    assert heads.remembered[block] is first
    heads.read(encode(request()[:4]) + encode_literal("x", "y", 0x40, 6))
    assert heads.remembered == {}
    indexed = encode(request()[:4]) + b"\xbe"
    assert heads.read(indexed).headers == (("x", "y"),)
    assert indexed in heads.remembered
    heads.skip(encode_literal("x", "z", 0x40, 6))
    assert heads.remembered == {}
    assert heads.read(indexed).headers == (("x", "z"),)
    heads.skip(b"\x82")
    assert indexed in heads.remembered
    with pytest.raises(HpackError):
        heads.read(b"\x80")


def test_what_is_remembered_is_bounded() -> None:
    heads = reader()
    for number in range(200):
        heads.read(encode([*request(), ("x", str(number))]))
        assert len(heads.remembered) <= MAX_REMEMBERED_BLOCKS
    heads.read(encode([*request(), ("x", "y" * 2_000)]))
    assert max(map(len, heads.remembered)) < 1_024


# ---- frames around header blocks, and frames that are too long or too short --------------------


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(HEADERS, END_HEADERS | PADDED, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0"), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, b"\0"), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 7, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 0, bytes(MAX_GOAWAY_BYTES + 1)), ErrorCode.ENHANCE_YOUR_CALM),
        (frame(SETTINGS, 0, 0, bytes(MAX_SETTINGS_BYTES + 6)), ErrorCode.ENHANCE_YOUR_CALM),
        (frame(PUSH_PROMISE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_frames_that_end_the_connection(octets: bytes, code: ErrorCode) -> None:
    assert closed_with(Peer().send(octets)).error_code == code
    peer = Peer()
    events = [e for pos in range(len(octets)) for e in peer.send(octets[pos : pos + 1])]
    assert closed_with(events).error_code == code


def test_a_priority_of_the_wrong_length_ends_an_open_call_only() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    assert len(peer.send(frame(PRIORITY, 0, 1, bytes(50)))) == 1
    assert peer.reset_of(1) == ErrorCode.FRAME_SIZE_ERROR
    peer.opened(3)


def test_a_larger_header_table_of_the_client_is_not_used() -> None:
    peer = Peer(settings={SETTING_HEADER_TABLE_SIZE: 65_536})
    for stream_id in (1, 3, 5):
        peer.opened(stream_id)
        peer.connection.send_unary_reply(stream_id, b"")
        peer.send(settings_frame({SETTING_HEADER_TABLE_SIZE: 8_192}))
        assert peer.heads(stream_id)[1] == [("grpc-status", "0")]
    assert peer.of(HEADERS) == []


def test_flags_that_mean_nothing_are_ignored() -> None:
    peer = Peer()
    block = peer.encoder.encode(request())
    (event,) = peer.send(frame(HEADERS, END_HEADERS | END_STREAM | 0xD2 & ~PADDED, 1, block))
    assert isinstance(event, CallOpened)
