"""HPACK (RFC 7541): header blocks to fields, response fields to header blocks.

Owns the decoder with its dynamic table, and an encoder that never inserts into the peer's table.
Each field is judged once, when it is first spelled out, by a `classify` function; what it says
travels with the field, so that an indexed field costs one look-up. It never decides what a
malformed field means: http2_heads.py does.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from protocol.hpack_tables import STATIC_TABLE, huffman_decode

# (name, value), what `classify` said of it, and its size as HPACK counts it.
Field = tuple[tuple[str, str], int, int]
Classify = Callable[[str, str], int]

FIELD_OVERHEAD: Final = 32  # RFC 7541, 4.1
DEFAULT_TABLE_BYTES: Final = 4096  # what a peer may use until it has seen other settings
STATIC_COUNT: Final = 61
# Five continuation octets hold any 32-bit number; a longer spelling is an attack or a defect.
MAX_INTEGER_OCTETS: Final = 5
MAX_INTEGER: Final = 2**31 - 1
# A client has few field names; their Huffman spellings are remembered up to this many.
MAX_REMEMBERED_NAMES: Final = 128
MAX_REMEMBERED_NAME_OCTETS: Final = 64
# Literals are remembered as well, value and all: many clients spell out the same few in every call.
MAX_REMEMBERED_LITERALS: Final = 64
MAX_REMEMBERED_LITERAL_OCTETS: Final = 128


class HpackError(Exception):
    """The block cannot be decoded; the connection's compression state is lost."""


class HeaderListTooLarge(Exception):
    """The block was decoded and the dynamic table is right, but the list is over the limit."""


def unclassified(_name: str, _value: str) -> int:
    return 0


@functools.cache
def _static_fields(classify: Classify) -> tuple[Field, ...]:
    return tuple(
        (pair, classify(*pair), len(pair[0]) + len(pair[1]) + FIELD_OVERHEAD)
        for pair in STATIC_TABLE
    )


def read_integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """The integer whose prefix octet was full (RFC 7541, 5.1); `pos` is the octet after it.

    Returns the integer and the position after it. Raises HpackError if the block ends inside it
    or it is longer than `MAX_INTEGER_OCTETS` or greater than `MAX_INTEGER`.
    """
    number = mask
    shift = 0
    for octet in block[pos : pos + MAX_INTEGER_OCTETS]:
        pos += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            if number > MAX_INTEGER:
                break
            return number, pos
        shift += 7
    raise HpackError("an integer is unfinished or too large")


