"""gRPC message compression: which algorithm, and the bytes in and out of it.

Owns the negotiation of `grpc-encoding` and `grpc-accept-encoding`, and compressing and inflating
one message. It inflates no further than its caller's limit, however small the input is.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable
from typing import Final

from protocol.status import internal, invalid_arg, unsupported

IDENTITY: Final = "identity"

# What gRPC calls deflate is the zlib format. The order is the C core's: fastest to densest.
_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}

ACCEPTED: Final = ",".join((IDENTITY, *_WINDOW_BITS))
"""What this server understands: the value of `grpc-accept-encoding`."""


class CompressionLevel(enum.Enum):
    """How hard responses are compressed: `--grpc-infer-response-compression-level`."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


# zlib's own levels: the fastest, its default, the densest.
_ZLIB_LEVEL: Final = {CompressionLevel.LOW: 1, CompressionLevel.MEDIUM: 6, CompressionLevel.HIGH: 9}


def request_encoding(headers: Iterable[tuple[str, str]]) -> str:
    """The algorithm of a call's compressed messages. Raises UNSUPPORTED for one we do not know,
    to be answered with `grpc-accept-encoding`."""
    name = next((value for key, value in headers if key == "grpc-encoding"), IDENTITY)
    if name != IDENTITY and name not in _WINDOW_BITS:
        raise unsupported(f'Compression algorithm "{name}" is not supported.')
    return name


def response_encoding(level: CompressionLevel, headers: Iterable[tuple[str, str]]) -> str:
    """The algorithm for a call's responses, among those that its client accepts.

    The C core's rule: the first of gzip and deflate for LOW, else the last; without either,
    identity.
    """
    if level is CompressionLevel.NONE:
        return IDENTITY
    accepted = {
        each.strip()
        for key, value in headers
        if key == "grpc-accept-encoding"
        for each in value.split(",")
    }
    usable = [name for name in _WINDOW_BITS if name in accepted]
    if not usable:
        return IDENTITY
    return usable[0] if level is CompressionLevel.LOW else usable[-1]


def compress(
    message: Iterable[bytes | memoryview],
    encoding: str,
    level: CompressionLevel = CompressionLevel.MEDIUM,
) -> bytes:
    """One message, given in pieces, compressed by `encoding`, which is not identity."""
    compressor = zlib.compressobj(_ZLIB_LEVEL[level], zlib.DEFLATED, _WINDOW_BITS[encoding])
    pieces = [compressor.compress(piece) for piece in message]
    return b"".join([*pieces, compressor.flush()])


def decompress(message: bytes | bytearray | memoryview, encoding: str, limit: int) -> bytes:
    """One message inflated to at most `limit` bytes.

    Raises INTERNAL for a message that claims to be compressed by identity, is corrupt, is cut
    short or is followed by anything; INVALID_ARG when it inflates beyond `limit`.
    """
    if encoding == IDENTITY:
        raise internal("compressed message, but the call has no grpc-encoding")
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = inflater.decompress(message, limit + 1)
    except zlib.error:
        raise internal(f"corrupt {encoding} message") from None
    if len(inflated) > limit:
        raise invalid_arg(
            f"Decompressed data size exceeds the maximum allowed value of {limit} bytes."
        )
    if not inflater.eof or inflater.unused_data:
        raise internal(f"corrupt {encoding} message")
    return inflated
