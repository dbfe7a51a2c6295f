"""When spans are sent, and how many at once: OpenTelemetry's batch processor.

Owns the spans that wait. They are sent together: as soon as there is a whole batch, or when the
first of them has waited for the delay. What comes while the queue is full is dropped and counted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from protocol.trace_spans import Span


class SpanQueue:
    """See the module's docstring; times are told."""

    def __init__(self, *, max_queue: int, delay_seconds: float, max_batch: int) -> None:
        self._max_queue = max_queue
        self._delay_seconds = delay_seconds
        self._max_batch = max_batch
        self._waiting: deque[Span] = deque()  # at most `max_queue`
        self._due_at = math.inf
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_wake(self) -> float:
        """When `take` has something to give."""
        return -math.inf if len(self._waiting) >= self._max_batch else self._due_at

    def add(self, spans: Iterable[Span], now: float) -> None:
        for span in spans:
            if len(self._waiting) >= self._max_queue:
                self.dropped += 1
                continue
            if not self._waiting:
                self._due_at = now + self._delay_seconds
            self._waiting.append(span)

    def take(self, now: float, *, everything: bool = False) -> list[list[Span]]:
        """The batches that are due; with `everything` all that there is."""
        batches = []
        is_due = everything or now >= self._due_at
        while len(self._waiting) >= (1 if is_due else self._max_batch):
            size = min(self._max_batch, len(self._waiting))
            batches.append([self._waiting.popleft() for _ in range(size)])
        if batches:
            self._due_at = now + self._delay_seconds if self._waiting else math.inf
        return batches
