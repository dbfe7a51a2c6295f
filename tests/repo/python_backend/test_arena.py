"""Shared memory without names: spans, their reuse, and segments that nobody can shrink."""

from __future__ import annotations

import fcntl
import os
import random
import resource

import numpy as np
import pytest

from repo.backends.python import arena as module
from repo.backends.python.arena import Arena, ArenaFullError, SegmentMap, Span


def joined(arena: Arena, *, writable: bool = True) -> SegmentMap:
    """The other side of an arena; segments reach it at once."""

    def attach(_: int) -> None:
        while arena.new_segments:
            new = arena.new_segments.pop(0)
            segments.attach(new.number, new.descriptor)

    segments = SegmentMap(writable=writable, missing=attach)
    return segments


def give_back(arena: Arena, segments: SegmentMap) -> int:
    count = 0
    while segments.released:
        arena.release(*segments.released.popleft())
        count += 1
    return count


def test_a_span_comes_back_when_its_last_array_has_gone() -> None:
    arena = Arena()
    segments = joined(arena)
    span = arena.place(b"abcd" * 2000)
    array = segments.array(span)
    view = array[4:].view(np.uint32)
    assert bytes(array[:8]) == b"abcdabcd"
    del array
    assert not segments.released
    del view
    assert list(segments.released) == [(span.segment, span.offset)]


def test_a_span_that_came_back_is_used_next() -> None:
    arena = Arena()
    segments = joined(arena)
    first = arena.place(bytes(10_000))
    second = arena.place(bytes(10_000))
    assert first.offset != second.offset
    segments.array(first)
    give_back(arena, segments)
    assert arena.place(bytes(9_000)) == first._replace(byte_size=9_000)


def test_free_neighbours_are_joined_before_the_arena_grows() -> None:
    arena = Arena(first_bytes=1 << 20)
    segments = joined(arena)
    quarters = [arena.place(bytes(1 << 18)) for _ in range(4)]
    for span in quarters:
        segments.array(span)
    assert give_back(arena, segments) == 4
    assert arena.place(bytes(1 << 20)) == Span(0, 0, 1 << 20)
    assert arena.total_bytes == 1 << 20


def test_an_arena_grows_by_at_least_as_much_as_it_has() -> None:
    arena = Arena(first_bytes=1 << 20, growth_bytes=1 << 20)
    for _ in range(9):
        arena.place(bytes(1 << 20))
    assert [segment.byte_size >> 20 for segment in arena._segments.values()] == [1, 1, 2, 4, 8]
    arena.close()


def test_a_segment_that_nobody_needed_for_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIM_EVERY", 8)
    arena = Arena()
    segments = joined(arena)
    segments.array(arena.place(bytes(1000)))
    segments.array(arena.place(bytes(5 << 20)))
    assert arena.total_bytes == 6 << 20
    for _ in range(32):
        give_back(arena, segments)
        segments.array(arena.place(bytes(1000)))
    assert arena.total_bytes == 1 << 20
    assert arena.dropped == [1]
    segments.detach(1)
    assert 1 not in segments
    give_back(arena, segments)
    # The last one stays, however long it is idle.
    assert arena.place(bytes(1000)).segment == 0


def test_an_arena_has_a_limit_and_may_be_used_to_the_last_byte() -> None:
    arena = Arena(first_bytes=1 << 20, limit_bytes=(1 << 20) + 8192)
    arena.place(bytes(1 << 20))
    arena.place(bytes(8192))
    with pytest.raises(ArenaFullError, match="tensor of 4096 bytes does not fit"):
        arena.place(b"x")
    arena.close()


def test_no_memory_is_an_error_and_not_a_fault() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ArenaFullError, match="no shared memory for 2097152 bytes"):
            Arena().place(bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_spans_never_overlap_and_all_come_back() -> None:
    """Random sizes, random holding times; contents tell when memory is given out twice."""
    draw = random.Random(7)
    arena = Arena(first_bytes=1 << 16, growth_bytes=1 << 16)
    segments = joined(arena)
    held: list[tuple[int, np.ndarray[tuple[int], np.dtype[np.uint8]]]] = []
    for number in range(2000):
        while held and (len(held) > 40 or draw.random() < 0.45):
            mark, array = held.pop(draw.randrange(len(held)))
            assert (array == mark).all()
        give_back(arena, segments)
        mark = number % 256
        span = arena.place(bytes((mark,)) * draw.choice((1, 5000, 9000, 30_000, 70_000)))
        held.append((mark, segments.array(span)))
    del array
    held.clear()
    give_back(arena, segments)
    assert not arena._sizes
    arena._join_spares()
    for segment in arena._segments.values():
        assert segment.used == 0
        assert segment.holes == [(0, segment.byte_size)]


def test_the_reader_may_not_write_unless_the_memory_is_its_own() -> None:
    arena = Arena()
    span = arena.place(b"abc")
    array = joined(arena, writable=False).array(span)
    assert not array.flags.writeable
    other = Arena()
    assert joined(other).array(other.place(b"abc")).flags.writeable


def test_memory_that_could_shrink_is_not_mapped() -> None:
    segments = SegmentMap(writable=False, missing=lambda _: None)
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    with pytest.raises(ValueError, match="not sealed against shrinking"):
        segments.attach(0, descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(descriptor)


def test_spans_outside_of_a_segment_do_not_exist() -> None:
    arena = Arena()
    segments = joined(arena)
    arena.place(b"x")
    for span in (Span(0, -4096, 1), Span(0, 1 << 20, 1), Span(0, 0, (1 << 20) + 1)):
        with pytest.raises(ValueError, match="lies outside its segment"):
            segments.array(span)
    with pytest.raises(KeyError):
        segments.array(Span(5, 0, 1))
    segments.close()
    assert 0 not in segments
