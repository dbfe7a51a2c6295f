"""The few pieces of protobuf's wire format that the hot path writes and reads by hand.

Owns varints, length-delimited fields and the split of a request into the part that describes it
and the tensors it carries. It never interprets a message: anything unusual is left to upb.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Buffer = bytes | memoryview

# Every field that the hot path touches is length-delimited (wire type 2) and has a number below
# 16, so that its tag is the one byte `number << 3 | 2`.
_ID: Final = 3 << 3 | 2
_RAW_INPUT: Final = 7 << 3 | 2
_DESCRIPTION: Final = frozenset(number << 3 | 2 for number in (1, 2, 4, 5, 6))

# A slice of a message keeps the whole message alive and may be unaligned; below this size a copy
# costs less than the view. Measured: 64 bytes copy in 45 ns, a view takes 70.
_VIEW_FROM_BYTES: Final = 4096


def varint(value: int) -> bytes:
    """An integer in base 128; negative ones as the ten bytes of their two's complement."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL: Final = tuple(bytes((value,)) for value in range(0x80))


def length_delimited(number: int, payload: bytes) -> bytes:
    """A string, bytes or message field whose number is below 16."""
    return bytes((number << 3 | 2,)) + varint(len(payload)) + payload


def text_field(number: int, text: str) -> bytes:
    """A string field, absent when empty; what UTF-8 cannot hold becomes a question mark."""
    return length_delimited(number, text.encode("utf-8", "replace")) if text else b""


class SplitRequest(NamedTuple):
    """A serialized ModelInferRequest taken apart without copying its large tensors."""

    description: bytes  # everything but the two below; itself a ModelInferRequest
    id: bytes  # not yet known to be UTF-8
    raw: list[Buffer]  # raw_input_contents


def split_request(data: bytes | bytearray | memoryview) -> SplitRequest | None:
    """Take a serialized ModelInferRequest apart, or say None when it looks unusual.

    Unknown fields, unusual encodings, a repeated id and truncation are all None: upb then parses
    the whole of `data` and decides. What is not None means to upb exactly what it means here.
    """
    end = len(data)
    view: memoryview | None = None
    if end >= _VIEW_FROM_BYTES:
        view = memoryview(data).toreadonly()
    elif not isinstance(data, bytes):
        data = bytes(data)
    position = kept_from = 0  # kept_from: where the part of the description at hand began
    spans: list[bytes | bytearray | memoryview] = []
    raw: list[Buffer] = []
    request_id: bytes | None = None
    try:
        while position < end:
            field = position
            tag = data[position]
            size = data[position + 1]
            position += 2
            if size > 0x7F:
                size, position = _long_size(data, position, size)
            field_end = position + size
            if tag in _DESCRIPTION:
                position = field_end
                continue
            if field > kept_from:
                spans.append(data[kept_from:field])
            kept_from = field_end
            if tag == _RAW_INPUT:
                if view is None or size < _VIEW_FROM_BYTES:
                    raw.append(bytes(data[position:field_end]))
                else:
                    raw.append(view[position:field_end])
            elif tag == _ID and request_id is None:
                request_id = bytes(data[position:field_end])
            else:
                return None
            position = field_end
    except (IndexError, OverflowError):
        return None
    if position != end:
        return None
    if kept_from < end:
        spans.append(data[kept_from:])
    return SplitRequest(b"".join(spans), request_id or b"", raw)


def _long_size(data: bytes | bytearray | memoryview, position: int, first: int) -> tuple[int, int]:
    """A length of several octets, of which `first` was read already, and where it ends.

    Raises OverflowError for 2 GiB and more, which no protobuf field may hold.
    """
    size = first & 0x7F
    for shift in (7, 14, 21, 28):
        byte = data[position]
        position += 1
        size |= (byte & 0x7F) << shift
        if byte <= 0x7F and size <= 0x7FFF_FFFF:
            return size, position
    raise OverflowError
