"""Compressed bodies, both ways: gzip and deflate (with its zlib wrapper).

Owns the cap on what a body may inflate to, whatever its ratio, and the choice of a response's
encoding. A stream that is corrupt, cut short or followed by anything is refused: Triton would
serve what it got that far.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from protocol.http1 import SMALL_BODY_BYTES
from protocol.http1_error import Headers, HttpError
from protocol.http1_response import Buffer
from protocol.status import ServerError, invalid_arg

# Input is given to zlib, and output taken from it, in pieces: no copy of the rest at each member.
PIECE_BYTES: Final = 65536
# A member of 20 bytes may be empty; each costs an inflater. No client writes more than a few.
MAX_GZIP_MEMBERS: Final = 1024

_GZIP_MAGIC: Final = b"\x1f\x8b"
_AUTOMATIC: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, by their first bytes
_WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ACCEPTED: Final = re.compile(
    r"(identity|gzip|deflate)[ \t]*(?:;[ \t]*q=([0-9]{1,6}(?:\.[0-9]{0,6})?))?", re.IGNORECASE
)


def decode_body(
    body: bytes | memoryview, content_encoding: str | None, max_size: int
) -> bytes | memoryview:
    """The body as it was before `content_encoding`, of at most `max_size` bytes.

    An identity body is returned as it is, whatever its size. Raises HttpError for an unknown
    encoding, INVALID_ARG for a body that does not inflate, or inflates to too much.
    """
    if not content_encoding or content_encoding == "identity":
        return body
    if content_encoding not in _WINDOW:
        accepted = (("Accept-Encoding", "gzip, deflate"),)
        raise HttpError(501, "Unsupported compression type", accepted)
    if not body:
        raise invalid_arg("nothing to be decompressed")
    inflated = _inflate(memoryview(body), max_size)
    small = len(inflated) <= SMALL_BODY_BYTES
    return bytes(inflated) if small else memoryview(inflated).toreadonly()


def _inflate(body: memoryview, max_size: int) -> bytearray:
    inflated = bytearray()
    inflater = zlib.decompressobj(_AUTOMATIC)
    is_gzip = bytes(body[:2]) == _GZIP_MAGIC
    members = 1
    for start in range(0, len(body), PIECE_BYTES):
        piece: bytes | memoryview = body[start : start + PIECE_BYTES]
        while True:
            if inflater.eof:
                if not is_gzip or members == MAX_GZIP_MEMBERS:
                    raise _corrupt("data after its end")
                members += 1
                inflater = zlib.decompressobj(_WINDOW["gzip"])
            try:
                output = inflater.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise _corrupt(str(error)) from None
            inflated += output
            if len(inflated) > max_size:
                raise invalid_arg(
                    f"Decompressed data size exceeds the maximum allowed value of {max_size} "
                    "bytes. Use --http-max-input-size to increase the limit."
                )
            piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            # Output that fills its piece may be followed by more that needs no further input.
            if not piece and (inflater.eof or len(output) < PIECE_BYTES):
                break
    if not inflater.eof:
        raise _corrupt("it ends too early")
    return inflated


def _corrupt(why: str) -> ServerError:
    return invalid_arg(f"failed to decompress the request body: {why}")


def negotiate(accept_encoding: str) -> str:
    """`gzip`, `deflate` or `identity`: the first of the highest weight that the client accepts.

    Items that are malformed, unknown, or of weight 0 do not count.
    """
    chosen, highest = "identity", 0.0
    for item in accept_encoding.split(","):
        accepted = _ACCEPTED.fullmatch(item.strip(" \t"))
        if accepted is None:
            continue
        weight = float(accepted[2]) if accepted[2] else 1.0
        if weight > highest:
            chosen, highest = accepted[1].lower(), weight
    return chosen


def compress_response(
    headers: Headers, parts: list[Buffer], accept_encoding: str
) -> tuple[Headers, list[Buffer]]:
    """The response in the encoding that the client prefers; headers say so if it changed it."""
    encoding = negotiate(accept_encoding)
    if encoding == "identity" or not any(parts):
        return headers, parts
    deflater = zlib.compressobj(wbits=_WINDOW[encoding])
    compressed = [deflater.compress(part) for part in parts]
    compressed.append(deflater.flush())
    return (*headers, ("Content-Encoding", encoding)), [b"".join(compressed)]
