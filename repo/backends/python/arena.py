"""Anonymous shared memory for tensors too large to travel in a message.

Each direction of a worker's conversation has one `Arena`, owned by the side that writes into it.
An arena is a list of memfd segments; a segment is created when the others are full and given to
the other side once, as a descriptor. The other side keeps a `SegmentMap` and hands out arrays over
spans of it. A span is given back when the last array over it has been collected, however long the
receiver keeps it: memory is never reused under a reader. Nothing has a name, so nothing outlives
the two processes, whatever kills them.

A segment is sealed against shrinking before it is shared, so that a broken peer cannot make the
other side's reads fault. Nothing here talks: lists of what must be told to the peer are kept for
whoever sends messages.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Spans are multiples of a page: sizes then repeat, and a repeated size is found at once.
SPAN_ALIGNMENT = 4096

DEFAULT_SEGMENT_BYTES = 1 << 20

# Doubling stops here: beyond it a large arena grows in steps that waste at most this much.
MAX_GROWTH_BYTES = 64 << 20

# One direction of one worker: a defect, or one absurd request, should not eat the machine.
ARENA_LIMIT_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4

# After this many spans a segment in which none was placed is dropped, so that one huge request
# does not hold its memory for ever.
TRIM_EVERY = 256

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class ArenaFullError(Exception):
    """The arena has reached its limit; the text says which."""


class Span(NamedTuple):
    """Where a tensor lies: `offset` bytes into segment number `segment`."""

    segment: int
    offset: int
    byte_size: int


class NewSegment(NamedTuple):
    """A segment that the peer has not seen yet; whoever sends `descriptor` also closes it."""

    number: int
    byte_size: int
    descriptor: int


class _Segment:
    __slots__ = ("byte_size", "holes", "map", "number", "placed", "used", "view")

    def __init__(self, number: int, byte_size: int, memory: mmap.mmap) -> None:
        self.number = number
        self.byte_size = byte_size
        self.map = memory
        self.view = memoryview(memory)
        self.holes: list[tuple[int, int]] = [(0, byte_size)]  # (offset, size), by offset
        self.used = 0  # spans placed and not given back
        self.placed = 0  # spans placed since the last trim

    def take(self, size: int) -> int:
        """The offset of a free span of `size` bytes, or -1."""
        for index, (offset, free) in enumerate(self.holes):
            if free >= size:
                if free == size:
                    del self.holes[index]
                else:
                    self.holes[index] = (offset + size, free - size)
                return offset
        return -1

    def give(self, offset: int, size: int) -> None:
        """Make a span free again, joining it to its neighbours."""
        self.holes.append((offset, size))
        self.holes.sort()
        joined: list[tuple[int, int]] = []
        for start, length in self.holes:
            if joined and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        self.holes = joined


class Arena:
    """The writing side of one direction; not thread-safe.

    `new_segments` and `dropped` list what the peer must be told before, respectively after, the
    next message; the sender empties them.
    """

    def __init__(
        self,
        *,
        first_bytes: int = DEFAULT_SEGMENT_BYTES,
        growth_bytes: int = DEFAULT_SEGMENT_BYTES,
        limit_bytes: int = ARENA_LIMIT_BYTES,
    ) -> None:
        self.new_segments: list[NewSegment] = []
        self.dropped: list[int] = []
        self.first_bytes = first_bytes
        self.growth_bytes = growth_bytes
        self._limit_bytes = limit_bytes
        self._segments: dict[int, _Segment] = {}
        self._sizes: dict[tuple[int, int], int] = {}  # (segment, offset) → size, of spans in use
        self._spare: dict[int, list[tuple[int, int]]] = {}  # size → spans free but not yet joined
        self._next_number = 0
        self._placed = 0
        self.total_bytes = 0

    def place(self, raw: bytes | memoryview) -> Span:
        """Copy `raw` into a free span. Raises ArenaFullError."""
        byte_size = len(raw)
        segment, offset = self._allocate(-(-byte_size // SPAN_ALIGNMENT) * SPAN_ALIGNMENT)
        segment.view[offset : offset + byte_size] = raw
        return Span(segment.number, offset, byte_size)

    def release(self, number: int, offset: int) -> None:
        """The peer has given a span back. Raises KeyError for a span that is not in use."""
        size = self._sizes.pop((number, offset))
        self._segments[number].used -= 1
        self._spare.setdefault(size, []).append((number, offset))

    def close(self) -> None:
        """Forget everything; the memory goes with the last array over it."""
        for new in self.new_segments:
            os.close(new.descriptor)
        self.new_segments.clear()
        self._segments.clear()
        self._spare.clear()
        self._sizes.clear()

    def _allocate(self, size: int) -> tuple[_Segment, int]:
        self._placed += 1
        if self._placed % TRIM_EVERY == 0:
            self._trim()
        spare = self._spare.get(size)
        if spare:
            number, offset = spare.pop()  # the one used last: its pages are warm in the cache
            segment = self._segments[number]
        else:
            segment, offset = self._find(size)
        segment.used += 1
        segment.placed += 1
        self._sizes[segment.number, offset] = size
        return segment, offset

    def _find(self, size: int) -> tuple[_Segment, int]:
        for attempt in range(2):
            for segment in self._segments.values():
                offset = segment.take(size)
                if offset >= 0:
                    return segment, offset
            if attempt == 0:
                if not self._spare:
                    break
                self._join_spares()
        segment = self._grow(size)
        return segment, segment.take(size)

    def _join_spares(self) -> None:
        for size, spans in self._spare.items():
            for number, offset in spans:
                self._segments[number].give(offset, size)
        self._spare.clear()

    def _grow(self, size: int) -> _Segment:
        wanted = max(
            size,
            self.growth_bytes if self._segments else self.first_bytes,
            min(self.total_bytes, MAX_GROWTH_BYTES),
        )
        wanted = -(-wanted // SPAN_ALIGNMENT) * SPAN_ALIGNMENT
        if self.total_bytes + wanted > self._limit_bytes:
            wanted = size
        if self.total_bytes + wanted > self._limit_bytes:
            raise ArenaFullError(
                f"tensor of {size} bytes does not fit: {self.total_bytes} of "
                f"{self._limit_bytes} bytes of shared memory are in use"
            )
        descriptor = os.memfd_create("troupe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Claims the pages now: a full machine is an OSError here, not a fault in a copy.
            os.posix_fallocate(descriptor, 0, wanted)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            memory = mmap.mmap(descriptor, wanted)
        except OSError as error:
            os.close(descriptor)
            raise ArenaFullError(f"no shared memory for {wanted} bytes: {error}") from error
        number = self._next_number
        self._next_number += 1
        segment = self._segments[number] = _Segment(number, wanted, memory)
        self.new_segments.append(NewSegment(number, wanted, descriptor))
        self.total_bytes += wanted
        return segment

    def _trim(self) -> None:
        """Drop the segments that no recent span needed; one always stays."""
        idle = [s for s in self._segments.values() if not s.used and not s.placed]
        if idle and len(idle) == len(self._segments):
            idle.pop(0)
        for segment in self._segments.values():
            segment.placed = 0
        if not idle:
            return
        self._join_spares()
        for segment in idle:
            del self._segments[segment.number]
            self.total_bytes -= segment.byte_size
            self.dropped.append(segment.number)


class Block:
    """One span as numpy sees it: arrays over it keep it alive, and its end gives the span back."""

    __slots__ = ("__array_interface__", "_map", "_released", "_span")

    def __init__(
        self,
        span: Span,
        address: int,
        writable: bool,
        memory: mmap.mmap,
        released: deque[tuple[int, int]],
    ) -> None:
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": (span.byte_size,),
            "typestr": "|u1",
            "data": (address + span.offset, not writable),
        }
        self._map = memory
        self._span = span
        self._released = released

    def __del__(self) -> None:
        # May run in any thread, even while that thread holds a lock: append and nothing else.
        self._released.append((self._span.segment, self._span.offset))


class SegmentMap:
    """The reading side of one direction.

    `released` collects the spans that nobody reads any longer, for the next message to the writer.
    """

    def __init__(self, *, writable: bool, missing: Callable[[int], None]) -> None:
        """`missing` is called for a segment that is needed and not here, and returns once it is."""
        self._missing = missing
        # As long as the number of spans in flight, which the arena's limit bounds.
        self.released: deque[tuple[int, int]] = deque()
        self._writable = writable
        self._maps: dict[int, tuple[mmap.mmap, int, int]] = {}  # number → map, address, size

    def __contains__(self, number: int) -> bool:
        return number in self._maps

    def attach(self, number: int, descriptor: int) -> None:
        """Map a segment and close its descriptor.

        Raises ValueError for memory that the peer could shrink under the reader.
        """
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError(f"segment {number} is not sealed against shrinking")
            byte_size = os.fstat(descriptor).st_size
            memory = mmap.mmap(descriptor, byte_size)
        finally:
            os.close(descriptor)
        address = np.frombuffer(memory, dtype=np.uint8).__array_interface__["data"][0]
        self._maps[number] = (memory, address, byte_size)

    def detach(self, number: int) -> None:
        """The writer has dropped a segment; it is unmapped once no array is left over it."""
        self._maps.pop(number, None)

    def close(self) -> None:
        """Unmap everything that no array is left over."""
        self._maps.clear()

    def array(self, span: Span) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a span. Raises KeyError or ValueError for one that does not exist."""
        if span.segment not in self._maps:
            self._missing(span.segment)
        memory, address, byte_size = self._maps[span.segment]
        if span.offset < 0 or span.byte_size < 0 or span.offset + span.byte_size > byte_size:
            raise ValueError(f"span {span} lies outside its segment of {byte_size} bytes")
        return np.asarray(Block(span, address, self._writable, memory, self.released))
