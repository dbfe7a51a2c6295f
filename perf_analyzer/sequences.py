"""Which request of which sequence comes next in a slot.

Owns correlation ids, the lengths of sequences and their places in the data. Pure: the loads ask,
and tell when a sequence must end early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random  # noqa: TID251  # seeded by the run

from perf_analyzer.inputs import DataSet


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """The flags about sequences; `length` None takes the length of the data's streams."""

    length: int | None = None
    default_length: int = 20
    variation_percent: float = 20.0
    first_id: int = 1
    id_count: int = 2**32


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a sequence."""

    sequence_id: int
    stream: int
    step: int
    starts: bool
    ends: bool


class _Slot:
    __slots__ = ("remaining", "sequence_id", "step", "stream")

    def __init__(self) -> None:
        self.remaining = 0
        self.sequence_id = 0
        self.stream = 0
        self.step = 0


class Sequences:
    """The live sequences of a load, one per slot at a time."""

    def __init__(self, data: DataSet, options: SequenceOptions, random: Random) -> None:
        self._data = data
        self._options = options
        self._random = random
        self._slots: list[_Slot] = []
        self._used = 0  # ids given out so far

    def widen(self, count: int) -> None:
        """Have at least `count` slots."""
        while len(self._slots) < count:
            self._slots.append(_Slot())

    def next(self, number: int) -> Turn:
        """The next request of slot `number`: a new sequence begins when the last one has ended."""
        slot = self._slots[number]
        starts = slot.remaining == 0
        if starts:
            self._begin(slot)
        slot.remaining -= 1
        step = slot.step
        slot.step = (step + 1) % len(self._data.streams[slot.stream])
        return Turn(slot.sequence_id, slot.stream, step, starts, slot.remaining == 0)

    def live(self, number: int) -> bool:
        """Whether a sequence of the slot has begun and not ended."""
        return number < len(self._slots) and self._slots[number].remaining > 0

    def last(self, number: int) -> Turn:
        """The request that ends the slot's live sequence before its time."""
        self._slots[number].remaining = 1
        return self.next(number)

    def _begin(self, slot: _Slot) -> None:
        options = self._options
        candidate = self._used % options.id_count + options.first_id
        self._used += 1
        taken = any(
            other.sequence_id == candidate and other.remaining > 0
            for other in self._slots
            if other is not slot
        )
        if not taken:
            slot.sequence_id = candidate
        slot.stream = self._random.randrange(len(self._data.streams))
        slot.step = 0
        slot.remaining = self._length(len(self._data.streams[slot.stream]))

    def _length(self, steps: int) -> int:
        options = self._options
        if options.length is None and not self._data.generated:
            return steps
        length = options.default_length if options.length is None else options.length
        spread = length * options.variation_percent / 100 * self._random.uniform(-1, 1)
        return max(1, length + math.trunc(spread))
