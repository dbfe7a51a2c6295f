"""Which waiting tickets run together, and when: the dynamic batcher.

Owns the tickets of one model version from `submit` until they leave. It follows Triton's rules;
where Triton is late or blind, it is exact: a timeout strikes at its instant, and a ticket that is
cancelled, expired or past its caller's deadline frees its place at once, wherever it waits.

A ticket has expired when `now >= expires_at`, so the wake-up at that very instant removes it, also
when a batch could have taken it along at the same instant.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from actors.policy.actions import (
    Action,
    ClosedBy,
    Dispatch,
    RefusalCause,
    Refuse,
    Report,
    SchedulingPolicy,
)
from actors.policy.default import DefaultScheduler
from actors.policy.grants import Grants
from actors.policy.queueing import Deadlines, PriorityQueue, Ticket, Waiting
from actors.policy.scanning import BatchStrategy, FormedBatch, Limits, Scan
from repo.model_config import BatchingSettings, QueuePolicySettings

__all__ = [
    "Action",
    "BatchStrategy",
    "BatchingSettings",
    "ClosedBy",
    "DefaultScheduler",
    "Dispatch",
    "DynamicBatcher",
    "QueuePolicySettings",
    "RefusalCause",
    "Refuse",
    "Report",
    "SchedulingPolicy",
    "may_prefetch",
]

# Triton's bound on formed batches that wait for an instance. More would fix the make-up of batches
# earlier than needed; fewer would leave an instance idle while the next batch forms.
FORMED_BATCHES_PER_INSTANCE: Final = 2


class DynamicBatcher:
    """Triton's dynamic batcher.

    Requests wait in one queue per priority level. A pass over them in scan order decides whether
    the ones at the front leave now; they then form a batch, which waits for a grant. A model
    without levels, timeouts and size limits may form batches before a grant is there ("prefetch"),
    at most FORMED_BATCHES_PER_INSTANCE for each known instance, and the newest of these keeps
    growing until it is saturated or leaves. Any other model forms a batch only against a grant.

    `ahead` says that an instance may grant more than it runs, for batches to be run next. Only
    complete ones leave against such a grant; others fill until the instance is idle.

    `on_demand` says that grants come only for `grants_wanted`, as under the rate limiter.
    `hold_until` makes the batcher idle until that many tickets wait, once: a hook for tests that
    mirrors Triton's TRITONSERVER_DELAY_SCHEDULER.
    """

    def __init__(
        self,
        settings: BatchingSettings,
        *,
        strategy: BatchStrategy | None = None,
        on_demand: bool = False,
        ahead: bool = False,
        hold_until: int = 0,
    ) -> None:
        self._levels = settings.priority_levels
        self._default_level = settings.default_priority_level
        self._delay = settings.max_queue_delay_seconds
        self._strategy = strategy
        self._on_demand = on_demand
        self._ahead = ahead
        self._hold_until = hold_until
        self._prefetches = may_prefetch(settings)
        self._queue = PriorityQueue(settings)
        self._tickets: dict[int, Ticket] = {}  # every one not answered yet
        self._deadlines = Deadlines()
        self._grants = Grants()
        self._formed: deque[FormedBatch] = deque()
        self._growing: FormedBatch | None = None  # the last of `_formed`, unless saturated
        self._scan = Scan(Limits.of(settings), strategy)
        self._scan_is_valid = False
        self._arrived: list[Ticket] = []  # behind everything that a valid scan has seen
        self._outbox: list[Action] = []  # decided outside `step`
        self._delay_ends_at = math.inf
        self._could_form = False
        self._draining = False

    def submit(self, ticket: Ticket, now: float) -> Refuse | None:
        """Queue a ticket at its level; refuses it when stopping, too late, or the level is full.

        A level outside the configured ones is the default level. Before a full level refuses, what
        is due to leave it at `now` leaves, so that the limit counts only tickets that must wait.
        """
        if self._draining:
            return Refuse(ticket, RefusalCause.STOPPING)
        if ticket.deadline_at <= now:
            return Refuse(ticket, RefusalCause.DEADLINE)
        if not 0 < ticket.level <= self._levels:
            ticket.level = self._default_level
        queue = self._queue.level(ticket.level)
        if not queue.has_room:
            self._outbox = self.step(now)
            if not queue.has_room:
                return Refuse(ticket, RefusalCause.QUEUE_FULL)
        assert ticket.id not in self._tickets, "a ticket is submitted once"
        ticket.enqueued_at = now
        self._tickets[ticket.id] = ticket
        if queue.timeout_seconds:
            ticket.expires_at = queue.expiry(ticket, now)
            self._deadlines.watch(ticket)
        elif ticket.deadline_at < math.inf:
            self._deadlines.watch(ticket)
        is_last = self._queue.push(queue, ticket)
        if self._scan_is_valid:
            if not is_last:
                self._scan_is_valid = False
            elif not self._scan.stop:
                self._arrived.append(ticket)
        return None

    def cancel(self, ticket_id: int, now: float) -> Refuse | None:
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            return None
        self._deadlines.forget(ticket)
        self._withdraw(ticket)
        return Refuse(ticket, RefusalCause.CANCELLED)

    def grant(self, instance: int) -> None:
        self._grants.add(instance)

    def revoke(self, instance: int) -> None:
        self._grants.forget(instance)
        self._scan_is_valid = False

    def surrender(self) -> list[int]:
        self._scan_is_valid = False
        return self._grants.take_all()

    def has_room(self, level: int) -> bool:
        return self._queue.level(level).has_room

    def drain(self) -> None:
        """Refuse further tickets; those queued no longer wait for companions that cannot come."""
        self._draining = True
        self._hold_until = 0

    def abandon(self) -> list[Ticket]:
        """Drop every ticket and hand them back, in order of arrival."""
        tickets = list(self._tickets.values())
        for ticket in tickets:
            self._deadlines.forget(ticket)
            self._withdraw(ticket)
        return tickets

    def step(self, now: float) -> list[Action]:
        actions, self._outbox = self._outbox, []
        self._could_form = False
        self._delay_ends_at = math.inf
        if self._deadlines.next_at <= now:
            self._expire(now, actions)
        if len(self._tickets) >= self._hold_until:
            self._hold_until = 0
            if self._formed:
                self._dispatch(now, actions)
            queue = self._queue
            while queue.active and (self._has_taker() or self._has_room()):
                if not self._form(now, actions):
                    break
            if self._ahead and self._formed:
                self._dispatch(now, actions)
        if self._scan.problems:
            actions += [Report(problem) for problem in self._scan.problems]
            self._scan.problems.clear()
        return actions

    @property
    def next_wake(self) -> float:
        return min(self._deadlines.next_at, self._delay_ends_at)

    @property
    def pending(self) -> int:
        return len(self._tickets)

    @property
    def pending_by_level(self) -> dict[int, int]:
        return self._queue.counts()

    def waiting(self) -> dict[int, Waiting]:
        found = {queue.level: queue.waiting() for queue in self._queue.active}
        for batch in self._formed:
            for ticket in batch.tickets:
                one = Waiting(1, ticket.enqueued_at)
                found[ticket.level] = one.and_also(found.get(ticket.level))
        return found

    @property
    def grants_wanted(self) -> int:
        return len(self._formed) + self._could_form

    def _has_taker(self) -> bool:
        """Whether somebody takes any batch, however small."""
        return self._grants.has_idle if self._ahead else self._grants.total > 0

    def _has_room(self) -> bool:
        """Without a grant: whether one more batch may form, or the growing one may grow."""
        if self._prefetches:
            instances = max(self._grants.instance_count, 1)
            return len(self._formed) < FORMED_BATCHES_PER_INSTANCE * instances
        return self._on_demand

    def _form(self, now: float, actions: list[Action]) -> bool:
        """One pass: move what leaves the queue now into a batch; False when all has to wait."""
        scan = self._look()
        delay = self._delay
        late = delay > 0 and (self._draining or now >= scan.oldest_at + delay)
        limits = scan.limits
        count = len(scan.picked)
        if scan.best and not late:
            count = scan.mark
            closed_by: ClosedBy = (
                "preferred" if scan.base + scan.best in limits.preferred else "full"
            )
            scan.saturates = scan.saturates or delay == 0
        elif not count:
            if not scan.saturates:
                return False
            closed_by = "full"
        elif scan.stop or scan.base + scan.size >= limits.max_preferred:
            scan.saturates = True
            closed_by = scan.stop or "full"
        elif late:
            closed_by = "delay"
        elif delay == 0:
            closed_by = "immediate"
        elif scan.base and scan.base not in limits.preferred:
            # An instance should find the largest batch possible, even an unpreferred one.
            closed_by = "delay"
        else:
            self._delay_ends_at = scan.oldest_at + delay
            return False
        if self._has_taker():
            # With a grant at hand nothing formed is left waiting, so this batch leaves at once.
            self._send(self._take(scan, count), closed_by, actions)
            return True
        if not self._prefetches:
            self._could_form = True
            return False
        self._grow(scan, self._take(scan, count), closed_by)
        return True

    def _look(self) -> Scan:
        """The scan of the queue as it is now, made from the front only if it has to be."""
        scan = self._scan
        if not self._scan_is_valid:
            scan.restart(self._growing)
            self._arrived.clear()
            for ticket in self._queue:
                if not scan.offer(ticket):
                    break
        elif self._arrived:
            for ticket in self._arrived:
                if not scan.offer(ticket):
                    break
            self._arrived.clear()
        self._scan_is_valid = True
        if scan.stop and scan.stop != "full" and self._growing is not None:
            self._growing.is_sealed = True
        return scan

    def _take(self, scan: Scan, count: int) -> list[Ticket]:
        """Remove the first `count` scanned tickets from the queue."""
        tickets = scan.picked if count == len(scan.picked) else scan.picked[:count]
        for ticket in tickets:
            self._queue.remove(ticket)
        if self._strategy is not None:
            scan.end_strategy()
        self._scan_is_valid = False
        return tickets

    def _grow(self, scan: Scan, tickets: list[Ticket], closed_by: ClosedBy) -> None:
        """Append to the growing batch, or start one; a saturated batch grows no more."""
        batch = self._growing
        if batch is None:
            batch = self._growing = FormedBatch(closed_by, scan.shape_key)
            self._formed.append(batch)
        elif closed_by not in {"delay", "immediate"}:
            batch.closed_by = closed_by
        batch.tickets += tickets
        batch.batch_size += sum([ticket.batch_size for ticket in tickets])
        if scan.stop in {"shape", "custom"} and len(tickets) == len(scan.picked):
            batch.is_sealed = True
        if scan.saturates:
            self._growing = None

    def _dispatch(self, now: float, actions: list[Action]) -> None:
        """Send formed batches off for as long as there are grants."""
        formed = self._formed
        while formed and self._grants.total:
            if not self._has_taker() and not self._is_complete(formed[0]):
                return
            batch = formed.popleft()
            if formed and self._delay > 0 and self._strategy is None:
                self._merge_followers(batch, now)
            if not formed and self._growing is not None:
                self._growing = None
                self._scan_is_valid = False
            self._send(batch.tickets, batch.closed_by, actions)

    def _send(self, tickets: list[Ticket], closed_by: ClosedBy, actions: list[Action]) -> None:
        """Spend a grant on these tickets."""
        size = 0
        oldest_at = math.inf
        for ticket in tickets:
            del self._tickets[ticket.id]
            size += ticket.batch_size
            oldest_at = min(oldest_at, ticket.enqueued_at)
            if ticket.alarm_at < math.inf:
                self._deadlines.forget(ticket)
        actions.append(Dispatch(self._grants.take(), tickets, size, closed_by, oldest_at))

    def _is_complete(self, batch: FormedBatch) -> bool:
        """Whether nothing would join a formed batch, however long it waited for its grant."""
        may_merge = self._delay > 0 and batch.batch_size < self._scan.limits.max_batch
        return batch is not self._growing and not may_merge

    def _merge_followers(self, batch: FormedBatch, now: float) -> None:
        """Append the formed batches behind `batch` that fit and have waited too long themselves."""
        formed = self._formed
        while formed:
            follower = formed[0]
            if (
                batch.is_sealed
                or follower.is_sealed
                or follower.oldest_at + self._delay >= now
                or batch.batch_size + follower.batch_size > self._scan.limits.max_batch
                or follower.shape_key != batch.shape_key
            ):
                return
            formed.popleft()
            batch.tickets += follower.tickets
            batch.batch_size += follower.batch_size

    def _expire(self, now: float, actions: list[Action]) -> None:
        """Answer or delay every ticket whose instant has come, in the order of their instants."""
        while (ticket := self._deadlines.pop_due(now)) is not None:
            if ticket.deadline_at < ticket.expires_at:
                self._withdraw(ticket)
                actions.append(Refuse(ticket, RefusalCause.DEADLINE))
            elif self._queue.level(ticket.level).rejects:
                self._withdraw(ticket)
                actions.append(Refuse(ticket, RefusalCause.TIMEOUT))
            else:
                self._queue.delay(ticket)
                self._deadlines.watch(ticket)
                self._scan_is_valid = False

    def _withdraw(self, ticket: Ticket) -> None:
        """Take a ticket out of the queue, or out of a formed batch, before it left."""
        del self._tickets[ticket.id]
        self._scan_is_valid = False
        if ticket.holder is not None:
            self._queue.remove(ticket)
            return
        batch = next(batch for batch in self._formed if ticket in batch.tickets)
        batch.tickets.remove(ticket)
        batch.batch_size -= ticket.batch_size
        if batch.tickets:
            return
        self._formed.remove(batch)
        if batch is self._growing:
            self._growing = None


def may_prefetch(settings: BatchingSettings) -> bool:
    """Only a queue that never refuses or reorders may be emptied ahead of time."""
    policy = settings.default_policy
    return (
        settings.priority_levels == 0
        and policy.default_timeout_seconds == 0
        and not policy.allow_timeout_override
        and policy.max_queue_size == 0
    )
