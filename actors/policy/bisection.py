"""Finding the request that kills its worker, by running a batch that died again in halves.

Owns which part of the batch is to be run next and how often it is halved. Pure: the executor
runs the parts and says what became of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

# How often one batch may be halved: enough to find one request in 128. A part that dies after
# that fails as it is.
HALVINGS: Final = 7

# What follows from it: the workers that one batch may kill, and how often a request is executed.
DEATH_LIMIT: Final = 1 + 2 * HALVINGS
EXECUTION_LIMIT: Final = 1 + HALVINGS


class Bisection:
    """The parts of one batch that has killed a worker, by the places of its requests."""

    def __init__(self, suspects: Sequence[int]) -> None:
        # The last is next. A halving replaces one part by two.
        self._parts: list[list[int]] = []
        self._running: list[int] = []
        self._halvings = 0
        self._halve(suspects)

    def next_part(self) -> list[int]:
        """The places to be run next; empty at the end of the search."""
        self._running = self._parts.pop() if self._parts else []
        return self._running

    def died(self, answered: Collection[int] = ()) -> bool:
        """The part that ran has killed its worker, those `answered` being out of it by now.

        Whether it was a single request, which is to blame.
        """
        alone = len(self._running) == 1
        if not alone and self._halvings < HALVINGS:
            self._halve([place for place in self._running if place not in answered])
        return alone

    def _halve(self, places: Sequence[int]) -> None:
        self._halvings += 1
        middle = len(places) // 2
        self._parts += [list(part) for part in (places[middle:], places[:middle]) if part]
