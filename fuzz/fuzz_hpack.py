"""Fuzz the HPACK decoder: `python fuzz/fuzz_hpack.py --seconds 60`.

An input is a series of header blocks, each behind one octet of length. Invariants: decoding returns
fields, or raises HpackError (which ends the connection) or HeaderListTooLarge (which does not); the
dynamic table stays within its limit and its size is what its entries say; what is decoded keeps to
the limit; another decoder (the hpack library) that is given the same blocks reads the same fields
and has the same table; a reader that remembers blocks gives the same heads as one that does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hpack

from fuzz.mutations import Fuzzer, main
from protocol.hpack import (
    DEFAULT_TABLE_BYTES,
    FIELD_OVERHEAD,
    Decoder,
    HeaderListTooLarge,
    HpackError,
)
from protocol.http2_heads import HeadReader, RequestHead

# Small, so that inputs of a few kilobytes pass it.
LIST_BYTES = 2_048
PATHS = frozenset(("/a",))

TOKENS = (
    b"\x82", b"\x83", b"\x84", b"\x86", b"\x87", b"\xbe", b"\xbf", b"\xc0", b"\x7f\x00", b"\x80",
    b"\x40\x01a\x01b", b"\x00\x01a\x01b", b"\x10\x01a\x01b", b"\x40\x81\x1f\x81\x8f", b"\x41\x01h",
    b"\x44\x02/a", b"\x5f\x10application/grpc", b"\x40\x02te\x08trailers", b"\x5c\x011", b"\x20",
    b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\x2a", b"\x30", b"\xff\xff\xff\xff\x0f", b"\xff\x80\x00",
    b"\x7f\x7f", b"\x7e", b"\x0f\x10\x10application/grpc", b"\x81\xff", b"\x85\xff\xff\xff\xff\xfc",
)  # fmt: skip


def blocks_of(data: bytes) -> list[bytes]:
    blocks = []
    pos = 0
    while pos < len(data):
        stop = pos + 1 + data[pos]
        blocks.append(data[pos + 1 : stop])
        pos = stop
    return blocks


def fuzz_one(data: bytes) -> None:
    """Feed one input to every decoder; raises if an invariant does not hold."""
    blocks = blocks_of(data)
    _against_the_library(blocks)
    _against_memory(blocks)


def _against_the_library(blocks: list[bytes]) -> None:
    decoder = Decoder(LIST_BYTES)
    library = hpack.Decoder(max_header_list_size=1 << 24)
    for block in blocks:
        fields: list[tuple[str, str]] | None = None
        try:
            fields = [pair for pair, _, _ in decoder.decode(block)]
        except HeaderListTooLarge:
            pass
        except HpackError:
            return
        theirs = [
            (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
            for name, value in library.decode(block, raw=True)
        ]
        size = sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in theirs)
        assert (fields is None) == (size > LIST_BYTES), "the limit is not kept"
        assert fields is None or fields == theirs, (fields, theirs)
        entries = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in library.header_table.dynamic_entries
        ]
        assert decoder.table == entries, (decoder.table, entries)
        held = sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in entries)
        assert decoder.table_bytes == held <= DEFAULT_TABLE_BYTES


def _against_memory(blocks: list[bytes]) -> None:
    remembering = HeadReader(LIST_BYTES, PATHS)
    forgetful = HeadReader(LIST_BYTES, PATHS)
    for block in blocks + blocks:
        found = remembering.remembered.get(block)
        forgetful.remembered.clear()
        try:
            expected = forgetful.read(block)
        except HpackError:
            assert found is None
            return
        head = remembering.read(block) if found is None else found
        assert _told(head) == _told(expected), (head, expected)
        assert len(remembering.remembered) <= 64


def _told(head: RequestHead) -> tuple[object, ...]:
    return tuple(getattr(head, name) for name in RequestHead.__slots__)


FUZZER = Fuzzer("hpack", fuzz_one, TOKENS)

if __name__ == "__main__":
    main(FUZZER, __doc__)
