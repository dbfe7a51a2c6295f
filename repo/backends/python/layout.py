"""How the tensors of one record lie in a message.

The names, datatypes and shapes of a request rarely change from one to the next, so they are sent
once, as a numbered `Layout`; a record (`records`) then is a two-byte number and its tensors' bytes.
Tensors of a fixed size below `SHARED_THRESHOLD` travel inline at offsets that the layout gives,
larger ones in an arena. Sans-IO.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, Union

Buffer = Union[bytes, bytearray, memoryview]
Raw = Union[bytes, memoryview]
Triple = tuple[str, str, tuple[int, ...]]
"""A tensor's name, datatype and shape."""
Key = tuple[tuple[str, ...], tuple[Triple, ...]]
"""What a layout is known by: the requested output names, and the tensors."""

# In the order of the DataType enum of model_config.proto: BOOL is 1. A datatype's place is its
# number on this wire and in pb_utils.
DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES", "BF16",
)  # fmt: skip
DATATYPE_NUMBER = {name: number for number, name in enumerate(DATATYPES, 1)}
ELEMENT_SIZE = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2,
    "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8, "BF16": 2,
}  # fmt: skip

# Below this, going through the socket costs less than a span's bookkeeping: 64 KiB alone cost the
# server 66 us inline and 78 us in an arena, 32 KiB 62 and 76 (bench/python_worker.py).
SHARED_THRESHOLD = 64 << 10

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_SLOT = struct.Struct("<BHH")
_COUNTS = struct.Struct("<HH")


class WireError(Exception):
    """The peer sent bytes that are no message."""


def counted(content: bytes) -> bytes:
    """A u32 length and the bytes."""
    return _U32.pack(len(content)) + content


def read_counted(packet: Buffer, at: int) -> tuple[bytes, int]:
    """What `counted` wrote at `at`, and where it ends. Raises WireError."""
    (length,) = _U32.unpack_from(packet, at)
    at += 4
    if length > len(packet) - at:
        raise WireError(f"{length} bytes announced, {len(packet) - at} left")
    return bytes(packet[at : at + length]), at + length


class Slot(NamedTuple):
    """One tensor of a layout. `offset` and `byte_size` only mean something where `fixed`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    byte_size: int  # -1 for BYTES, whose size every record gives
    offset: int
    shared: bool

    @property
    def fixed(self) -> bool:
        return not self.shared and self.byte_size >= 0


class Layout:
    """What one record looks like."""

    __slots__ = ("number", "requested", "slots", "stride")

    def __init__(
        self, number: int, slots: tuple[Slot, ...], requested: tuple[str, ...], stride: int
    ) -> None:
        self.number = number
        self.slots = slots
        self.requested = requested  # names of the outputs that the client asked for
        self.stride = stride  # bytes of the inline tensors of one record; -1 when it varies


def make_layout(number: int, key: Key) -> Layout:
    """Lay out the tensors of a record. Raises KeyError for an unknown datatype."""
    requested, tensors = key
    slots: list[Slot] = []
    offset = 0
    varies = False
    for name, datatype, shape in tensors:
        element_size = -1 if datatype == "BYTES" else ELEMENT_SIZE[datatype]
        byte_size = -1 if element_size < 0 else math.prod(shape) * element_size
        shared = byte_size >= SHARED_THRESHOLD
        slots.append(Slot(name, datatype, tuple(shape), byte_size, offset, shared))
        if shared or byte_size < 0:
            varies = True
        else:
            offset += -(-byte_size // 16) * 16
    return Layout(number, tuple(slots), requested, -1 if varies else offset)


def define(layout: Layout) -> bytes:
    """The bytes that make the other side know a layout."""
    parts = [_COUNTS.pack(len(layout.slots), len(layout.requested))]
    for slot in layout.slots:
        name = slot.name.encode()
        parts.append(_SLOT.pack(DATATYPE_NUMBER[slot.datatype], len(name), len(slot.shape)))
        parts.append(name)
        parts.append(struct.pack(f"<{len(slot.shape)}q", *slot.shape))
    for requested in layout.requested:
        name = requested.encode()
        parts += (_U16.pack(len(name)), name)
    return b"".join(parts)


def parse_definition(number: int, data: bytes) -> Layout:
    """The layout that `define` described. Raises WireError, struct.error or ValueError."""
    slot_count, requested_count = _COUNTS.unpack_from(data)
    at = _COUNTS.size
    tensors: list[Triple] = []
    for _ in range(slot_count):
        code, name_length, rank = _SLOT.unpack_from(data, at)
        at += _SLOT.size
        name = data[at : at + name_length].decode()
        at += name_length
        shape = struct.unpack_from(f"<{rank}q", data, at)
        at += 8 * rank
        if not 1 <= code <= len(DATATYPES) or any(dim < 0 for dim in shape):
            raise WireError(f"layout {number} has datatype {code} and shape {shape}")
        tensors.append((name, DATATYPES[code - 1], shape))
    requested: list[str] = []
    for _ in range(requested_count):
        (name_length,) = _U16.unpack_from(data, at)
        at += 2
        requested.append(data[at : at + name_length].decode())
        at += name_length
    return make_layout(number, (tuple(requested), tuple(tensors)))
