"""JSON headers of infer requests that have come before, so that each is parsed once.

Clients repeat their headers to the byte, but for the request's id, where they give one, and for the
numbers of tensors that they send as JSON. So a parsed header is remembered by its text without
these. Owns which headers are remembered, and how the rest of such a text is read: an id that is
named first, in characters that stand for themselves, and arrays of nothing but numbers that fit
their tensors. Everything else goes to `protocol.v2_json_header`, which has the words for what is
wrong; so nothing is refused here, and a remembered header says what it says when parsed again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.datatypes import ELEMENT_SIZE
from protocol.json_plain import plain_numbers
from protocol.json_text import JsonValue, as_array, members_of, parse
from protocol.status import ServerError, invalid_arg
from protocol.v2_json_header import InferHeader, parse_header

# At most 4 MiB of header text in each of two memories, and as much again parsed.
REMEMBERED_HEADER_BYTES: Final = 4096
REMEMBERED_HEADERS: Final = 1024

# How a header begins that names its request first, in characters that stand for themselves.
_PLAIN_ID: Final = re.compile(rb'\{"id": ?"([ !#-\[\]-~]*)",')

# What may be an array of numbers. Between these two quotes there is no string (one that holds
# `"data"` has a backslash before the second), so in a well-formed document this is a member, and
# its array, if it is a flat one, ends at the first bracket.
_DATA: Final = b'"data":'
_ARRAY: Final = re.compile(rb'"data": ?(\[[^\]]*\])')
# What stands for the arrays in a remembered text, and in one that is parsed without them.
_ANY_ARRAY: Final = _DATA + b"*"
_HOLE: Final = "an array of numbers"
_HOLE_ARRAY: Final = _DATA + f'["{_HOLE}"]'.encode()

# How `struct` packs the numbers of a datatype. It takes no number that is out of range, and no
# fraction for an integer.
_FORMATS: Final = {
    "FP32": "f", "FP64": "d",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip

_Packers = tuple[struct.Struct, ...]
_NO_ARRAYS: Final[Sequence[bytes]] = ()


class _Known(NamedTuple):
    """A remembered header, without tensor data, and what packs the arrays that were left out."""

    header: InferHeader
    packers: _Packers


# By the text of a header, without its numbers; None for one whose arrays are not of the plain kind.
_Memory = dict[bytes, _Known | None]


ReadHeader = tuple[InferHeader, str, Sequence[bytes]]
"""What a document says: the header, the id of its request, and the bytes of those inputs that are
given in JSON, in their order."""


class HeaderMemory:
    """Reads headers, and remembers those that are likely to come again."""

    def __init__(self, max_input_size: int) -> None:
        """`max_input_size` limits a document, and each tensor in it."""
        self._max_input_size = max_input_size
        self._whole: _Memory = {}
        self._behind_id: _Memory = {}  # by what follows the id

    def __len__(self) -> int:
        return len(self._whole) + len(self._behind_id)

    def read(self, document: bytes | memoryview) -> ReadHeader:
        """The header that `document` is. Raises ServerError."""
        if len(document) > self._max_input_size:
            check_json_size(len(document), self._max_input_size)
        text = key = bytes(document)
        memory, request_id, arrays = self._whole, "", _NO_ARRAYS
        identified = _PLAIN_ID.match(text)
        if identified is not None:
            memory, request_id = self._behind_id, identified[1].decode("ascii")
            key = text[identified.end() :]
        if _DATA in key:
            pieces = _ARRAY.split(key)
            arrays = pieces[1::2]
            key = _ANY_ARRAY.join(pieces[::2])
        known = memory.get(key)
        if known is not None:
            data = _pack(arrays, known.packers) if arrays or known.packers else _NO_ARRAYS
            if data is not None:
                return known.header, request_id, data
        header = parse_header(text, self._max_input_size)
        request = header.request
        may_repeat = identified is not None or not request.id
        if may_repeat and not request.correlation_id and key not in memory:
            _remember(memory, key, header, len(arrays))
        data = [given.data for given in header.inputs if given.data is not None]
        return header, request.id, data


def _remember(memory: _Memory, key: bytes, header: InferHeader, array_count: int) -> None:
    if len(key) > REMEMBERED_HEADER_BYTES:
        return
    if len(memory) >= REMEMBERED_HEADERS:
        memory.clear()
    packers = _packers(header, key, array_count)
    memory[key] = None if packers is None else _Known(header.without_data(), packers)


def check_json_size(byte_size: int, limit: int) -> None:
    """Raise INVALID_ARG for a JSON document larger than --http-max-input-size."""
    if byte_size > limit:
        raise invalid_arg(
            f"request JSON size of {byte_size} bytes exceeds the maximum allowed input size of "
            f"{limit} bytes. Use --http-max-input-size to increase the limit."
        )


def _pack(arrays: Sequence[bytes], packers: _Packers) -> Sequence[bytes] | None:
    """The bytes of the tensors whose numbers these are; None unless all are plain."""
    if len(arrays) != len(packers):
        return None
    data = []
    for array, packer in zip(arrays, packers, strict=True):
        numbers = plain_numbers(array)
        if numbers is None:
            return None
        try:
            data.append(packer.pack(*numbers))
        except (struct.error, OverflowError):  # too many, too few, or one that does not fit
            return None
    return data


def _packers(header: InferHeader, key: bytes, array_count: int) -> _Packers | None:
    """What packs the arrays that were left out of `key`, for a header that was parsed with them.

    None unless they are, one by one and in this order, the numbers of those inputs that have data.
    """
    packers: list[struct.Struct] = []
    for given in header.inputs:
        if given.data is None:
            continue
        code = _FORMATS.get(given.datatype)
        if code is None:
            return None
        count = len(given.data) // ELEMENT_SIZE[given.datatype]
        packers.append(struct.Struct(f"<{count}{code}"))
    if len(packers) != array_count or (packers and not _are_holes(key, array_count)):
        return None
    return tuple(packers)


def _are_holes(key: bytes, array_count: int) -> bool:
    """Whether so many inputs of the document, parsed with marks for its arrays, have such marks."""
    start = b"" if key.startswith(b"{") else b"{"  # where an id has been cut off
    try:
        root = members_of(parse(start + key.replace(_ANY_ARRAY, _HOLE_ARRAY)))
        inputs = as_array(root.get("inputs"), "inputs")
    except ServerError:  # an array had a bracket in a string
        return False
    hole: JsonValue = [_HOLE]
    return sum([members_of(one).get("data") == hole for one in inputs]) == array_count
