"""Tickets and the queues in which they wait.

Owns the order of waiting: one queue per priority level, each with a live and a delayed part, and
the instants at which tickets expire. Every operation costs the same however many tickets wait.
Never decides what forms a batch, and never reads a clock.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Final

from repo.model_config import BatchingSettings, QueuePolicySettings

# Below this many entries a deadline heap is not worth compacting.
_MIN_COMPACTED_HEAP: Final = 64
# Forgotten entries may outnumber waiting ones by this factor before the heap is rebuilt, so that
# a rebuild is paid for by the removals before it and memory stays in proportion to the queue.
_MAX_HEAP_SLACK: Final = 4

_level_of = attrgetter("level")


@dataclass(slots=True, eq=False)
class Ticket:
    """A request as policy sees it; policy owns it from `submit` until it answers.

    Two tickets may share a batch only if their `shape_key`s are equal. Instants and durations are
    seconds. The fields that a caller cannot set say where the ticket waits.
    """

    id: int
    level: int
    batch_size: int  # as counted: max(1, leading dimension)
    shape_key: Hashable
    work: object  # opaque to policy
    timeout_seconds: float = 0.0  # the request's own timeout parameter, 0 = none
    deadline_at: float = math.inf  # the caller's deadline, honoured in every queue
    enqueued_at: float = 0.0  # stamped by submit
    # The instant at which the queue policy's timeout strikes; inf when it never will.
    expires_at: float = field(default=math.inf, init=False, repr=False)
    # The instant under which `Deadlines` knows the ticket; inf when it does not.
    alarm_at: float = field(default=math.inf, init=False, repr=False)
    # The part of a queue that holds the ticket; None once it has left the queue.
    holder: OrderedDict[int, Ticket] | None = field(default=None, init=False, repr=False)


def normalise_level(priority: int, levels: int, default_level: int) -> int:
    """The level of a request that asked for `priority`.

    0 and anything outside 1..levels mean the default level, which is 0 without levels.
    """
    return priority if 0 < priority <= levels else default_level


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many tickets wait at one level, and since when the oldest of them does."""

    count: int
    oldest_at: float

    def and_also(self, other: Waiting | None) -> Waiting:
        """Both together."""
        if other is None:
            return self
        return Waiting(self.count + other.count, min(self.oldest_at, other.oldest_at))


