"""When an open loop sends: instants after the start, fixed before the first request goes out.

Owns constant, Poisson and custom schedules. Pure: nothing here waits, and the same arguments give
the same schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random  # noqa: TID251  # a schedule of its own, the same in every run
from typing import Final

# Two runs of the same command send at the same instants.
POISSON_SEED: Final = 5489
# A Poisson schedule is drawn this long at most and then repeats; a million gaps hold no pattern.
MAX_POISSON_GAPS: Final = 1_000_000


class Schedule:
    """Seconds after the start at which request 0, 1, 2, … is due; repeats for ever."""

    __slots__ = ("_offsets", "_period")

    def __init__(self, offsets: Sequence[float]) -> None:
        """`offsets` rise; the last one is the length of the period that repeats."""
        if not offsets:
            raise ValueError("a schedule needs an instant")
        self._offsets = tuple(offsets)
        self._period = self._offsets[-1]

    def due(self, number: int) -> float:
        """When request `number` is due."""
        rounds, place = divmod(number, len(self._offsets))
        return rounds * self._period + self._offsets[place]

    def __len__(self) -> int:
        return len(self._offsets)


class ConstantSchedule(Schedule):
    """One request every 1/rate seconds, the first after one period."""

    __slots__ = ("_rate",)

    def __init__(self, rate: float) -> None:
        super().__init__((1 / rate,))
        self._rate = rate

    def due(self, number: int) -> float:
        """(number + 1) / rate, without the error of adding up."""
        return (number + 1) / self._rate


def poisson(rate: float, seconds: float) -> Schedule:
    """Exponential gaps of mean 1/rate, drawn for `seconds` (at least one gap)."""
    random = Random(POISSON_SEED)  # noqa: S311  # no secret
    offsets: list[float] = []
    at = 0.0
    while (at < seconds or not offsets) and len(offsets) < MAX_POISSON_GAPS:
        at += random.expovariate(rate)
        offsets.append(at)
    return Schedule(offsets)


def custom(intervals_us: Sequence[int]) -> Schedule:
    """The given gaps, in microseconds, one after another."""
    total = 0
    offsets = []
    for interval in intervals_us:
        total += interval
        offsets.append(total / 1_000_000)
    return Schedule(offsets)


def custom_rate(intervals_us: Sequence[int]) -> int:
    """The rate that the original reports for custom intervals: whole requests per second."""
    return len(intervals_us) * 1_000_000 // max(1, sum(intervals_us))


def read_intervals(text: str) -> list[int]:
    """One interval in microseconds per line. Raises ValueError with the reason."""
    intervals = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        if not word.isdecimal():
            raise ValueError(f"line {number} is not a number of microseconds: '{word[:40]}'")
        intervals.append(int(word))
    if not intervals:
        raise ValueError("request intervals file is empty")
    if not sum(intervals):
        raise ValueError("all request intervals are 0")
    return intervals
