"""The part of a message that carries tensors: batches of requests, of responses, or one of either.

The names, datatypes and shapes of a request rarely change from one to the next, so they are sent
once, as a numbered `Layout`; a record then is a two-byte number and its tensors' bytes. Tensors of
a fixed size below `SHARED_THRESHOLD` travel inline at offsets that the layout gives, larger ones in
an arena. A message reads, little-endian:

    u8 tag, u8 sections, u16 record count, u32 bytes before the tensors, u64 base number
    the prefix: fixed-size fields that only this tag has
    u16 per record: its layout, or one of the outcomes without tensors below
    the sections named in `sections`, in the order of their bits:
        RESET       (no bytes: forget all layouts)
        RELEASES    u16 count, then per span u32 segment, u64 offset
        LAYOUTS     u16 count, then per definition u32 length and its bytes
        EXTRAS      per record u32 length and bytes that only the tag's owner understands
        PLACES      per tensor that is not inline and of fixed size: u64 byte size, u32 segment
                    (or INLINE), u64 offset
    padding to 16; the inline tensors, each padded to 16

Sans-IO: bytes in, bytes out. Neither side trusts a length: what does not fit is a WireError.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar, Union

from .arena import Arena, SegmentMap, Span

T = TypeVar("T")

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

# Below this, going through the socket costs less than a span's bookkeeping
# (bench/python_worker.py).
SHARED_THRESHOLD = 32 << 10

# A whole message; larger ones travel in the arena. Two of them fit the smallest socket buffer
# that Linux is usually configured with (212,992 bytes, which the kernel doubles).
MESSAGE_LIMIT = 96 << 10

# Record numbers without tensors.
LATE = 0xFFFF  # its responses come, or came, on their own
FAILED = 0xFFFE  # extras: u8 error code, UTF-8 text
RESCHEDULED = 0xFFFD  # to be executed again

# Distinct layouts remembered per direction. A model with free shapes can use any number of them;
# when the table is full both sides forget it.
LAYOUT_LIMIT = 4096

RESET, RELEASES, LAYOUTS, EXTRAS, PLACES = 1, 2, 4, 8, 16

INLINE = 0xFFFFFFFF  # in place of a segment number: the bytes are in this message

HEADER = struct.Struct("<BBHIQ")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
RELEASE = struct.Struct("<IQ")
_PLACE = struct.Struct("<QIQ")
_SLOT = struct.Struct("<BHH")
_COUNTS = struct.Struct("<HH")

_PADDING = tuple(bytes(-size % 16) for size in range(16))  # by size % 16

# Spans given back per message; more wait for the next one.
_MAXRELEASES = 1024


class WireError(Exception):
    """The peer sent bytes that are no message."""


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


class Layout(NamedTuple):
    """What one record looks like."""

    number: int
    slots: tuple[Slot, ...]
    requested: tuple[str, ...]  # names of the outputs that the client asked for
    stride: int  # bytes of the inline tensors of one record; -1 when it varies


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


def _define(layout: Layout) -> bytes:
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


def _parse_definition(number: int, data: bytes) -> Layout:
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


class BatchWriter:
    """Builds messages with tensors for one socket; not thread-safe.

    Call `add` or `add_bare` per record, then `finish`. After an exception call `abandon`.
    """

    def __init__(self, arena: Arena, released: deque[tuple[int, int]]) -> None:
        self._arena = arena
        self._released = released
        self._layouts: dict[Key, Layout] = {}
        self._pending: list[bytes] = []  # definitions that the peer has not got yet
        self._reset = False
        self._start()

    def _start(self) -> None:
        self._numbers: list[int] = []
        self._data: list[Raw] = []
        self._data_size = 0
        self._extras: list[bytes] = []
        self._has_extras = False
        self._places: list[bytes] = []
        self._spans: list[Span] = []

    def abandon(self) -> None:
        """Forget the records added so far."""
        for span in self._spans:
            self._arena.release(span.segment, span.offset)
        self._start()

    def add(self, key: Key, raws: Sequence[Raw], extras: bytes = b"") -> None:
        """Add a record: one raw per tensor of `key`, whose sizes must fit it (see `finish`).

        Raises ArenaFullError, and KeyError for an unknown datatype.
        """
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._intern(key)
        self._numbers.append(layout.number)
        self._extras.append(extras)
        if extras:
            self._has_extras = True
        stride = layout.stride
        if stride < 0:
            self._place(layout, raws)
            return
        data = self._data
        for raw in raws:
            data.append(raw)
            size = len(raw) & 15
            if size:
                data.append(_PADDING[size])
        self._data_size += stride

    def add_bare(self, number: int, extras: bytes = b"") -> None:
        """Add a record without tensors: LATE, FAILED or RESCHEDULED."""
        self._numbers.append(number)
        self._extras.append(extras)
        if extras:
            self._has_extras = True

    def _intern(self, key: Key) -> Layout:
        if len(self._layouts) >= LAYOUT_LIMIT:
            # Records of this message that are already laid out must keep their numbers.
            used = set(self._numbers)
            kept = [(k, v) for k, v in self._layouts.items() if v.number in used]
            self._layouts = {}
            self._reset = True
            self._pending = []
            renumbered: dict[int, int] = {}
            for old_key, old in kept:
                renumbered[old.number] = self._insert(old_key).number
            self._numbers = [renumbered.get(number, number) for number in self._numbers]
        return self._insert(key)

    def _insert(self, key: Key) -> Layout:
        layout = make_layout(len(self._layouts), key)
        self._layouts[key] = layout
        self._pending.append(_define(layout))
        return layout

    def _place(self, layout: Layout, raws: Sequence[Raw]) -> None:
        for slot, raw in zip(layout.slots, raws):
            size = len(raw)
            if slot.fixed or (size < SHARED_THRESHOLD and not slot.shared):
                if not slot.fixed:
                    self._places.append(_PLACE.pack(size, INLINE, 0))
                self._data += (raw, _PADDING[size & 15])
                self._data_size += -(-size // 16) * 16
                continue
            if slot.shared and size != slot.byte_size:
                raise WireError(f"tensor '{slot.name}' has {size} bytes, not {slot.byte_size}")
            span = self._arena.place(raw)
            self._spans.append(span)
            self._places.append(_PLACE.pack(size, span.segment, span.offset))

    def finish(self, tag: int, base: int, prefix: bytes = b"") -> bytes:
        """The message. Raises WireError when a tensor's bytes do not fit its shape."""
        sections = 0
        given: list[tuple[int, int]] = []
        count = len(self._numbers)
        head = [b"", prefix, struct.pack(f"<{count}H", *self._numbers)]
        if self._reset or self._pending or self._released or self._has_extras or self._places:
            sections = self._finish_sections(head, given)
        head_size = HEADER.size + sum(map(len, head))
        data_at = -(-head_size // 16) * 16
        head[0] = HEADER.pack(tag, sections, count, data_at, base)
        head.append(_PADDING[head_size & 15])
        message = b"".join(head + self._data)  # type: ignore[operator]  # bytes-like alike
        if len(message) != data_at + self._data_size:
            self._released.extendleft(given)
            raise WireError(
                f"tensors have {len(message) - data_at} bytes where their shapes ask for "
                f"{self._data_size}"
            )
        self._pending = []
        self._reset = False
        self._start()
        return message

    def _finish_sections(self, head: list[bytes], given: list[tuple[int, int]]) -> int:
        sections = 0
        if self._reset:
            sections |= RESET
        if self._released:
            sections |= RELEASES
            count = min(len(self._released), _MAXRELEASES)
            head.append(_U16.pack(count))
            given += [self._released.popleft() for _ in range(count)]
            head += [RELEASE.pack(*span) for span in given]
        if self._pending:
            sections |= LAYOUTS
            head.append(_U16.pack(len(self._pending)))
            for definition in self._pending:
                head += (_U32.pack(len(definition)), definition)
        if self._has_extras:
            sections |= EXTRAS
            for extras in self._extras:
                head += (_U32.pack(len(extras)), extras)
        if self._places:
            sections |= PLACES
            head += self._places
        return sections


class Records(Generic[T]):
    """What a message held: per record its number, its extras and its tensors."""

    __slots__ = ("base", "extras", "layouts", "numbers", "tensors")

    def __init__(
        self,
        base: int,
        numbers: Sequence[int],
        layouts: list[Layout],
        extras: Sequence[bytes] | None,
        tensors: list[list[T]],
    ) -> None:
        self.base = base
        self.numbers = numbers
        self.layouts = layouts
        self.extras = extras  # None when no record has any
        self.tensors = tensors


class BatchReader(Generic[T]):
    """Takes messages with tensors apart; one per socket.

    `make` turns (slot, buffer, start, byte size) into whatever the reader calls a tensor; the
    buffer is the message itself or, with start 0, the memoryview of a span. `release` hears of
    the spans that the peer gives back.
    """

    def __init__(
        self,
        make: Callable[[Slot, Buffer, int, int], T],
        segments: SegmentMap,
        release: Callable[[int, int], None],
    ) -> None:
        self._make = make
        self._segments = segments
        self._release = release
        self._layouts: list[Layout] = []

    def read(self, message: bytes | bytearray, prefix_size: int = 0) -> Records[T]:
        """Raises WireError for bytes that are no message."""
        try:
            return self._read(message, prefix_size)
        except (struct.error, IndexError, KeyError, ValueError) as error:
            raise WireError(f"malformed message: {error}") from error

    def _read(self, message: bytes | bytearray, prefix_size: int) -> Records[T]:
        _, sections, count, at, base = HEADER.unpack_from(message)
        ids_at = HEADER.size + prefix_size
        numbers: tuple[int, ...] = struct.unpack_from(f"<{count}H", message, ids_at)
        extras: list[bytes] | None = None
        places: int = 0
        if sections:
            extras, places = self._read_sections(message, ids_at + 2 * count, sections, count)
        layouts = self._layouts
        make = self._make
        tensors: list[list[T]] = []
        for number in numbers:
            if number >= RESCHEDULED:
                tensors.append([])
                continue
            layout = layouts[number]
            if layout.stride >= 0:
                tensors.append(
                    [make(slot, message, at + slot.offset, slot.byte_size) for slot in layout.slots]
                )
                at += layout.stride
            else:
                record, at, places = self._read_placed(layout, message, at, places)
                tensors.append(record)
        if at != len(message):
            raise WireError(f"message has {len(message)} bytes, its records end at {at}")
        return Records(base, numbers, layouts, extras, tensors)

    def _read_sections(
        self, message: bytes | bytearray, at: int, sections: int, count: int
    ) -> tuple[list[bytes] | None, int]:
        extras: list[bytes] | None = None
        if sections & RESET:
            self._layouts = []
        if sections & RELEASES:
            (spans,) = _U16.unpack_from(message, at)
            at += 2
            for _ in range(spans):
                self._release(*RELEASE.unpack_from(message, at))
                at += RELEASE.size
        if sections & LAYOUTS:
            (definitions,) = _U16.unpack_from(message, at)
            at += 2
            for _ in range(definitions):
                definition, at = _read_counted(message, at)
                self._layouts.append(_parse_definition(len(self._layouts), definition))
        if sections & EXTRAS:
            extras = []
            for _ in range(count):
                extra, at = _read_counted(message, at)
                extras.append(extra)
        return extras, at

    def _read_placed(
        self, layout: Layout, message: bytes | bytearray, at: int, places: int
    ) -> tuple[list[T], int, int]:
        record: list[T] = []
        for slot in layout.slots:
            size = slot.byte_size
            segment = INLINE
            if not slot.fixed:
                size, segment, offset = _PLACE.unpack_from(message, places)
                places += _PLACE.size
                if slot.shared and size != slot.byte_size:
                    raise WireError(f"tensor '{slot.name}' has {size} bytes in shared memory")
            if segment == INLINE:
                record.append(self._make(slot, message, at, size))
                at += -(-size // 16) * 16
            else:
                array = self._segments.array(Span(segment, offset, size))
                record.append(self._make(slot, array.data, 0, size))
        return record, at, places


def _read_counted(message: bytes | bytearray, at: int) -> tuple[bytes, int]:
    (length,) = _U32.unpack_from(message, at)
    at += 4
    if length > len(message) - at:
        raise WireError(f"{length} bytes announced, {len(message) - at} left")
    return bytes(message[at : at + length]), at + length
