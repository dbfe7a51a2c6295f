"""When requests are due, and which level comes next."""

from __future__ import annotations

import itertools
import statistics
from fractions import Fraction

import pytest

from perf_analyzer import search
from perf_analyzer.schedules import (
    ConstantSchedule,
    Schedule,
    custom,
    custom_rate,
    poisson,
    read_intervals,
)


def test_a_constant_rate_starts_after_one_period() -> None:
    schedule = ConstantSchedule(50)

    assert [schedule.due(number) for number in range(3)] == pytest.approx([0.02, 0.04, 0.06])
    assert schedule.due(999_999) == pytest.approx(20_000)


def test_a_poisson_schedule_is_the_same_in_every_run() -> None:
    one, other = poisson(200, 60), poisson(200, 60)
    due = [one.due(number) for number in range(10_000)]
    gaps = [after - before for before, after in itertools.pairwise(due)]

    assert due == [other.due(number) for number in range(10_000)]
    assert statistics.mean(gaps) == pytest.approx(0.005, rel=0.03)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)


def test_a_poisson_schedule_repeats_after_its_period() -> None:
    schedule = poisson(10, 1)
    length = len(schedule)

    assert schedule.due(length) == pytest.approx(schedule.due(length - 1) + schedule.due(0))


def test_custom_intervals_add_up_and_repeat() -> None:
    schedule = custom([100_000, 200_000, 500_000])

    due = [schedule.due(number) for number in range(6)]

    assert due == pytest.approx([0.1, 0.3, 0.8, 0.9, 1.1, 1.6])


def test_the_rate_of_custom_intervals_is_whole() -> None:
    assert custom_rate([100_000, 200_000]) == 6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "request intervals file is empty"),
        ("\n \n", "request intervals file is empty"),
        ("0\n0\n", "all request intervals are 0"),
        ("10\nx\n", "line 2 is not a number of microseconds: 'x'"),
        ("-5", "line 1 is not a number of microseconds: '-5'"),
    ],
)
def test_a_bad_intervals_file_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_intervals(text)


def test_a_schedule_needs_an_instant() -> None:
    with pytest.raises(ValueError, match="needs an instant"):
        Schedule(())


def visited(levels: search.Range, passes: int, *, halves: bool = False) -> list[int]:
    """The levels that a search measures when those up to `passes` meet the limit."""
    steps = search.binary(levels, whole=True) if halves else search.linear(levels)
    found = []
    level: Fraction | None = next(steps)
    while level is not None:
        found.append(int(level))
        try:
            level = steps.send(level <= passes)
        except StopIteration:
            level = None
    return found


def levels(start: int, end: int, step: int = 1) -> search.Range:
    return search.Range(Fraction(start), Fraction(end), Fraction(step))


def test_linear_ranges() -> None:
    assert visited(levels(1, 8, 3), 99) == [1, 4, 7]
    assert visited(levels(1, 8), 2) == [1, 2, 3]
    assert visited(levels(1, 0), 5) == [1, 2, 3, 4, 5, 6]
    assert visited(levels(3, 3), 99) == [3]


def test_binary_search() -> None:
    assert visited(levels(1, 16), 6, halves=True) == [1, 16, 8, 4, 6, 7]
    assert visited(levels(1, 16), 0, halves=True) == [1]
    assert visited(levels(1, 16), 16, halves=True) == [1, 16]
    assert visited(levels(2, 2), 5, halves=True) == [2]
