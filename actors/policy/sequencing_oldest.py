"""The oldest strategy: candidates have slots, and their requests are batched as they come.

Owns the rule that one request of a sequence at a time is inside; the batches themselves are a
dynamic batcher's, one for each instance. A request's place in a batch means nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

from actors.policy.batching import Dispatch, DynamicBatcher, RefusalCause, Refuse
from actors.policy.queueing import Ticket, Waiting
from actors.policy.sequencing_table import (
    DispatchSlots,
    Place,
    RefuseRequest,
    SequenceAction,
    SequenceRefusal,
    SequenceTicket,
    Slot,
    SlotTable,
)
from protocol.inference import SequenceFlag
from repo.model_config import BatchingSettings, SequenceSettings

_CAUSES: Final = {
    RefusalCause.CANCELLED: SequenceRefusal.CANCELLED,
    RefusalCause.DEADLINE: SequenceRefusal.DEADLINE,
}


class OldestBatcher:
    """A SequencePolicy (`sequencing`); see the module's docstring."""

    def __init__(self, settings: SequenceSettings, instances: Sequence[int]) -> None:
        self._table = SlotTable(settings, instances)
        self._iterative = settings.iterative
        self._settings = BatchingSettings(
            max_batch_size=settings.max_batch_size,
            preferred_batch_sizes=settings.preferred_batch_sizes,
            max_queue_delay_seconds=settings.max_queue_delay_seconds,
        )
        self._batchers = {
            instance: DynamicBatcher(self._settings, on_demand=True) for instance in instances
        }
        self._inside: dict[int, Slot] = {}  # the slots of requests that a batcher or instance has
        self._batching = 0  # how many of these a batcher still has
        # Instances whose batcher has heard something, and when the others want to be asked.
        self._touched: dict[int, None] = {}
        self._wakes: dict[int, float] = {}

    def submit(self, ticket: SequenceTicket, now: float) -> RefuseRequest | None:
        return self._table.enter(ticket, now)

    def cancel(self, number: int, now: float) -> bool:
        """A request inside a batcher fails alone; its sequence goes on."""
        if self._table.cancel(number):
            return True
        slot = self._inside.get(number)
        if slot is None:
            return False
        refused = self._batchers[slot.instance].cancel(number, now)
        if refused is not None:
            self._batching -= 1
            self._touched[slot.instance] = None
            self._refused(refused, self._table.outbox)
            return True
        assert slot.running is not None, "a slot knows what it has inside"
        slot.running.is_cancelled = True
        return False

    def released(self, number: int, now: float, *, rescheduled: bool) -> None:
        ticket = self._leave(number)
        if rescheduled:
            self._table.come_back(ticket, now)
        elif self._iterative and ticket.sequence is not None:
            self._table.finish(ticket.sequence)

    def add(self, instance: int, now: float) -> None:
        self._batchers[instance] = DynamicBatcher(self._settings, on_demand=True)
        self._table.add(instance, now)

    def retire(self, instance: int) -> None:
        self._table.retire(instance)

    def vacated(self) -> list[int]:
        found = self._table.vacated()
        for instance in found:
            self._batchers.pop(instance, None)
            self._touched.pop(instance, None)
            self._wakes.pop(instance, None)
        return found

    def grant(self, instance: int) -> None:
        self._batchers[instance].grant(instance)
        self._touched[instance] = None

    def surrender(self) -> list[int]:
        return [one for batcher in self._batchers.values() for one in batcher.surrender()]

    def drain(self) -> None:
        self._table.draining = True

    def abandon(self) -> list[SequenceTicket]:
        inside = [
            self._leave(inner.id)
            for batcher in self._batchers.values()
            for inner in batcher.abandon()
        ]
        self._batching = 0
        return inside + self._table.abandon()

    def step(self, now: float) -> list[SequenceAction]:
        actions: list[SequenceAction] = []
        table = self._table
        table.advance(now, actions)
        for instance, at in self._wakes.items():
            if at <= now:
                self._touched[instance] = None
        while True:
            self._issue(now, actions)
            touched, self._touched = self._touched, {}
            for instance in touched:
                self._batch(instance, self._batchers[instance], now, actions)
            if not table.dirty:
                return actions

    @property
    def next_wake(self) -> float:
        return min(self._table.next_wake, min(self._wakes.values(), default=math.inf))

    @property
    def pending(self) -> int:
        return self._table.waiting_count + self._batching

    def waiting(self) -> dict[int, Waiting]:
        found = self._table.waiting()
        for batcher in self._batchers.values():
            for level, inside in batcher.waiting().items():
                found[level] = inside.and_also(found.get(level))
        return found

    @property
    def is_idle(self) -> bool:
        return not self._table.waiting_count and not self._inside

    @property
    def instances_wanted(self) -> Sequence[int]:
        return [instance for instance, one in self._batchers.items() if one.grants_wanted]

    def _issue(self, now: float, actions: list[SequenceAction]) -> None:
        """Give each batcher the next request of every sequence that has none inside."""
        dirty = self._table.dirty
        while dirty:
            slot = next(iter(dirty))
            del dirty[slot]
            if not slot.queue:
                continue  # most often: a lone request was taken from it, or has been done
            self._table.clear_head(slot, now, actions)
            if slot.running is not None or not slot.queue:
                continue
            ticket = self._table.take_head(slot)
            slot.running = ticket
            self._inside[ticket.id] = slot
            # A ticket of its own, because each queue sets an alarm of its own.
            inner = Ticket(
                ticket.id, 0, 1, ticket.shape_key, ticket, deadline_at=ticket.deadline_at
            )
            refused = self._batchers[slot.instance].submit(inner, now)
            if refused is None:
                self._batching += 1
                self._touched[slot.instance] = None
            else:
                self._refused(refused, actions)
            if SequenceFlag.END in ticket.flags:
                # The next sequence may have the slot; what it wants waits for this one's end.
                self._table.release(slot, now, actions)

    def _batch(
        self,
        instance: int,
        batcher: DynamicBatcher,
        now: float,
        actions: list[SequenceAction],
    ) -> None:
        inside = self._inside
        for action in batcher.step(now):
            if isinstance(action, Dispatch):
                places = [
                    Place.of(inside[inner.id].number, cast("SequenceTicket", inner.work))
                    for inner in action.tickets
                ]
                self._batching -= len(places)
                actions.append(DispatchSlots(instance, places, len(places), action.closed_by))
            else:
                assert isinstance(action, Refuse), "without a strategy there is nothing to report"
                self._batching -= 1
                self._refused(action, actions)
        wake_at = batcher.next_wake
        if wake_at < math.inf:
            self._wakes[instance] = wake_at
        else:
            self._wakes.pop(instance, None)

    def _refused(self, refused: Refuse, actions: list[SequenceAction]) -> None:
        ticket = self._leave(refused.ticket.id)
        actions.append(RefuseRequest(ticket, _CAUSES[refused.cause]))
        if self._iterative and ticket.sequence is not None:
            self._table.finish(ticket.sequence)

    def _leave(self, number: int) -> SequenceTicket:
        slot = self._inside.pop(number)
        ticket = slot.running
        assert ticket is not None, "a slot knows what it has inside"
        slot.running = None
        self._table.dirty[slot] = None
        return ticket
