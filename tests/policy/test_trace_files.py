"""Which traces go into which file."""

from __future__ import annotations

from collections.abc import Sequence

from actors.policy.trace_files import MAX_HELD, TraceFiles, WriteTraces
from actors.policy.tracing import Close, Collection
from protocol.tracing import TraceGroup

UNLIMITED = Collection(1, 0, is_limited=False)
LIMITED = Collection(2, 0, is_limited=True)
BY_TWO = Collection(3, 2, is_limited=False)


def group() -> TraceGroup:
    return TraceGroup(timestamps=True, budget=None)


def shape(writes: Sequence[WriteTraces]) -> list[tuple[str, int, bool]]:
    return [(write.path, len(write.groups), write.begins) for write in writes]


def added(files: TraceFiles, collection: Collection, count: int) -> list[tuple[str, int, bool]]:
    return [each for _ in range(count) for each in shape(files.add(collection, group()))]


def test_everything_of_a_setting_goes_into_the_file_when_it_is_over() -> None:
    files = TraceFiles("t")
    assert added(files, UNLIMITED, 3) == []
    assert shape(files.close(Close(1, to_indexed_file=False))) == [("t", 3, True)]
    assert shape(files.close(Close(1, to_indexed_file=False))) == []


def test_the_next_setting_appends_to_it() -> None:
    files = TraceFiles("t")
    added(files, UNLIMITED, 1)
    files.close(Close(1, to_indexed_file=False))
    added(files, LIMITED, 2)
    assert shape(files.close_all()) == [("t", 2, False)]


def test_a_count_that_is_used_up_goes_into_a_numbered_file() -> None:
    files = TraceFiles("t")
    added(files, LIMITED, 3)
    assert shape(files.close(Close(2, to_indexed_file=True))) == [("t.0", 3, True)]


def test_numbered_files_hold_log_frequency_traces_and_the_last_what_is_left() -> None:
    files = TraceFiles("t")
    assert added(files, BY_TWO, 5) == [("t.0", 2, True), ("t.1", 2, True)]
    assert shape(files.close_all()) == [("t.2", 1, True)]


def test_nothing_is_written_of_nothing() -> None:
    files = TraceFiles("t")
    assert shape(files.close_all()) == []
    assert added(files, BY_TWO, 2) == [("t.0", 2, True)]
    assert shape(files.close_all()) == []


def test_more_than_is_held_is_written_in_pieces() -> None:
    files = TraceFiles("t")
    assert added(files, UNLIMITED, MAX_HELD + 1) == [("t", MAX_HELD, True)]
    assert shape(files.close(Close(1, to_indexed_file=False))) == [("t", 1, False)]
    assert added(files, LIMITED, 2 * MAX_HELD) == [
        ("t.0", MAX_HELD, True),
        ("t.0", MAX_HELD, False),
    ]
    files.add(LIMITED, group())
    assert shape(files.close(Close(2, to_indexed_file=True))) == [("t.0", 1, False)]


def test_a_large_log_frequency_is_written_in_pieces_of_the_same_file() -> None:
    files = TraceFiles("t")
    many = Collection(4, MAX_HELD + 2, is_limited=False)
    assert added(files, many, MAX_HELD + 2) == [("t.0", MAX_HELD, True), ("t.0", 2, False)]
    assert added(files, many, MAX_HELD + 2) == [("t.1", MAX_HELD, True), ("t.1", 2, False)]