class Decoder:
    """The receiving side's compression state of one connection.

    `max_list_bytes` bounds a decoded list as HPACK counts it (name + value + 32 each), so a small
    block that names a large field many times stays small. `generation` changes whenever the
    dynamic table does: results for a block may be kept for as long as it stays the same.
    """

    __slots__ = (
        "_classify",
        "_entries",
        "_literals",
        "_max_list_bytes",
        "_names",
        "_static",
        "_table_bytes",
        "_table_limit",
        "generation",
        "table_ceiling",
    )

    def __init__(self, max_list_bytes: int, classify: Classify = unclassified) -> None:
        self._classify = classify
        self._static = _static_fields(classify)
        self._entries: deque[Field] = deque()
        self._table_bytes = 0
        self._table_limit = DEFAULT_TABLE_BYTES
        self._max_list_bytes = max_list_bytes
        self._names: dict[bytes, str] = {}
        self._literals: dict[tuple[str, bytes, bool], Field] = {}
        self.table_ceiling = DEFAULT_TABLE_BYTES
        self.generation = 0

    @property
    def table(self) -> list[tuple[str, str]]:
        """The dynamic table, newest first."""
        return [pair for pair, _, _ in self._entries]

    @property
    def table_bytes(self) -> int:
        return self._table_bytes

    def decode(self, block: bytes) -> list[Field]:
        """The fields of one whole header block, in order.

        Raises HpackError (a connection error of type COMPRESSION_ERROR) or, once the whole block
        has done its work on the table, HeaderListTooLarge.
        """
        fields: list[Field] = []
        append = fields.append
        static = self._static
        entries = self._entries
        max_list_bytes = self._max_list_bytes
        list_bytes = 0
        pos = 0
        end = len(block)
        while pos < end:
            octet = block[pos]
            if octet >= 0x80:
                index = octet & 0x7F
                pos += 1
                if index == 0x7F:
                    index, pos = read_integer(block, pos, 0x7F)
                if 0 < index <= STATIC_COUNT:
                    field = static[index]
                elif 0 < index <= STATIC_COUNT + len(entries):
                    field = entries[index - STATIC_COUNT - 1]
                else:
                    raise HpackError(f"index {index} is in neither table")
            elif octet >= 0x40:
                name, octets, coded, pos = self._literal(block, pos, 0x3F)
                field = self._spelled(name, octets, coded)
                self._insert(field)
            elif octet >= 0x20:
                if fields or list_bytes:
                    raise HpackError("a table size update stands after a field")
                pos = self._resize(block, pos)
                continue
            else:
                name, octets, coded, pos = self._literal(block, pos, 0x0F)
                known = self._literals.get((name, octets, coded))
                field = known or self._remembered(name, octets, coded)
            list_bytes += field[2]
            if list_bytes <= max_list_bytes:
                append(field)
        if list_bytes > max_list_bytes:
            raise HeaderListTooLarge
        return fields

    def _literal(self, block: bytes, pos: int, mask: int) -> tuple[str, bytes, bool, int]:
        """Name, value as it is spelled, whether that is Huffman-coded, and the position after."""
        try:
            index = block[pos] & mask
            pos += 1
            if index == mask:
                index, pos = read_integer(block, pos, mask)
            if index == 0:
                name, pos = self._name(block, pos)
            elif index <= STATIC_COUNT:
                name = STATIC_TABLE[index][0]
            else:
                # Past the table's end the IndexError says the same as past the block's end.
                name = self._entries[index - STATIC_COUNT - 1][0][0]
            length = block[pos]
            pos += 1
            coded = length >= 0x80
            length &= 0x7F
            if length == 0x7F:
                length, pos = read_integer(block, pos, 0x7F)
        except IndexError:
            raise HpackError("a field has a wrong index or is cut off") from None
        octets = block[pos : pos + length]
        if len(octets) != length:
            raise HpackError("the block ends inside a string")
        return name, octets, coded, pos + length

    def _spelled(self, name: str, octets: bytes, coded: bool) -> Field:
        value = _text(octets, coded)
        size = len(name) + len(value) + FIELD_OVERHEAD
        return (name, value), self._classify(name, value), size

    def _remembered(self, name: str, octets: bytes, coded: bool) -> Field:
        """A literal that is not put into the table; the next one like it is known."""
        field = self._spelled(name, octets, coded)
        if len(name) + len(octets) <= MAX_REMEMBERED_LITERAL_OCTETS:
            if len(self._literals) >= MAX_REMEMBERED_LITERALS:
                self._literals.clear()
            self._literals[name, octets, coded] = field
        return field

    def _name(self, block: bytes, pos: int) -> tuple[str, int]:
        length = block[pos]
        pos += 1
        coded = length >= 0x80
        length &= 0x7F
        if length == 0x7F:
            length, pos = read_integer(block, pos, 0x7F)
        octets = block[pos : pos + length]
        if len(octets) != length:
            raise HpackError("the block ends inside a name")
        if not coded:
            return octets.decode("latin-1"), pos + length
        name = self._names.get(octets)
        if name is None:
            name = _text(octets, coded)
            if length <= MAX_REMEMBERED_NAME_OCTETS:
                if len(self._names) >= MAX_REMEMBERED_NAMES:
                    self._names.clear()
                self._names[octets] = name
        return name, pos + length

    def _insert(self, field: Field) -> None:
        self.generation += 1
        entries = self._entries
        total = self._table_bytes + field[2]
        limit = self._table_limit
        while total > limit and entries:
            total -= entries.pop()[2]
        if total <= limit:
            entries.appendleft(field)
            self._table_bytes = total
        else:  # larger than the whole table: that empties it (RFC 7541, 4.4)
            self._table_bytes = 0

    def _resize(self, block: bytes, pos: int) -> int:
        limit = block[pos] & 0x1F
        pos += 1
        if limit == 0x1F:
            limit, pos = read_integer(block, pos, 0x1F)
        if limit > self.table_ceiling:
            raise HpackError(f"a table of {limit} bytes is over the limit {self.table_ceiling}")
        self.generation += 1
        self._table_limit = limit
        while self._table_bytes > limit:
            self._table_bytes -= self._entries.pop()[2]
        return pos


def _text(octets: bytes, coded: bool) -> str:
    if not coded:
        return octets.decode("latin-1")
    text = huffman_decode(octets)
    if text is None:
        raise HpackError("a Huffman-coded string is not valid")
    return text


def write_integer(number: int, prefix_bits: int, first: int) -> bytes:
    """An integer with a prefix of so many bits; `first` holds the octet's other bits."""
    mask = (1 << prefix_bits) - 1
    if number < mask:
        return bytes((first | number,))
    octets = bytearray((first | mask,))
    number -= mask
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


_STATIC_INDEX: Final[dict[tuple[str, str], int]] = {
    pair: index for index, pair in enumerate(STATIC_TABLE) if index and pair[1]
}
_STATIC_NAME: Final[dict[str, int]] = {
    pair[0]: index for index, pair in reversed(tuple(enumerate(STATIC_TABLE))) if index
}


def encode_literal(name: str, value: str, first: int, prefix_bits: int) -> bytes:
    """One literal field: `first` 0x40 with 6 bits inserts it into the peer's table, 0 with 4
    does not."""
    index = _STATIC_NAME.get(name, 0)
    block = write_integer(index, prefix_bits, first)
    if not index:
        octets = name.encode("latin-1")
        block += write_integer(len(octets), 7, 0) + octets
    octets = value.encode("latin-1")
    return block + write_integer(len(octets), 7, 0) + octets


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block that uses the static table only and inserts nothing, so that it may be sent
    at any time, in any order, to any peer. Names and values are latin-1 text."""
    block = b""
    for pair in fields:
        index = _STATIC_INDEX.get(pair)
        block += bytes((0x80 | index,)) if index else encode_literal(*pair, 0x00, 4)
    return block
