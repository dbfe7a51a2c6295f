"""The dynamic batcher's rules once more, written down as plainly as possible.

Lists that are sorted and scanned anew each time; no state is kept between two decisions but the
tickets and the batches themselves. It shares no code with the policy, only its vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from actors.policy.batching import BatchStrategy, RefusalCause
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings

Refused = tuple[int, RefusalCause]


@dataclass(eq=False)
class Waiting:
    """One request; `place` orders requests of a level, and grows when one is delayed."""

    number: int
    level: int
    size: int
    shape: object
    enqueued_at: float
    expires_at: float
    deadline_at: float
    place: tuple[bool, float, int]
    ticket: Ticket


@dataclass(eq=False)
class Payload:
    """Triton's word for a batch that has formed."""

    members: list[Waiting] = field(default_factory=list)
    is_saturated: bool = False
    is_sealed: bool = False

    @property
    def size(self) -> int:
        return sum(one.size for one in self.members)


@dataclass
class Verdict:
    """What one pass decided: how many requests move now; None means wait."""

    take: int | None
    saturated: bool
    sealed: bool
    wait_until: float = math.inf


class NaiveBatcher:
    def __init__(
        self,
        settings: BatchingSettings,
        strategy: BatchStrategy | None,
        *,
        on_demand: bool,
        hold_until: int,
    ) -> None:
        self.settings = settings
        self.strategy = strategy
        self.on_demand = on_demand
        self.hold_until = hold_until
        self.max_batch = max(1, settings.max_batch_size)
        self.preferred = set(settings.preferred_batch_sizes) or {self.max_batch}
        self.queue: list[Waiting] = []
        self.payloads: list[Payload] = []
        self.grants: list[int] = []
        self.known: set[int] = set()
        self.arrivals = 0
        self.draining = False
        self.wanted = 0
        self.delay_ends_at = math.inf
        self.early: tuple[list[list[int]], list[Refused]] = ([], [])
        policy = settings.default_policy
        self.prefetches = (
            settings.priority_levels == 0
            and policy.default_timeout_seconds == 0
            and not policy.allow_timeout_override
            and policy.max_queue_size == 0
        )

    # --- what happens ----------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> RefusalCause | None:
        settings = self.settings
        if self.draining:
            return RefusalCause.STOPPING
        if ticket.deadline_at <= now:
            return RefusalCause.DEADLINE
        level = ticket.level
        if level < 1 or level > settings.priority_levels:
            level = settings.default_priority_level
        policy = settings.policy_of(level)

        def is_full() -> bool:
            waiting = [one for one in self.queue if one.level == level]
            return policy.max_queue_size != 0 and len(waiting) >= policy.max_queue_size

        if is_full():
            batches, refusals = self.step(now)
            self.early = (batches, refusals)
            if is_full():
                return RefusalCause.QUEUE_FULL
        timeout = policy.default_timeout_seconds
        if policy.allow_timeout_override and 0 < ticket.timeout_seconds < timeout:
            timeout = ticket.timeout_seconds
        self.arrivals += 1
        self.queue.append(
            Waiting(
                number=ticket.id,
                level=level,
                size=ticket.batch_size,
                shape=ticket.shape_key,
                enqueued_at=now,
                expires_at=now + timeout if timeout else math.inf,
                deadline_at=ticket.deadline_at,
                place=(False, 0.0, self.arrivals),
                ticket=ticket,
            )
        )
        return None

    def cancel(self, number: int) -> bool:
        found = number in {one.number for one in self.everyone()}
        self._remove(number)
        return found

    def grant(self, instance: int) -> None:
        self.grants.append(instance)
        self.known.add(instance)

    def revoke(self, instance: int) -> None:
        self.grants = [one for one in self.grants if one != instance]
        self.known.discard(instance)

    def drain(self) -> None:
        self.draining = True
        self.hold_until = 0

    # --- what to do ------------------------------------------------------------------------------

    def step(self, now: float) -> tuple[list[list[int]], list[Refused]]:
        """The batches that leave, as ticket numbers, and who is refused."""
        batches, refusals = self.early
        self.early = ([], [])
        self.wanted = 0
        self.delay_ends_at = math.inf
        refusals += self._expire(now)
        if len(self.everyone()) < self.hold_until:
            return batches, refusals
        self.hold_until = 0
        while True:
            batches += self._dispatch(now)
            if not self.queue or not self._has_slot():
                break
            growing = self._growing()
            verdict = self._pass(growing, now)
            if growing is not None and verdict.sealed:
                growing.is_sealed = True
            if verdict.take is None:
                self.delay_ends_at = verdict.wait_until
                break
            if not self.prefetches and not self.grants:
                self.wanted = 1
                break
            if verdict.take == 0 and not verdict.saturated:
                break
            self._move(growing, verdict)
        self.wanted += len(self.payloads)
        return batches, refusals

    @property
    def next_wake(self) -> float:
        alarms = [min(one.expires_at, one.deadline_at) for one in self.everyone()]
        return min([*alarms, self.delay_ends_at])

    def everyone(self) -> list[Waiting]:
        return self.queue + [one for payload in self.payloads for one in payload.members]

    # --- the rules -------------------------------------------------------------------------------

    def _expire(self, now: float) -> list[Refused]:
        refusals: list[Refused] = []
        for one in self.everyone():
            action = self.settings.policy_of(one.level).timeout_action
            if one.deadline_at <= now and one.deadline_at < one.expires_at:
                refusals.append((one.number, RefusalCause.DEADLINE))
                self._remove(one.number)
            elif one.expires_at <= now and action == "REJECT":
                refusals.append((one.number, RefusalCause.TIMEOUT))
                self._remove(one.number)
            elif one.expires_at <= now:
                one.place = (True, one.expires_at, one.place[2])
                one.expires_at = math.inf
                if one.deadline_at <= now:
                    refusals.append((one.number, RefusalCause.DEADLINE))
                    self._remove(one.number)
        return refusals

    def _remove(self, number: int) -> None:
        self.queue = [one for one in self.queue if one.number != number]
        for payload in self.payloads:
            payload.members = [one for one in payload.members if one.number != number]
        self.payloads = [payload for payload in self.payloads if payload.members]

    def _has_slot(self) -> bool:
        if self.prefetches:
            return len(self.payloads) < 2 * max(1, len(self.known))
        return bool(self.grants) or self.on_demand

    def _growing(self) -> Payload | None:
        if self.payloads and not self.payloads[-1].is_saturated:
            return self.payloads[-1]
        return None

    def _pass(self, payload: Payload | None, now: float) -> Verdict:
        """One pass in scan order, then the six rules."""
        delay = self.settings.max_queue_delay_seconds
        largest = max(self.preferred)
        base = payload.size if payload else 0
        reference = payload.members[0].shape if payload else None
        best = pending = mark = 0
        saturated = stop = sealed = False
        scanned: list[Waiting] = []
        include = self._inclusion(payload)
        for one in sorted(self.queue, key=lambda one: (one.level, one.place)):
            is_first = base == 0 and not scanned
            if is_first:
                reference = one.shape
            else:
                if base + pending + one.size > largest and best == 0:
                    best, mark, saturated = pending, len(scanned), True
                if base + pending + one.size > self.max_batch:
                    stop = True
                    break
                if one.shape != reference:
                    stop = sealed = True
                    break
            if not include(one) and not is_first:
                stop = sealed = True
                break
            pending += one.size
            scanned.append(one)
            if base + pending in self.preferred:
                best, mark = pending, len(scanned)
        oldest = min((one.enqueued_at for one in scanned), default=math.inf)
        late = delay != 0 and bool(scanned) and (self.draining or now >= oldest + delay)
        if best > 0 and not late:
            # The whole of what was scanned leaves, or what stopped the scan is not next to it.
            return Verdict(mark, saturated or delay == 0, sealed and mark == len(scanned))
        if not scanned:
            return Verdict(0, saturated, sealed)
        if stop or base + pending >= largest:
            return Verdict(len(scanned), True, sealed)
        if late or delay == 0:
            return Verdict(len(scanned), False, sealed)
        if payload and not saturated and base not in self.preferred:
            return Verdict(len(scanned), False, sealed)
        return Verdict(None, False, sealed, wait_until=oldest + delay)

    def _inclusion(self, payload: Payload | None) -> _Inclusion:
        return _Inclusion(self.strategy, payload)

    def _move(self, growing: Payload | None, verdict: Verdict) -> None:
        assert verdict.take is not None
        payload = growing
        if payload is None:
            payload = Payload()
            self.payloads.append(payload)
        in_order = sorted(self.queue, key=lambda one: (one.level, one.place))
        for one in in_order[: verdict.take]:
            self.queue.remove(one)
            payload.members.append(one)
        payload.is_saturated = payload.is_saturated or verdict.saturated
        payload.is_sealed = payload.is_sealed or verdict.sealed

    def _dispatch(self, now: float) -> list[list[int]]:
        batches: list[list[int]] = []
        while self.payloads and self.grants:
            self.grants.pop()
            batch = self.payloads.pop(0)
            while self.payloads and self._may_merge(batch, self.payloads[0], now):
                batch.members += self.payloads.pop(0).members
            batches.append([one.number for one in batch.members])
        return batches

    def _may_merge(self, batch: Payload, follower: Payload, now: float) -> bool:
        delay = self.settings.max_queue_delay_seconds
        return (
            delay > 0
            and self.strategy is None
            and not batch.is_sealed
            and not follower.is_sealed
            and min(one.enqueued_at for one in follower.members) + delay < now
            and batch.size + follower.size <= self.max_batch
            and batch.members[0].shape == follower.members[0].shape
        )


class _Inclusion:
    """Asks the strategy about one request after the other, with a state of its own."""

    def __init__(self, strategy: BatchStrategy | None, payload: Payload | None) -> None:
        self.strategy = strategy
        if strategy is not None:
            self.state = strategy.begin_batch()
            for one in payload.members if payload else []:
                strategy.include(self.state, one.ticket)

    def __call__(self, one: Waiting) -> bool:
        return self.strategy is None or self.strategy.include(self.state, one.ticket)
