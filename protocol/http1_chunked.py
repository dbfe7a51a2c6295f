"""The chunked transfer coding of a request body, undone one piece at a time.

Owns the strict grammar of RFC 9112, section 7.1, the limits on how many chunks and how many bytes
a body may have, and the bytes of one body. Never allocates by a size that the peer claimed.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from protocol.http1_error import HttpError
from protocol.http1_head import malformed

# Triton's limit: its HTTP library once kept every chunk on the stack (CVE-2025-23310).
MAX_NONEMPTY_CHUNKS: Final = 65536
# A size of 16 hexadecimal digits and some extensions, which no client of ours sends.
MAX_SIZE_LINE_BYTES: Final = 256
# Trailers are read and dropped; this is room for a few checksums.
MAX_TRAILER_BYTES: Final = 8192

TOO_MANY_CHUNKS: Final = (
    f"Chunked request body exceeds maximum of {MAX_NONEMPTY_CHUNKS} non-empty chunks. "
    "Send fewer or larger HTTP chunks."
)

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")


class _Expects(enum.Enum):
    SIZE = enum.auto()
    BYTES = enum.auto()
    LINE_END = enum.auto()
    TRAILER = enum.auto()


class ChunkedBody:
    """One body: give it bytes with `receive` until that says where the body ended.

    `buffer` holds `padding` bytes and then the body.
    """

    def __init__(self, *, max_body_bytes: int, padding: int = 0) -> None:
        self.buffer = bytearray(padding)
        self._max_buffer_bytes = max_body_bytes + padding
        self._max_body_bytes = max_body_bytes
        self._expects = _Expects.SIZE
        self._missing = 0  # bytes of the current chunk that have not come yet
        self._chunks = 0
        self._trailer_bytes = 0

    def receive(self, data: bytes, position: int) -> tuple[int, bool]:
        """Take `data` from `position` on: (position of the first byte not taken, body is whole).

        Bytes of an unfinished line are not taken: give them again, with more. Raises HttpError.
        """
        while True:
            if self._expects is _Expects.SIZE:
                line, position = _take_line(data, position, MAX_SIZE_LINE_BYTES)
                if line is None:
                    return position, False
                self._begin_chunk(line)
            elif self._expects is _Expects.BYTES:
                before = len(self.buffer)
                self.buffer += memoryview(data)[position : position + self._missing]
                taken = len(self.buffer) - before
                position += taken
                self._missing -= taken
                if self._missing:
                    return position, False
                self._expects = _Expects.LINE_END
            elif self._expects is _Expects.LINE_END:
                if data[position : position + 2] != b"\r\n"[: len(data) - position]:
                    raise malformed("a chunk is longer than its size")
                if len(data) - position < 2:
                    return position, False
                position += 2
                self._expects = _Expects.SIZE
            else:
                limit = MAX_TRAILER_BYTES - self._trailer_bytes
                line, position = _take_line(data, position, limit)
                if line is None:
                    return position, False
                if not line:
                    return position, True
                if b":" not in line[1:]:
                    raise malformed("invalid trailer line")
                self._trailer_bytes += len(line) + 2

    def _begin_chunk(self, line: bytes) -> None:
        matched = _SIZE_LINE.fullmatch(line)
        if matched is None:
            raise malformed("invalid chunk size")
        size = int(matched[1], 16)
        if size == 0:
            self._expects = _Expects.TRAILER
            return
        self._chunks += 1
        if self._chunks > MAX_NONEMPTY_CHUNKS:
            raise HttpError(400, TOO_MANY_CHUNKS)
        if len(self.buffer) + size > self._max_buffer_bytes:
            raise body_too_large(self._max_body_bytes)
        self._missing = size
        self._expects = _Expects.BYTES


def body_too_large(limit: int) -> HttpError:
    return HttpError(413, f"request body exceeds the maximum of {limit} bytes")


def _take_line(data: bytes, position: int, limit: int) -> tuple[bytes | None, int]:
    """The line at `position` without its CRLF and where the next one starts; None if unfinished."""
    end = data.find(b"\n", position, position + limit + 2)
    if end < 0:
        if len(data) - position >= limit + 2:
            raise malformed("a chunk's line is too long")
        return None, position
    if end == position or data[end - 1] != 0x0D:
        raise malformed("a line ends without carriage return")
    return data[position : end - 1], end + 1
