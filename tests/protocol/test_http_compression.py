"""Compressed bodies: what inflates, what is refused, and which encoding a reply gets."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from protocol.http1_error import HttpError
from protocol.http1_response import JSON_HEADERS, Buffer
from protocol.http_compression import (
    MAX_GZIP_MEMBERS,
    PIECE_BYTES,
    compress_response,
    decode_body,
    negotiate,
)
from protocol.status import ServerError, StatusCode

LIMIT = 1 << 20


def refusal(body: bytes, encoding: str = "gzip", limit: int = LIMIT) -> str:
    with pytest.raises(ServerError) as caught:
        decode_body(body, encoding, limit)
    assert caught.value.status is StatusCode.INVALID_ARG
    return caught.value.message


@pytest.mark.parametrize("encoding", [None, "", "identity"])
def test_a_plain_body_is_returned_as_it_is(encoding: str | None) -> None:
    body = b"x" * 100
    assert decode_body(body, encoding, 10) is body


@pytest.mark.parametrize("encoding", ["br", "GZIP", "gzip, deflate", "gzip ", "compress"])
def test_an_unknown_encoding_is_told_which_are_known(encoding: str) -> None:
    with pytest.raises(HttpError) as caught:
        decode_body(b"x", encoding, LIMIT)
    assert (caught.value.status, caught.value.message) == (501, "Unsupported compression type")
    assert caught.value.headers == (("Accept-Encoding", "gzip, deflate"),)


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE_BYTES, PIECE_BYTES + 1, 700_000, LIMIT])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_either_wrapper_inflates_under_either_name(size: int, encoding: str) -> None:
    content = bytes(index * index % 251 for index in range(size))
    for compressed in (gzip.compress(content), zlib.compress(content)):
        inflated = decode_body(compressed, encoding, LIMIT)
        assert inflated == content
        assert decode_body(memoryview(compressed), encoding, LIMIT) == content
        if isinstance(inflated, memoryview):
            assert inflated.readonly


def test_members_of_a_gzip_body_follow_each_other() -> None:
    members = [b"one", b"", b"two" * 50_000, b"three"]
    body = b"".join(map(gzip.compress, members))
    assert decode_body(body, "gzip", LIMIT) == b"".join(members)
    many = gzip.compress(b"x") * MAX_GZIP_MEMBERS
    assert decode_body(many, "gzip", LIMIT) == b"x" * MAX_GZIP_MEMBERS
    assert "data after its end" in refusal(many + gzip.compress(b"x"))


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"abc")[:-1],
        gzip.compress(b"abc" * 1000)[:20],
        gzip.compress(b"abc")[:5],
        zlib.compress(b"abc")[:-1],
        gzip.compress(b"abc") + b"\0",
        gzip.compress(b"abc") + b"garbage",
        gzip.compress(b"abc") + zlib.compress(b"abc"),
        zlib.compress(b"abc") + b"x",
        zlib.compress(b"abc") + zlib.compress(b"abc"),
        zlib.compress(b"abc")[2:-4],  # raw deflate has no wrapper to be told by
        gzip.compress(b"abc")[:-8] + b"\0" * 8,  # checksum
        b"plain text",
        b"\x1f",
    ],
)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_whole_and_alone_is_refused(body: bytes, encoding: str) -> None:
    assert refusal(body, encoding).startswith("failed to decompress the request body: ")


def test_an_empty_body_has_nothing_to_inflate() -> None:
    assert refusal(b"") == "nothing to be decompressed"


def test_what_a_body_inflates_to_is_limited() -> None:
    content = bytes(1001)
    assert decode_body(gzip.compress(content), "gzip", 1001) == content
    for compressed in (gzip.compress(content), gzip.compress(bytes(501)) * 2):
        assert refusal(compressed, limit=1000) == (
            "Decompressed data size exceeds the maximum allowed value of 1000 bytes. "
            "Use --http-max-input-size to increase the limit."
        )


def test_a_bomb_costs_no_more_memory_than_the_limit() -> None:
    deflater = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join([*(deflater.compress(zeros) for _ in range(64)), deflater.flush()])
    tracemalloc.start()
    try:
        refusal(bomb, limit=LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * LIMIT


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0.5,deflate;q=0.5", "gzip"),
        ("identity, gzip", "identity"),
        ("identity;q=0.5, gzip;q=0.6", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.0, deflate;q=0.001", "deflate"),
        ("br, *;q=0.1", "identity"),
        ("gzip;q=, deflate;q=x, GZip ; q=1.", "gzip"),
        ("gzip;q=nan, gzip;level=9", "identity"),
        (",, ,gzip", "gzip"),
    ],
)
def test_the_first_of_the_highest_weight_is_chosen(accepted: str, encoding: str) -> None:
    assert negotiate(accepted) == encoding


def test_responses_are_compressed_and_say_so() -> None:
    parts: list[Buffer] = [b"{}", memoryview(bytes(1000))]
    for encoding in ("gzip", "deflate"):
        headers, (body,) = compress_response(JSON_HEADERS, parts, encoding)
        assert headers == (*JSON_HEADERS, ("Content-Encoding", encoding))
        assert zlib.decompress(body, 47) == b"{}" + bytes(1000)
        assert (bytes(body[:2]) == b"\x1f\x8b") is (encoding == "gzip")


def test_responses_stay_as_they_are_otherwise() -> None:
    parts: list[Buffer] = [b"{}"]
    assert compress_response(JSON_HEADERS, parts, "br") == (JSON_HEADERS, parts)
    assert compress_response(JSON_HEADERS, [b""], "gzip") == (JSON_HEADERS, [b""])
