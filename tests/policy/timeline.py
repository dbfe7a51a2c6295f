"""Plays a schedule of arrivals against a policy, in milliseconds and in virtual time.

Time moves from one event to the next: an arrival, an instance that finishes, or the policy's own
`next_wake`. What happens at one instant happens in this order: instances finish and grant,
cancellations, arrivals in the order given, one `step`. Floats are exact here: all times are whole
milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from actors.policy.batching import (
    BatchStrategy,
    ClosedBy,
    Dispatch,
    DynamicBatcher,
    RefusalCause,
    Refuse,
    Report,
    SchedulingPolicy,
)
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings, QueuePolicySettings


@dataclass(frozen=True)
class Ran:
    """One execution: when, which requests, how many elements, why it left then, and where."""

    at: float
    names: str
    size: int
    closed_by: ClosedBy
    instance: int


@dataclass
class Timeline:
    """`durations` holds how long an execution takes, per instance."""

    policy: SchedulingPolicy
    durations: list[float] = field(default_factory=lambda: [0.0])
    ran: list[Ran] = field(default_factory=list)
    refused: list[tuple[float, str, RefusalCause]] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arrivals: list[tuple[float, Ticket]] = []
        self._cancels: list[tuple[float, int]] = []
        self._busy: list[tuple[float, int]] = []
        for instance in range(len(self.durations)):
            self.policy.grant(instance)

    def send(
        self,
        at: float,
        name: str,
        size: int = 1,
        *,
        shape: Hashable = None,
        level: int = 0,
        timeout: float = 0.0,
        deadline: float = math.inf,
    ) -> Timeline:
        """Schedule the arrival of request `name`; all times in milliseconds."""
        number = len(self._names)
        self._names[number] = name
        ticket = Ticket(
            number, level, size, shape, name, timeout_seconds=timeout, deadline_at=deadline
        )
        self._arrivals.append((at, ticket))
        return self

    def cancel(self, at: float, name: str) -> Timeline:
        number = next(number for number, known in self._names.items() if known == name)
        self._cancels.append((at, number))
        return self

    def play(self, until: float = 1_000_000.0) -> Timeline:
        """Run until nothing is left to happen, or up to and including `until`."""
        now = 0.0
        while True:
            self._turn(now)
            now = self._next_event()
            if now > until or now == math.inf:
                return self

    def _next_event(self) -> float:
        instants = [at for at, _ in self._arrivals + self._cancels + self._busy]
        return min([*instants, self.policy.next_wake])

    def _turn(self, now: float) -> None:
        for at, instance in sorted(self._busy):
            if at <= now:
                self._busy.remove((at, instance))
                self.policy.grant(instance)
        for at, number in list(self._cancels):
            if at <= now:
                self._cancels.remove((at, number))
                self._note(now, self.policy.cancel(number, now))
        for at, ticket in list(self._arrivals):
            if at <= now:
                self._arrivals.remove((at, ticket))
                self._note(now, self.policy.submit(ticket, now))
        for action in self.policy.step(now):
            self._note(now, action)
        # An execution that takes no time has ended within the same instant.
        if any(at <= now for at, _ in self._busy):
            self._turn(now)

    def _note(self, now: float, action: Dispatch | Refuse | Report | None) -> None:
        match action:
            case Dispatch(instance, tickets, size, closed_by):
                names = " ".join(self._names[ticket.id] for ticket in tickets)
                assert size == sum(ticket.batch_size for ticket in tickets)
                self.ran.append(Ran(now, names, size, closed_by, instance))
                self._busy.append((now + self.durations[instance], instance))
            case Refuse(ticket, cause):
                self.refused.append((now, self._names[ticket.id], cause))
            case Report(message):
                self.reports.append(message)
            case None:
                pass

    @property
    def batches(self) -> list[tuple[float, str]]:
        """When each execution began and which requests were in it."""
        return [(ran.at, ran.names) for ran in self.ran]

    @property
    def sizes(self) -> list[tuple[float, int]]:
        """When each execution began and how many elements it had."""
        return [(ran.at, ran.size) for ran in self.ran]


def batcher(
    preferred: tuple[int, ...],
    max_batch: int,
    delay: float = 0.0,
    *,
    policy: QueuePolicySettings | None = None,
    levels: int = 0,
    level_policies: Mapping[int, QueuePolicySettings] | None = None,
    strategy: BatchStrategy | None = None,
    on_demand: bool = False,
    hold_until: int = 0,
) -> DynamicBatcher:
    """A dynamic batcher whose default level is the last; times in the unit of the timeline."""
    settings = BatchingSettings(
        max_batch_size=max_batch,
        preferred_batch_sizes=preferred,
        max_queue_delay_seconds=delay,
        priority_levels=levels,
        default_priority_level=levels,
        default_policy=policy or QueuePolicySettings(),
        level_policies=level_policies or {},
    )
    return DynamicBatcher(settings, strategy=strategy, on_demand=on_demand, hold_until=hold_until)
