"""Request heads: a header block becomes a validated `RequestHead`, once.

Owns the rules of RFC 9113, section 8, for fields and pseudo-fields, and the memory of header
blocks seen before: a block that is repeated while the dynamic table stays the same costs one
look-up. It never sees frames.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from protocol.hpack import Decoder, Field, HeaderListTooLarge

# What `classify` says of a field. The pseudo-fields come first, so that one comparison finds them.
_METHOD: Final = 1
_SCHEME: Final = 2
_PATH: Final = 3
_AUTHORITY: Final = 4
_REGULAR: Final = 5
_CONTENT_LENGTH: Final = 6
_CONTENT_TYPE: Final = 7
_MALFORMED: Final = 8

_PSEUDO: Final[dict[str, int]] = {
    ":method": _METHOD,
    ":scheme": _SCHEME,
    ":path": _PATH,
    ":authority": _AUTHORITY,
}
_SPECIAL: Final = {"content-length": _CONTENT_LENGTH, "content-type": _CONTENT_TYPE}
_CONNECTION_FIELDS: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
# No controls, and no blank at either end (RFC 9113, 8.2.1).
_VALUE: Final = re.compile(r"(?![ \t])[^\x00\r\n]*(?<![ \t])")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")

# Blocks remembered per connection: a client has a few kinds of call. With the list limit this is
# the bound on the memory of a peer that varies its blocks on purpose.
MAX_REMEMBERED_BLOCKS: Final = 64
MAX_REMEMBERED_BLOCK_BYTES: Final = 1024


@dataclass(slots=True, eq=False)
class RequestHead:
    """What a client asked; never written to. Compares by identity: a repeated block yields the same
    object, so it can be the key of whatever a frontend derives from it. Not frozen, because that
    would treble the cost of making one, and some clients make one for each call.

    `headers`: (name, value) without pseudo-fields, in order, latin-1 text. `content_length` is -1
    if absent. `fault` is empty, or says why the request is malformed.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    method: str
    scheme: str
    authority: str
    content_type: str
    content_length: int
    is_grpc: bool
    is_unary: bool
    too_large: bool
    fault: str


def classify(name: str, value: str) -> int:
    """The kind of one field; judged when it is spelled out, valid for as long as it is indexed."""
    kind = _kind_of_name(name)
    if kind == _PATH and not value:
        return _MALFORMED
    if name == "te" and value != "trailers":
        return _MALFORMED
    if kind == _CONTENT_LENGTH and not _LENGTH.fullmatch(value):
        return _MALFORMED
    # Nearly every value is printable with no blank at its ends, which is quicker to see.
    if value.isprintable() and value[:1] != " " and value[-1:] != " ":
        return kind
    return kind if _VALUE.fullmatch(value) else _MALFORMED


@functools.lru_cache(maxsize=256)  # a client has few field names
def _kind_of_name(name: str) -> int:
    if name.startswith(":"):
        return _PSEUDO.get(name, _MALFORMED)
    if not _NAME.fullmatch(name) or name in _CONNECTION_FIELDS:
        return _MALFORMED
    return _SPECIAL.get(name, _REGULAR)


def is_grpc_type(content_type: str) -> bool:
    """`application/grpc`, alone or followed by `+codec` or `;parameter`."""
    return content_type.startswith("application/grpc") and content_type[16:17] in ("", "+", ";")


def malformed(fault: str, *, too_large: bool = False) -> RequestHead:
    return RequestHead("", (), "", "", "", "", -1, False, False, too_large, fault)


_TOO_LARGE: Final = malformed("the header list is too large", too_large=True)


class HeadReader:
    """Header blocks of one connection, in the order received. Raises HpackError."""

    __slots__ = ("_decoder", "_generation", "_unary_paths", "remembered")

    def __init__(self, max_list_bytes: int, unary_paths: frozenset[str]) -> None:
        self._decoder = Decoder(max_list_bytes, classify)
        self._generation = 0
        self._unary_paths = unary_paths
        # Looked into by the connection before it calls `read`.
        self.remembered: dict[bytes, RequestHead] = {}

    def read(self, block: bytes) -> RequestHead:
        """The head in a block that is not remembered."""
        decoder = self._decoder
        try:
            head = self._head(decoder.decode(block))
        except HeaderListTooLarge:
            head = _TOO_LARGE
        if decoder.generation != self._generation:
            # Remembered blocks may mean something else now.
            self._generation = decoder.generation
            self.remembered.clear()
        elif len(block) <= MAX_REMEMBERED_BLOCK_BYTES:
            if len(self.remembered) >= MAX_REMEMBERED_BLOCKS:
                self.remembered.clear()
            self.remembered[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """A block whose content does not matter, but which may change the table."""
        self.trailers_fault(block)

    def trailers_fault(self, block: bytes) -> str:
        """Why these trailers are malformed, or the empty string."""
        decoder = self._decoder
        try:
            fields = decoder.decode(block)
        except HeaderListTooLarge:
            return "the trailers are too large"
        finally:
            if decoder.generation != self._generation:
                self._generation = decoder.generation
                self.remembered.clear()
        for pair, kind, _ in fields:
            if kind < _REGULAR or kind == _MALFORMED:
                return f"trailers with field {pair[0]!r}"
        return ""

    def _head(self, fields: list[Field]) -> RequestHead:
        headers: list[tuple[str, str]] = []
        append = headers.append
        pseudo: list[str | None] = [None, None, None, None, None]
        content_type = ""
        content_length = -1
        for pair, kind, _ in fields:
            if kind == _REGULAR:
                append(pair)
            elif kind < _REGULAR:
                if headers:
                    return malformed("a pseudo-field stands after a field")
                if pseudo[kind] is not None:
                    return malformed(f"pseudo-field {pair[0]!r} stands twice")
                pseudo[kind] = pair[1]
            elif kind == _MALFORMED:
                return malformed(f"field {pair[0]!r} is not allowed")
            else:
                append(pair)
                if kind == _CONTENT_TYPE:
                    content_type = pair[1]
                elif content_length in (-1, int(pair[1])):
                    content_length = int(pair[1])
                else:
                    return malformed("content-length stands twice")
        _, method, scheme, path, authority = pseudo
        if method == "CONNECT":
            if scheme is not None or path is not None or not authority:
                return malformed("CONNECT has an authority and nothing else")
            scheme = path = ""
        if not method or scheme is None or path is None:
            return malformed("a pseudo-field is missing")
        if path[:1] != "/" and path != "*" and method != "CONNECT":
            return malformed("the path does not start with a slash")
        is_grpc = method == "POST" and is_grpc_type(content_type)
        return RequestHead(
            path,
            tuple(headers),
            method,
            scheme,
            authority or "",
            content_type,
            content_length,
            is_grpc,
            is_grpc and path in self._unary_paths,
            False,
            "",
        )
