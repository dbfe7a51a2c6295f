"""Response header blocks, most of them encoded once per connection.

Owns what the encoder has put into the peer's dynamic table: at most two fields, `content-type:
application/grpc` and `grpc-status: 0`, inserted when first sent and named by one octet from then
on. Blocks must be taken in the order in which they are written. It never frames anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from protocol.hpack import DEFAULT_TABLE_BYTES, STATIC_COUNT, encode, encode_literal

Headers = tuple[tuple[str, str], ...]

_STATUS_200: Final = encode(((":status", "200"),))
_TYPE: Final = ("content-type", "application/grpc")
_STATUS_OK: Final = ("grpc-status", "0")
_INSERT: Final = (0x40, 6)  # literal with incremental indexing
_NEWEST: Final = STATIC_COUNT + 1
_EMPTY_TABLE: Final = b"\x20"  # dynamic table size update to 0
# Failures that are remembered, and how long their messages may be: a flood is refused with the same
# few words, and these should cost next to nothing then.
FAILURES_KEPT: Final = 64
KEPT_MESSAGE_CHARACTERS: Final = 256


def _failure(status: int, message: str) -> bytes:
    """`grpc-status` and `grpc-message`, which touch no table."""
    block = encode((("grpc-status", str(status)),))
    return block + encode((("grpc-message", message),)) if message else block


_kept_failure = lru_cache(FAILURES_KEPT)(_failure)


class ResponseBlocks:
    """The sending side's compression state of one connection.

    `is_settled`: the plain head and the plain trailers are constants from now on.
    """

    __slots__ = ("_indexes", "_prefix", "_status_at", "_type_at", "is_settled")

    def __init__(self) -> None:
        self._indexes = True
        self._prefix = b""
        self._type_at = 0
        self._status_at = 0
        self.is_settled = False

    def set_table_limit(self, limit: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE. Below the default, its table is not used."""
        if limit < DEFAULT_TABLE_BYTES and self._indexes:
            self._indexes = False
            self._prefix = _EMPTY_TABLE
            self._type_at = self._status_at = 0
            self.is_settled = False

    def head(self, headers: Headers = ()) -> bytes:
        """`:status: 200`, the gRPC content type, then `headers`."""
        block = self._taken_prefix() + _STATUS_200 + self._type()
        return block + encode(headers) if headers else block

    def trailers(self, status: int, message: str = "", headers: Headers = ()) -> bytes:
        """`grpc-status`, `grpc-message` unless empty (percent-encoded by the caller), `headers`."""
        return self._taken_prefix() + self._outcome(status, message) + encode(headers)

    def only_trailers(self, status: int, message: str = "", headers: Headers = ()) -> bytes:
        """Head and trailers in one block: a call that ends without a message."""
        block = self.head() + self._outcome(status, message)
        return block + encode(headers) if headers else block

    def http(self, status: int, headers: Headers) -> bytes:
        """The head of an answer that is not gRPC."""
        return self._taken_prefix() + encode(((":status", str(status)), *headers))

    def _taken_prefix(self) -> bytes:
        prefix = self._prefix
        self._prefix = b""
        self.is_settled = not self._indexes or (self._type_at > 0 and self._status_at > 0)
        return prefix

    def _type(self) -> bytes:
        if not self._indexes:
            return encode((_TYPE,))
        if self._type_at:
            return bytes((0x80 | self._type_at,))
        self._status_at += 1 if self._status_at else 0
        self._type_at = _NEWEST
        return encode_literal(*_TYPE, *_INSERT)

    def _outcome(self, status: int, message: str) -> bytes:
        if status or not self._indexes:
            keeps = len(message) <= KEPT_MESSAGE_CHARACTERS
            return _kept_failure(status, message) if keeps else _failure(status, message)
        if self._status_at:
            block = bytes((0x80 | self._status_at,))
        else:
            self._type_at += 1 if self._type_at else 0
            self._status_at = _NEWEST
            block = encode_literal(*_STATUS_OK, *_INSERT)
        return block + encode((("grpc-message", message),)) if message else block
