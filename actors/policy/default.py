"""The scheduler of a model that asks for no batching: one request is one execution.

Owns the tickets of one model version from `submit` until they leave, first come, first served, over
all instances. No queue policy, priority, size limit or delay applies. Unlike Triton's, it honours a
cancellation and a caller's deadline while the ticket waits. Never splits or merges requests.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from actors.policy.actions import Action, Dispatch, RefusalCause, Refuse
from actors.policy.grants import Grants
from actors.policy.queueing import Deadlines, Ticket, Waiting


class DefaultScheduler:
    """One request is one execution, first come, first served, over all instances of the model."""

    def __init__(self) -> None:
        self._queue: OrderedDict[int, Ticket] = OrderedDict()
        self._deadlines = Deadlines()
        self._grants = Grants()
        self._draining = False

    def submit(self, ticket: Ticket, now: float) -> Refuse | None:
        """Queue a ticket; refuses it only when stopping or already past its deadline."""
        if self._draining:
            return Refuse(ticket, RefusalCause.STOPPING)
        if ticket.deadline_at <= now:
            return Refuse(ticket, RefusalCause.DEADLINE)
        assert ticket.id not in self._queue, "a ticket is submitted once"
        ticket.enqueued_at = now
        self._queue[ticket.id] = ticket
        if ticket.deadline_at < math.inf:
            self._deadlines.watch(ticket)
        return None

    def cancel(self, ticket_id: int, now: float) -> Refuse | None:
        ticket = self._queue.pop(ticket_id, None)
        if ticket is None:
            return None
        self._deadlines.forget(ticket)
        return Refuse(ticket, RefusalCause.CANCELLED)

    def grant(self, instance: int) -> None:
        self._grants.add(instance)

    def revoke(self, instance: int) -> None:
        self._grants.forget(instance)

    def surrender(self) -> list[int]:
        return self._grants.take_all()

    def has_room(self, level: int) -> bool:
        return True

    def drain(self) -> None:
        self._draining = True

    def abandon(self) -> list[Ticket]:
        """Drop every ticket and hand them back, in order of arrival."""
        tickets = list(self._queue.values())
        for ticket in tickets:
            self._deadlines.forget(ticket)
        self._queue.clear()
        return tickets

    def step(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while (expired := self._deadlines.pop_due(now)) is not None:
            del self._queue[expired.id]
            actions.append(Refuse(expired, RefusalCause.DEADLINE))
        queue = self._queue
        while queue and self._grants.total:
            _, ticket = queue.popitem(last=False)
            self._deadlines.forget(ticket)
            actions.append(
                Dispatch(
                    self._grants.take(), [ticket], ticket.batch_size, "single", ticket.enqueued_at
                )
            )
        return actions

    @property
    def next_wake(self) -> float:
        return self._deadlines.next_at

    @property
    def pending(self) -> int:
        return len(self._queue)

    @property
    def pending_by_level(self) -> dict[int, int]:
        return {0: len(self._queue)} if self._queue else {}

    def waiting(self) -> dict[int, Waiting]:
        if not self._queue:
            return {}
        return {0: Waiting(len(self._queue), next(iter(self._queue.values())).enqueued_at)}

    @property
    def grants_wanted(self) -> int:
        return len(self._queue)
