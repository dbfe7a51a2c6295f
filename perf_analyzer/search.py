"""Which load level to measure next: linear ranges and binary search.

Pure generators: they yield a level and are sent whether it met the limit. The values are whole
numbers for concurrency and exact fractions for rates.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction

Level = Fraction


@dataclass(frozen=True, slots=True)
class Range:
    """start:end:step; end 0 goes on until a level does not meet the limit."""

    start: Fraction
    end: Fraction
    step: Fraction

    @property
    def is_single(self) -> bool:
        return self.start == self.end


def linear(levels: Range) -> Generator[Level, bool, None]:
    """start, start + step, … up to end, as long as each meets the limit."""
    level = levels.start
    while True:
        met = yield level
        level += levels.step
        if not met or (levels.end != 0 and level > levels.end):
            return


def binary(levels: Range, *, whole: bool) -> Generator[Level, bool, None]:
    """First both ends, then the middle of what is left, until that is no wider than a step."""
    low, high = levels.start, levels.end
    if not (yield low):
        return
    if high == low or (yield high):
        return
    while high - low > levels.step:
        middle = (low + high) / 2
        if whole:
            middle = Fraction(int(middle))
        if (yield middle):
            low = middle
        else:
            high = middle