class Deadlines:
    """The instants at which waiting tickets must be looked at, earliest first.

    A ticket has at most one alarm. Forgetting one is lazy: its entry stays in the heap until it
    surfaces or the heap is rebuilt.
    """

    __slots__ = ("_count", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._count = 0
        self._serial = 0  # breaks ties in order of arrival

    def __len__(self) -> int:
        return self._count

    def watch(self, ticket: Ticket) -> None:
        """Set the alarm to the earlier of the ticket's two limits, if it has any."""
        at = min(ticket.expires_at, ticket.deadline_at)
        if at < math.inf:
            self._serial += 1
            self._count += 1
            ticket.alarm_at = at
            heapq.heappush(self._heap, (at, self._serial, ticket))

    def forget(self, ticket: Ticket) -> None:
        """Drop the alarm of a ticket that left; harmless when it has none."""
        if ticket.alarm_at == math.inf:
            return
        ticket.alarm_at = math.inf
        self._count -= 1
        heap = self._heap
        if len(heap) > _MIN_COMPACTED_HEAP and len(heap) > _MAX_HEAP_SLACK * self._count:
            self._heap = [entry for entry in heap if entry[2].alarm_at == entry[0]]
            heapq.heapify(self._heap)

    @property
    def next_at(self) -> float:
        """The earliest alarm, inf without one."""
        heap = self._heap
        while heap:
            at, _, ticket = heap[0]
            if ticket.alarm_at == at:
                return at
            heapq.heappop(heap)
        return math.inf

    def pop_due(self, now: float) -> Ticket | None:
        """The next ticket whose alarm is at or before `now`, its alarm cleared."""
        if self.next_at > now:
            return None
        ticket = heapq.heappop(self._heap)[2]
        ticket.alarm_at = math.inf
        self._count -= 1
        return ticket


class PolicyQueue:
    """The tickets of one level: the live ones in order of arrival, then the delayed ones."""

    __slots__ = ("delayed", "level", "limit", "live", "may_override", "rejects", "timeout_seconds")

    def __init__(self, level: int, settings: QueuePolicySettings) -> None:
        self.level = level
        self.limit = settings.max_queue_size  # 0 = none
        self.rejects = settings.timeout_action == "REJECT"
        self.timeout_seconds = settings.default_timeout_seconds  # 0 = none
        self.may_override = settings.allow_timeout_override
        self.live: OrderedDict[int, Ticket] = OrderedDict()
        self.delayed: OrderedDict[int, Ticket] = OrderedDict()

    def __len__(self) -> int:
        return len(self.live) + len(self.delayed)

    @property
    def has_room(self) -> bool:
        """Whether its limit leaves room for one more."""
        return not self.limit or len(self) < self.limit

    def waiting(self) -> Waiting:
        """Of a queue that is not empty. A delayed ticket may have come before every live one."""
        parts = (self.live, self.delayed)
        heads = [next(iter(part.values())).enqueued_at for part in parts if part]
        return Waiting(len(self), min(heads))

    def expiry(self, ticket: Ticket, now: float) -> float:
        """When a ticket that joins at `now` expires: a request's own timeout can only shorten."""
        timeout = self.timeout_seconds
        if timeout <= 0:
            return math.inf
        if self.may_override and 0 < ticket.timeout_seconds < timeout:
            timeout = ticket.timeout_seconds
        return now + timeout


class PriorityQueue:
    """All levels of one model, most urgent first.

    Iterating yields tickets in scan order: level 1 live, level 1 delayed, level 2 live, and so
    on. Only levels that hold a ticket are visited, however many the configuration allows.
    """

    __slots__ = ("_levels", "_settings", "active")

    def __init__(self, settings: BatchingSettings) -> None:
        self._settings = settings
        self._levels: dict[int, PolicyQueue] = {}
        self.active: list[PolicyQueue] = []  # those that hold a ticket, by level

    def __iter__(self) -> Iterator[Ticket]:
        active = self.active
        if len(active) == 1 and not active[0].delayed:
            return iter(active[0].live.values())
        return chain.from_iterable(
            part.values() for queue in active for part in (queue.live, queue.delayed)
        )

    def level(self, level: int) -> PolicyQueue:
        """The queue of a normalised level, made on first use."""
        queue = self._levels.get(level)
        if queue is None:
            queue = self._levels[level] = PolicyQueue(level, self._settings.policy_of(level))
        return queue

    def push(self, queue: PolicyQueue, ticket: Ticket) -> bool:
        """Append to the level's live part; tells whether the ticket is now last in scan order."""
        active = self.active
        live = queue.live
        if not live and not queue.delayed:
            if active:
                insort(active, queue, key=_level_of)
            else:
                active.append(queue)
        live[ticket.id] = ticket
        ticket.holder = live
        return active[-1] is queue and not queue.delayed

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting ticket out, wherever it stands."""
        holder = ticket.holder
        assert holder is not None, "only a waiting ticket can be removed"
        del holder[ticket.id]
        ticket.holder = None
        if not holder:
            queue = self._levels[ticket.level]
            if not queue.live and not queue.delayed:
                self.active.remove(queue)

    def delay(self, ticket: Ticket) -> None:
        """Move a live ticket to the tail of its level's delayed part; it never expires again."""
        queue = self._levels[ticket.level]
        assert ticket.holder is queue.live, "a ticket is delayed once"
        del queue.live[ticket.id]
        queue.delayed[ticket.id] = ticket
        ticket.holder = queue.delayed
        ticket.expires_at = math.inf

    def counts(self) -> dict[int, int]:
        """How many tickets wait at each level that holds any."""
        return {queue.level: len(queue) for queue in self.active}
