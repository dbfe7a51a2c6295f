"""The direct strategy: a sequence's slot is its place in every batch of its instance.

Owns the decision when the heads of an instance's slots leave together. An instance executes one
batch at a time. Never moves a request to another place: a place without a request is padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from actors.policy.queueing import Waiting
from actors.policy.sequencing_table import (
    DispatchSlots,
    Place,
    RefuseRequest,
    SequenceAction,
    SequenceTicket,
    Slot,
    SlotTable,
)
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings


class DirectBatcher:
    """A SequencePolicy (`sequencing`); see the module's docstring."""

    def __init__(self, settings: SequenceSettings, instances: Sequence[int]) -> None:
        self._table = SlotTable(settings, instances)
        self._max_batch = settings.max_batch_size
        # Triton ignores the delay of a model that is content with any number of ready slots.
        utilization = settings.minimum_slot_utilization
        self._delay = settings.max_queue_delay_seconds if utilization > 0 else 0.0
        self._utilization = utilization
        self._iterative = settings.iterative
        self._grants = dict.fromkeys(instances, 0)
        # Instances, and their slots by number, that have a head to execute: most have none.
        self._ready: dict[int, dict[int, Slot]] = {}
        self._running: dict[int, SequenceTicket] = {}  # iterative: they may come back
        self._delay_ends_at = math.inf
        self._wanted: list[int] = []

    def submit(self, ticket: SequenceTicket, now: float) -> RefuseRequest | None:
        return self._table.enter(ticket, now)

    def cancel(self, number: int, now: float) -> bool:
        if self._table.cancel(number):
            return True
        running = self._running.get(number)
        if running is not None:
            running.is_cancelled = True
        return False

    def released(self, number: int, now: float, *, rescheduled: bool) -> None:
        if not self._iterative:
            return
        ticket = self._running.pop(number)
        if rescheduled:
            self._table.come_back(ticket, now)
        elif ticket.sequence is not None:
            self._table.finish(ticket.sequence)

    def add(self, instance: int, now: float) -> None:
        self._grants[instance] = 0
        self._table.add(instance, now)

    def retire(self, instance: int) -> None:
        self._table.retire(instance)

    def vacated(self) -> list[int]:
        found = self._table.vacated()
        for instance in found:
            self._grants.pop(instance, None)
        return found

    def grant(self, instance: int) -> None:
        self._grants[instance] += 1

    def surrender(self) -> list[int]:
        unused = [instance for instance, count in self._grants.items() for _ in range(count)]
        self._grants = dict.fromkeys(self._grants, 0)
        return unused

    def drain(self) -> None:
        self._table.draining = True

    def abandon(self) -> list[SequenceTicket]:
        return self._table.abandon()

    def step(self, now: float) -> list[SequenceAction]:
        actions: list[SequenceAction] = []
        table = self._table
        table.advance(now, actions)
        self._clear(now, actions)
        self._delay_ends_at = math.inf
        self._wanted = []
        for instance in sorted(self._ready):
            while self._collect(instance, now, actions):
                # What was freed may be filled again, for the next batch.
                self._clear(now, actions)
        return actions

    @property
    def next_wake(self) -> float:
        return min(self._table.next_wake, self._delay_ends_at)

    @property
    def pending(self) -> int:
        return self._table.waiting_count

    def waiting(self) -> dict[int, Waiting]:
        return self._table.waiting()

    @property
    def is_idle(self) -> bool:
        return not self._table.waiting_count and not self._running

    @property
    def instances_wanted(self) -> Sequence[int]:
        return self._wanted

    def _clear(self, now: float, actions: list[SequenceAction]) -> None:
        """See to the slots that have changed, and note which have a head now."""
        dirty = self._table.dirty
        while dirty:
            slot, _ = dirty.popitem()
            self._table.clear_head(slot, now, actions)
            if slot.queue:
                self._ready.setdefault(slot.instance, {})[slot.number] = slot
            elif slot.instance in self._ready:
                slots = self._ready[slot.instance]
                slots.pop(slot.number, None)
                if not slots:
                    del self._ready[slot.instance]

    def _collect(self, instance: int, now: float, actions: list[SequenceAction]) -> bool:
        """Form a batch from the heads of an instance's slots; False when there is none to form."""
        slots = self._ready.get(instance)
        if slots is None:
            return False
        ready = [slots[number] for number in sorted(slots)]
        heads = [slot.queue[0] for slot in ready]
        closed_by = "immediate"
        if self._delay:
            oldest_at = min(head.enqueued_at for head in heads if head is not None)
            if len(ready) / self._max_batch >= self._utilization:
                closed_by = "full"
            elif now >= oldest_at + self._delay:
                closed_by = "delay"
            else:
                self._delay_ends_at = min(self._delay_ends_at, oldest_at + self._delay)
                return False
        if not self._grants[instance]:
            self._wanted.append(instance)
            return False
        self._grants[instance] -= 1
        reference = heads[0]
        assert reference is not None, "heads can be executed"
        places: list[Place] = []
        for slot, head in zip(ready, heads, strict=True):
            assert head is not None, "heads can be executed"
            if head.shape_key != reference.shape_key:
                continue  # its place is padded; it stays at the head for a later batch
            places.append(Place.of(slot.number, self._table.take_head(slot)))
            if self._iterative:
                self._running[head.id] = head
            if SequenceFlag.END in head.flags:
                self._table.release(slot, now, actions)
        actions.append(DispatchSlots(instance, places, ready[-1].number + 1, closed_by))
        return True
