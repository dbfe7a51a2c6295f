"""Plays a schedule of arrivals against a sequence policy, in milliseconds and in virtual time.

At one instant things happen in this order: executions end (their requests are released, their
instance grants), cancellations, arrivals in the order given, one `step`. All times are whole
milliseconds, which floats add exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from actors.policy.sequencing import (
    CorrelationId,
    DispatchSlots,
    RefuseRequest,
    SequenceAction,
    SequencePolicy,
    SequenceRefusal,
    SequenceTicket,
    WarnOfConflict,
)
from protocol.inference import SequenceFlag

FLAGS: Final = {
    "": SequenceFlag.NONE,
    "S": SequenceFlag.START,
    "E": SequenceFlag.END,
    "SE": SequenceFlag.START | SequenceFlag.END,
}


@dataclass(frozen=True)
class Ran:
    """One execution. `names` has a "-" for every padded place."""

    at: float
    names: str
    slots: tuple[int, ...]
    closed_by: str
    instance: int

    @property
    def size(self) -> int:
        return len(self.names.split())


@dataclass
class SequenceTimeline:
    """`durations` holds how long an execution takes, per instance.

    `comes_back` says of a request that was executed for the nth time whether the model wants it
    again.
    """

    policy: SequencePolicy
    durations: list[float] = field(default_factory=lambda: [1.0])
    comes_back: Callable[[str, int], bool] = lambda _name, _count: False
    pads: bool = True
    ran: list[Ran] = field(default_factory=list)
    refused: list[tuple[float, str, SequenceRefusal]] = field(default_factory=list)
    conflicts: list[CorrelationId] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self._names: list[str] = []
        self._arrivals: list[tuple[float, SequenceTicket]] = []
        self._cancels: list[tuple[float, int]] = []
        self._busy: list[tuple[float, DispatchSlots]] = []
        self._counts: dict[int, int] = {}
        self.seen: list[tuple[str, CorrelationId, SequenceFlag]] = []  # as the model sees them
        for instance in range(len(self.durations)):
            self.policy.grant(instance)

    def send(
        self,
        at: float,
        name: str,
        sequence: CorrelationId,
        flags: str = "",
        *,
        size: int = 1,
        shape: Hashable = None,
        timeout: float = 0.0,
        deadline: float = math.inf,
    ) -> SequenceTimeline:
        """Schedule the arrival of request `name`; all times in milliseconds."""
        ticket = SequenceTicket(
            len(self._names),
            0,
            size,
            shape,
            name,
            timeout_seconds=timeout,
            deadline_at=deadline,
            correlation_id=sequence,
            flags=FLAGS[flags],
        )
        self._names.append(name)
        self._arrivals.append((at, ticket))
        return self

    def send_all(self, at: float, names: str, sequence: CorrelationId) -> SequenceTimeline:
        """A whole sequence at once: the first of `names` starts it, the last one ends it."""
        parts = names.split()
        for place, name in enumerate(parts):
            flags = ("S" if place == 0 else "") + ("E" if place == len(parts) - 1 else "")
            self.send(at, name, sequence, flags)
        return self

    def cancel(self, at: float, name: str) -> SequenceTimeline:
        self._cancels.append((at, self._names.index(name)))
        return self

    def play(self, until: float = 1_000_000.0) -> SequenceTimeline:
        """Run on until nothing is left to happen, or up to and including `until`."""
        while True:
            self._turn(self.now)
            instants = [at for at, _ in self._arrivals + self._cancels + self._busy]
            following = min([*instants, self.policy.next_wake])
            assert following > self.now, "what is due has been done"
            if following > until or following == math.inf:
                return self
            self.now = following

    def _turn(self, now: float) -> None:
        for at, batch in list(self._busy):
            if at <= now:
                self._busy.remove((at, batch))
                self._end(batch, now)
        for at, number in list(self._cancels):
            if at <= now:
                self._cancels.remove((at, number))
                self.policy.cancel(number, now)
        for at, ticket in list(self._arrivals):
            if at <= now:
                self._arrivals.remove((at, ticket))
                refused = self.policy.submit(ticket, now)
                if refused is not None:
                    self._note(now, refused)
        for action in self.policy.step(now):
            self._note(now, action)
        assert not self.policy.step(now), "one step does everything"

    def _end(self, batch: DispatchSlots, now: float) -> None:
        for _, ticket, _ in batch.places:
            count = self._counts[ticket.id] = self._counts.get(ticket.id, 0) + 1
            again = self.comes_back(self._names[ticket.id], count)
            self.policy.released(ticket.id, now, rescheduled=again)
        self.policy.grant(batch.instance)

    def _note(self, now: float, action: SequenceAction) -> None:
        match action:
            case DispatchSlots(instance, places, size, closed_by):
                names = [self._names[ticket.id] for _, ticket, _ in places]
                if self.pads:
                    by_slot = {slot: self._names[ticket.id] for slot, ticket, _ in places}
                    names = [by_slot.get(slot, "-") for slot in range(size)]
                assert len(names) == size
                slots = tuple(place.slot for place in places)
                self.ran.append(Ran(now, " ".join(names), slots, closed_by, instance))
                self.seen += [
                    (self._names[one.id], one.correlation_id, one.flags) for _, one, _ in places
                ]
                self._busy.append((now + self.durations[instance], action))
            case RefuseRequest(ticket, cause):
                self.refused.append((now, self._names[ticket.id], cause))
            case WarnOfConflict(correlation_id):
                self.conflicts.append(correlation_id)

    @property
    def batches(self) -> list[tuple[float, str]]:
        """When each execution began, and which requests were in it."""
        return [(ran.at, ran.names) for ran in self.ran]

    @property
    def sizes(self) -> dict[int, int]:
        """How many executions there were of each size."""
        sizes: dict[int, int] = {}
        for ran in self.ran:
            sizes[ran.size] = sizes.get(ran.size, 0) + 1
        return sizes
