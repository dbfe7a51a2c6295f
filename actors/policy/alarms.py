"""The deadlines of requests that are known by their numbers.

Owns the order of the instants. Whose deadline need not be kept any longer is not told: entries of
requests that are not open are passed over, and swept out once they outnumber the others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterator, Sized
from typing import Final, Protocol

# Entries below which sweeping is not worth it.
_MIN_SWEPT: Final = 64


class Open(Container[int], Sized, Protocol):
    """The numbers of the requests that are open."""


class Alarms:
    """One instant at most for each request."""

    def __init__(self, open_requests: Open) -> None:
        self._open = open_requests
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Entries that are kept, those of requests that are not open any longer included."""
        return len(self._heap)

    def set(self, at: float, number: int) -> None:
        """The request's deadline is `at`."""
        if len(self._heap) > 2 * len(self._open) + _MIN_SWEPT:
            self._heap = [entry for entry in self._heap if entry[1] in self._open]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at, number))

    @property
    def next_at(self) -> float:
        """No deadline passes before this instant; infinity without any."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[int]:
        """The open requests whose deadlines have passed; each is told once."""
        while self._heap and self._heap[0][0] <= now:
            _, number = heapq.heappop(self._heap)
            if number in self._open:
                yield number
