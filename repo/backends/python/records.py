"""Messages that carry tensors: batches of requests, of responses, or one of either.

A message reads, little-endian:

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

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Optional, TypeVar

from .arena import Arena, SegmentMap, Span
from .layout import (
    SHARED_THRESHOLD,
    Buffer,
    Key,
    Layout,
    Raw,
    Slot,
    WireError,
    counted,
    define,
    make_layout,
    parse_definition,
    read_counted,
)

T = TypeVar("T")

# A whole message; larger ones travel in the arena. Two of them fit the socket buffer that Linux is
# usually configured with (212,992 bytes, which the kernel doubles).
MESSAGE_LIMIT = 128 << 10

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
RELEASE = struct.Struct("<IQ")
_PLACE = struct.Struct("<QIQ")
_U16 = struct.Struct("<H")

_PADDING = tuple(bytes(-size % 16) for size in range(16))  # by size % 16

# Spans given back per message; more wait for the next one.
_MAX_RELEASES = 1024

_numbers_structs: dict[int, struct.Struct] = {}


def numbers_struct(count: int) -> struct.Struct:
    """The record numbers of a message with `count` records, which is at most 65,535."""
    found = _numbers_structs.get(count)
    if found is None:
        found = _numbers_structs[count] = struct.Struct(f"<{count}H")
    return found


Record = tuple[Optional[Key], Sequence[Raw], int, bytes]
"""A record to be written: its layout's key, one raw per tensor, and extras; or, without a key, one
of the outcomes without tensors. A plain tuple, because one is made per request."""

_NO_PREFIX = bytes


class BatchWriter:
    """Builds messages with tensors for one socket; not thread-safe."""

    def __init__(self, arena: Arena, released: deque[tuple[int, int]]) -> None:
        self._arena = arena
        self._released = released
        self._layouts: dict[Key, Layout] = {}
        self._pending: list[bytes] = []  # definitions that the peer has not got yet
        self._reset = False

    def build(
        self,
        tag: int,
        base: int,
        records: Sequence[Record],
        make_prefix: Callable[[], bytes] = _NO_PREFIX,
    ) -> bytes:
        """The message. `make_prefix` is called once the tensors have been gathered.

        Raises WireError when a tensor's bytes do not fit its shape, ArenaFullError, and KeyError
        for an unknown datatype; then nothing may be sent.
        """
        layouts = self._layouts
        if len(layouts) + len(records) > LAYOUT_LIMIT:
            layouts = self._forget_layouts()
        numbers: list[int] = []
        data: list[Raw] = []
        data_size = 0
        places: list[bytes] = []
        spans: list[Span] = []
        has_extras = False
        try:
            for key, raws, number, extras in records:
                if extras:
                    has_extras = True
                if key is None:
                    numbers.append(number)
                    continue
                layout = layouts.get(key) or self._intern(key)
                numbers.append(layout.number)
                if layout.stride < 0:
                    data_size += self._place(layout, raws, data, places, spans)
                    continue
                for raw in raws:
                    data.append(raw)
                    over = len(raw) & 15
                    if over:
                        data.append(_PADDING[over])
                data_size += layout.stride
            prefix = make_prefix()
            if has_extras or places or self._pending or self._reset or self._released:
                extra = [record[3] for record in records] if has_extras else ()
                sections, body = self._sections(extra, places)
            else:
                sections, body = 0, b""
            count = len(numbers)
            head_size = HEADER.size + len(prefix) + 2 * count + len(body)
            data_at = (head_size + 15) & ~15
            head = HEADER.pack(tag, sections, count, data_at, base)
            ids = numbers_struct(count).pack(*numbers)
            message = b"".join([head, prefix, ids, body, _PADDING[head_size & 15], *data])
            if len(message) != data_at + data_size:
                raise WireError(
                    f"tensors have {len(message) - data_at} bytes where their shapes ask for "
                    f"{data_size}"
                )
            return message
        except BaseException:
            for span in spans:
                self._arena.release(span.segment, span.offset)
            raise

    def _forget_layouts(self) -> dict[Key, Layout]:
        self._layouts = {}
        self._pending = []
        self._reset = True
        return self._layouts

    def _intern(self, key: Key) -> Layout:
        layout = self._layouts[key] = make_layout(len(self._layouts), key)
        self._pending.append(define(layout))
        return layout

    def _place(
        self,
        layout: Layout,
        raws: Sequence[Raw],
        data: list[Raw],
        places: list[bytes],
        spans: list[Span],
    ) -> int:
        """Put the tensors of one record where they belong; the bytes that stay inline."""
        inline = 0
        for slot, raw in zip(layout.slots, raws):
            size = len(raw)
            if not slot.fixed and (slot.shared or size >= SHARED_THRESHOLD):
                if slot.shared and size != slot.byte_size:
                    raise WireError(f"tensor '{slot.name}' has {size} bytes, not {slot.byte_size}")
                span = self._arena.place(raw)
                spans.append(span)
                places.append(_PLACE.pack(size, span.segment, span.offset))
                continue
            if not slot.fixed:
                places.append(_PLACE.pack(size, INLINE, 0))
            data += (raw, _PADDING[size & 15])
            inline += -(-size // 16) * 16
        return inline

    def _sections(self, extras: Sequence[bytes], places: list[bytes]) -> tuple[int, bytes]:
        """The optional part between the record numbers and the tensors, and what it holds."""
        sections = 0
        parts: list[bytes] = []
        if self._reset:
            sections |= RESET
            self._reset = False
        if self._released:
            sections |= RELEASES
            count = min(len(self._released), _MAX_RELEASES)
            parts.append(_U16.pack(count))
            parts += [RELEASE.pack(*self._released.popleft()) for _ in range(count)]
        if self._pending:
            sections |= LAYOUTS
            parts.append(_U16.pack(len(self._pending)))
            for definition in self._pending:
                parts.append(counted(definition))
            self._pending = []
        if extras:
            sections |= EXTRAS
            parts += map(counted, extras)
        if places:
            sections |= PLACES
            parts += places
        return sections, b"".join(parts)


class Records(Generic[T]):
    """What a message held: per record its number, its extras and its tensors."""

    __slots__ = ("base", "extras", "layouts", "numbers", "plain", "tensors")

    def __init__(
        self,
        base: int,
        numbers: Sequence[int],
        layouts: list[Layout],
        extras: Sequence[bytes] | None,
        tensors: list[list[T]],
        *,
        plain: bool,
    ) -> None:
        self.base = base
        self.numbers = numbers
        self.layouts = layouts
        self.extras = extras  # None when no record has any
        self.tensors = tensors
        self.plain = plain  # every record has tensors, and none has extras


class BatchReader(Generic[T]):
    """Takes messages with tensors apart; one per socket.

    A reader's `make` turns (slot, buffer, start, byte size) into whatever it calls a tensor; the
    buffer is the message itself or, with start 0, the memoryview of a span. `make_record` does so
    for all the inline tensors of one record, given (layout, message, where they start): it is what
    most records need, and saves a call per tensor. `release` hears of spans given back.
    """

    def __init__(
        self,
        make: Callable[[Slot, Buffer, int, int], T],
        make_record: Callable[[Layout, Buffer, int], list[T]],
        segments: SegmentMap,
        release: Callable[[int, int], None],
    ) -> None:
        self._make = make
        self._make_record = make_record
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
        numbers = numbers_struct(count).unpack_from(message, ids_at)
        extras: list[bytes] | None = None
        places = 0
        if sections:
            extras, places = self._read_sections(message, ids_at + 2 * count, sections, count)
        layouts = self._layouts
        make_record = self._make_record
        tensors: list[list[T]] = []
        plain = extras is None
        for number in numbers:
            if number >= RESCHEDULED:
                tensors.append([])
                plain = False
                continue
            layout = layouts[number]
            if layout.stride >= 0:
                tensors.append(make_record(layout, message, at))
                at += layout.stride
            else:
                record, at, places = self._read_placed(layout, message, at, places)
                tensors.append(record)
        if at != len(message):
            raise WireError(f"message has {len(message)} bytes, its records end at {at}")
        return Records(base, numbers, layouts, extras, tensors, plain=plain)

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
                definition, at = read_counted(message, at)
                self._layouts.append(parse_definition(len(self._layouts), definition))
        if sections & EXTRAS:
            extras = []
            for _ in range(count):
                extra, at = read_counted(message, at)
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
