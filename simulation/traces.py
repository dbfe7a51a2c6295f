"""What happened in a simulated run, as comparable values."""

from __future__ import annotations

from typing import NamedTuple

import trio


class Event(NamedTuple):
    """One thing that happened. `at_us` is virtual time in whole microseconds."""

    at_us: int
    what: str
    who: str
    size: int
    detail: str


class Trace:
    """Events in the order in which they happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, what: str, who: str, size: int = 0, detail: str = "") -> None:
        """Record an event at the current virtual time."""
        self.events.append(Event(round(trio.current_time() * 1e6), what, who, size, detail))

    def of(self, what: str) -> list[Event]:
        return [event for event in self.events if event.what == what]

    def batches(self) -> list[tuple[float, int]]:
        """Every execution as (seconds at which it began, batch size)."""
        return [(event.at_us / 1e6, event.size) for event in self.of("execute")]
