"""Responses as bytes."""

from __future__ import annotations

import json

import pytest

from protocol.http1_error import HttpError
from protocol.http1_response import (
    CONTINUE,
    JOINED_BODY_BYTES,
    JSON_HEADERS,
    LAST_CHUNK,
    NO_HEADERS,
    REMEMBERED_HEADS,
    _heads,
    encode_chunk,
    encode_error,
    encode_response,
    encode_stream_head,
)
from protocol.status import not_found


def test_a_small_response_is_one_buffer() -> None:
    assert encode_response(200, JSON_HEADERS, (b"{}", memoryview(b"xy"))) == [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{}xy"
    ]
    assert encode_response(200, NO_HEADERS) == [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]


def test_the_last_response_says_so() -> None:
    (data,) = encode_response(503, NO_HEADERS, keep_alive=False)
    assert data == (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def test_a_large_body_is_passed_on_not_copied() -> None:
    body = memoryview(bytes(JOINED_BODY_BYTES))
    head, first, second = encode_response(200, NO_HEADERS, (b"x", body))
    assert bytes(head).endswith(b"Content-Length: %d\r\n\r\n" % (JOINED_BODY_BYTES + 1))
    assert first == b"x"
    assert second is body


def test_a_reply_to_head_has_the_length_but_no_body() -> None:
    (data,) = encode_response(200, NO_HEADERS, (b"four",), head_only=True)
    assert data == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


def test_an_error_is_json_with_its_own_headers() -> None:
    error = HttpError(501, 'no "such"\nthing <b>é', (("Accept-Encoding", "gzip"),))
    (data,) = encode_error(error)
    head, _, body = data.partition(b"\r\n\r\n") if isinstance(data, bytes) else (b"", b"", b"")
    assert b"\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n" in head
    assert json.loads(body) == {"error": 'no "such"\nthing <b>é'}


def test_a_server_error_has_its_http_status() -> None:
    error = HttpError.of(not_found("gone"))
    assert (error.status, error.message) == (404, "gone")


@pytest.mark.parametrize(
    "header",
    [("A", "b\r\nC: d"), ("A", "b\x00"), ("A b", "c"), ("A", "b\nc"), ("", "c"), ("A", "ł")],
)
def test_a_header_cannot_break_the_message(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="invalid response header"):
        encode_response(200, (header,))


def test_a_stream_is_a_head_chunks_and_an_end() -> None:
    head = encode_stream_head(200, JSON_HEADERS)
    assert head == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert encode_stream_head(200, NO_HEADERS, keep_alive=False).endswith(
        b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    assert encode_chunk((b"a" * 15, b"b")) == b"10\r\naaaaaaaaaaaaaaab\r\n"
    assert encode_chunk(()) == b""
    assert LAST_CHUNK == b"0\r\n\r\n"
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_stream_to_an_old_peer_is_plain_and_ends_with_the_connection() -> None:
    assert encode_stream_head(200, NO_HEADERS, chunked=False) == (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    )


def test_what_is_remembered_is_bounded() -> None:
    for length in range(REMEMBERED_HEADS + 10):
        encode_response(200, (("Inference-Header-Content-Length", str(length)),))
    assert len(_heads) <= REMEMBERED_HEADS
