"""HTTP/1.1 responses as bytes: plain ones, error bodies, and chunked streams.

Owns status lines, the length and persistence headers, and which parts are joined. A reply is a
list of buffers to be written one after another; large bodies are never copied into one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.http1_error import Headers, HttpError

Buffer = bytes | memoryview

JSON_HEADERS: Final[Headers] = (("Content-Type", "application/json"),)
NO_HEADERS: Final[Headers] = ()
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

# Up to here joining the parts costs less than the system call that a second buffer would.
JOINED_BODY_BYTES: Final = 32768
# Distinct (status, headers) pairs remembered; binary replies differ by their JSON's length only.
REMEMBERED_HEADS: Final = 1024

REASONS: Final[dict[int, str]] = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict",
    413: "Content Too Large", 417: "Expectation Failed", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable", 504: "Gateway Timeout",
    505: "HTTP Version Not Supported", 507: "Insufficient Storage",
}  # fmt: skip

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_heads: dict[tuple[int, Headers], bytes] = {}


def _head(status: int, headers: Headers) -> bytes:
    """The status line and `headers`; remembered, since a server says the same few again and again.

    Raises ValueError for a header that would break the message, such as one with a line end in it.
    """
    key = (status, headers)
    head = _heads.get(key)
    if head is None:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n"]
        for name, value in headers:
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"invalid response header {name!r}: {value!r}")
            lines.append(f"{name}: {value}\r\n")
        head = "".join(lines).encode("latin-1")
        if len(_heads) >= REMEMBERED_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def encode_response(
    status: int,
    headers: Headers,
    parts: Sequence[Buffer] = (),
    *,
    keep_alive: bool = True,
    head_only: bool = False,
) -> list[Buffer]:
    """One whole response. `head_only` answers HEAD: the length of the body, without the body."""
    size = 0
    for part in parts:
        size += len(part)
    tail = b"Content-Length: %d\r\n\r\n" if keep_alive else (
        b"Content-Length: %d\r\nConnection: close\r\n\r\n"
    )  # fmt: skip
    head = _head(status, headers) + tail % size
    if head_only or not size:
        return [head]
    if size <= JOINED_BODY_BYTES:
        return [b"".join((head, *parts))]
    return [head, *parts]


def error_body(message: str) -> bytes:
    """`{"error": message}`, compact."""
    text = json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogateescape")


def encode_error(
    error: HttpError, *, keep_alive: bool = True, head_only: bool = False
) -> list[Buffer]:
    """The reply to a request that failed."""
    return encode_response(
        error.status,
        (*JSON_HEADERS, *error.headers),
        (error_body(error.message),),
        keep_alive=keep_alive,
        head_only=head_only,
    )


def encode_stream_head(
    status: int, headers: Headers, *, keep_alive: bool = True, chunked: bool = True
) -> bytes:
    """The head of a response whose length is not known yet.

    An HTTP/1.0 peer does not know chunks: send it plain parts (`chunked=False`) and close.
    """
    head = _head(status, headers)
    if not chunked:
        return head + b"Connection: close\r\n\r\n"
    if keep_alive:
        return head + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def encode_chunk(parts: Iterable[Buffer]) -> bytes:
    """One chunk of a stream; empty parts give no bytes, since an empty chunk would end it."""
    data = b"".join(parts)
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
