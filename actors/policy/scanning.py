"""One pass over the queue: how many of the tickets at its front could leave together.

Owns the arithmetic of the dynamic batcher, kept between turns so that a ticket that arrives at
the end of the queue costs one `offer` and not another pass. Never touches the queue itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from actors.policy.actions import ClosedBy
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings

Stop = Literal["", "full", "shape", "custom"]
"""Why a pass ended before the end of the queue; empty while it has not."""


class BatchStrategy(Protocol):
    """Custom batching: a model's own code that may close a batch early.

    It applies in addition to the size, preference and delay rules. A batch whose scan starts over
    gets a new state. What a method raises is reported and never stops the scheduler.
    """

    def begin_batch(self) -> object:
        """The state of a new batch, which `include` may change."""

    def include(self, state: object, ticket: Ticket) -> bool:
        """Whether the ticket may join. A refused one starts the next batch."""

    def end_batch(self, state: object) -> None:
        """The batch leaves, or its scan starts over: release the state."""


@dataclass(slots=True, eq=False)
class FormedBatch:
    """Tickets that will leave together, waiting for a grant; the newest batch may still grow."""

    closed_by: ClosedBy
    shape_key: Hashable  # of the first ticket; those that join must match it
    tickets: list[Ticket] = field(default_factory=list)
    batch_size: int = 0
    # A ticket with other inputs stood behind it, so that nothing may be appended to it later.
    is_sealed: bool = False

    @property
    def oldest_at(self) -> float:
        """When its longest waiting ticket was enqueued."""
        return min(ticket.enqueued_at for ticket in self.tickets)


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that the scan compares with, derived from the settings once."""

    max_batch: int
    preferred: frozenset[int]
    max_preferred: int

    @classmethod
    def of(cls, settings: BatchingSettings) -> Limits:
        max_batch = max(settings.max_batch_size, 1)
        preferred = frozenset(settings.preferred_batch_sizes) or frozenset((max_batch,))
        return cls(max_batch, preferred, max(preferred))


class Scan:
    """What the pass has found so far.

    `base` is the size of the batch that the tickets would join, 0 for a new one. `picked` are the
    tickets seen, in order; `size` is the sum of their batch sizes. The first `mark` of them make
    up the best batch by preference, `best` in size; 0 when there is none.
    """

    __slots__ = (
        "base",
        "best",
        "limits",
        "mark",
        "oldest_at",
        "picked",
        "problems",
        "saturates",
        "shape_key",
        "size",
        "stop",
        "strategy",
        "strategy_state",
    )

    def __init__(self, limits: Limits, strategy: BatchStrategy | None) -> None:
        self.limits = limits
        self.strategy: BatchStrategy | None = None
        self.strategy_state: object = None
        self.problems: list[str] = []  # what the strategy raised, until somebody reports it
        self.restart(None)
        self.strategy = strategy  # after the restart: it begins its first batch with a ticket

    def restart(self, batch: FormedBatch | None) -> None:
        """Forget everything; the next ticket offered is the first in scan order."""
        self.base = 0 if batch is None else batch.batch_size
        self.shape_key: Hashable = None if batch is None else batch.shape_key
        self.picked: list[Ticket] = []
        self.size = 0
        self.best = 0
        self.mark = 0
        self.saturates = False
        self.stop: Stop = ""
        self.oldest_at = math.inf
        if self.strategy is not None:
            self._restart_strategy(batch)

    def offer(self, ticket: Ticket) -> bool:
        """Look at the next ticket in scan order; False when the pass ends before it."""
        limits = self.limits
        joint = self.base + self.size + ticket.batch_size
        if self.base or self.picked:
            if joint > limits.max_preferred and not self.best:
                self.best = self.size
                self.mark = len(self.picked)
                self.saturates = True
            if joint > limits.max_batch:
                self.stop = "full"
                return False
            if ticket.shape_key != self.shape_key:
                self.stop = "shape"
                return False
        else:
            self.shape_key = ticket.shape_key
        if self.strategy is not None and not self._included(ticket):
            self.stop = "custom"
            return False
        self.size += ticket.batch_size
        self.picked.append(ticket)
        self.oldest_at = min(self.oldest_at, ticket.enqueued_at)
        if joint in limits.preferred:
            self.best = self.size
            self.mark = len(self.picked)
        return True

    def end_strategy(self) -> None:
        """What was scanned leaves, or is scanned again: the strategy's state ends with it."""
        state, self.strategy_state = self.strategy_state, None
        if self.strategy is None or state is None:
            return
        try:
            self.strategy.end_batch(state)
        except Exception as error:  # noqa: BLE001  # foreign code
            self.problems.append(f"batch strategy failed in end_batch: {error}")

    def _restart_strategy(self, batch: FormedBatch | None) -> None:
        assert self.strategy is not None
        self.end_strategy()
        try:
            self.strategy_state = self.strategy.begin_batch()
        except Exception as error:  # noqa: BLE001  # foreign code
            self.problems.append(f"batch strategy failed in begin_batch: {error}")
            return
        # What the batch already holds must be in the new state; it stays, whatever the answer.
        for ticket in batch.tickets if batch is not None else ():
            self._asks_to_include(ticket)

    def _included(self, ticket: Ticket) -> bool:
        answer = self._asks_to_include(ticket)
        # Refusing the first ticket would leave an empty batch, refused forever.
        return answer or not (self.base or self.picked)

    def _asks_to_include(self, ticket: Ticket) -> bool:
        if self.strategy is None or self.strategy_state is None:
            return False
        try:
            return bool(self.strategy.include(self.strategy_state, ticket))
        except Exception as error:  # noqa: BLE001  # foreign code
            self.problems.append(f"batch strategy failed in include: {error}")
            return False
