"""The dynamic batcher against the naive reference, under any sequence of events.

Times are multiples of a quarter, which floats add exactly. Besides agreeing with the reference,
the policy is held to what must be true of any scheduler, checked from the outside.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.policy.batching import Dispatch, DynamicBatcher, RefusalCause, Refuse
from actors.policy.queueing import Ticket, normalise_level
from repo.model_config import BatchingSettings, QueuePolicySettings
from tests.policy.naive import NaiveBatcher

INSTANCES = 2
quarters = st.integers(1, 8).map(lambda count: count / 4)


class AtMost:
    """A batch strategy: the sum of batch sizes is bounded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def begin_batch(self) -> object:
        return Counter[str]()

    def include(self, state: object, ticket: Ticket) -> bool:
        assert isinstance(state, Counter)
        if state["total"] + ticket.batch_size > self.limit:
            return False
        state["total"] += ticket.batch_size
        return True

    def end_batch(self, state: object) -> None:
        assert isinstance(state, Counter)


@st.composite
def queue_policies(draw: st.DrawFn) -> QueuePolicySettings:
    if draw(st.booleans()):
        return QueuePolicySettings()
    return QueuePolicySettings(
        timeout_action=draw(st.sampled_from(("REJECT", "DELAY"))),
        default_timeout_seconds=draw(st.sampled_from((0.0, 1.0, 2.5))),
        allow_timeout_override=draw(st.booleans()),
        max_queue_size=draw(st.sampled_from((0, 0, 1, 3))),
    )


@st.composite
def batching_settings(draw: st.DrawFn) -> BatchingSettings:
    max_batch = draw(st.sampled_from((1, 3, 4, 8, 8)))
    # Half of the models may form batches ahead of time, as they limit nothing.
    is_limited = draw(st.booleans())
    levels = draw(st.sampled_from((0, 1, 3))) if is_limited else 0
    return BatchingSettings(
        max_batch_size=max_batch,
        preferred_batch_sizes=tuple(sorted(draw(st.sets(st.integers(1, max_batch), max_size=2)))),
        max_queue_delay_seconds=draw(st.sampled_from((0.0, 0.5, 2.0))),
        priority_levels=levels,
        default_priority_level=levels,
        default_policy=draw(queue_policies()) if is_limited else QueuePolicySettings(),
        level_policies={1: draw(queue_policies())} if levels else {},
    )


@dataclass(frozen=True)
class Asked:
    """One request as a test draws it."""

    level: int
    size: int
    shape: str
    timeout: float
    patience: float


requests = st.builds(
    Asked,
    level=st.integers(0, 3),
    size=st.sampled_from((1, 1, 1, 2, 3, 4)),
    shape=st.sampled_from(("X", "X", "X", "X", "Y")),
    timeout=st.sampled_from((0.0, 0.5, 4.0)),
    patience=st.sampled_from((math.inf, math.inf, math.inf, 0.5, 3.0)),
)


class BatcherMachine(RuleBasedStateMachine):
    @initialize(
        batching=batching_settings(),
        limit=st.sampled_from((None, None, 3)),
        on_demand=st.booleans(),
        hold_until=st.sampled_from((0, 0, 0, 4)),
    )
    def begin(
        self, batching: BatchingSettings, limit: int | None, on_demand: bool, hold_until: int
    ) -> None:
        strategy = None if limit is None else AtMost(limit)
        self.settings = batching
        self.policy = DynamicBatcher(
            batching, strategy=strategy, on_demand=on_demand, hold_until=hold_until
        )
        self.naive = NaiveBatcher(batching, strategy, on_demand=on_demand, hold_until=hold_until)
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.answered: Counter[int] = Counter()
        self.grants: Counter[int] = Counter()
        # The first ticket of this turn before whose arrival others may have left: a full level
        # lets go of whoever is due before it refuses.
        self.late_from = math.inf

    @rule(asked=st.lists(requests, min_size=1, max_size=4), at_once=st.booleans())
    def arrive(self, asked: list[Asked], at_once: bool) -> None:
        for one in asked:
            self.submit(one)
            if not at_once:
                self.turn()
        self.turn()

    def submit(self, asked: Asked) -> None:
        number = len(self.tickets)
        size = min(asked.size, self.settings.max_batch_size)

        def made() -> Ticket:
            return Ticket(
                id=number,
                level=asked.level,
                batch_size=size,
                shape_key=asked.shape,
                work=None,
                timeout_seconds=asked.timeout,
                deadline_at=self.now + asked.patience,
            )

        ticket = made()
        self.tickets.append(ticket)
        levels, default = self.settings.priority_levels, self.settings.default_priority_level
        level = normalise_level(asked.level, levels, default)
        limit = self.settings.policy_of(level).max_queue_size
        if 0 < limit == self.policy.pending_by_level.get(level, 0):
            self.late_from = min(self.late_from, number)
        refused = self.policy.submit(ticket, self.now)
        expected = self.naive.submit(made(), self.now)
        assert (refused and refused.cause) == expected
        waiting = self.policy.pending_by_level.get(ticket.level, 0)
        if refused is not None:
            assert refused.ticket is ticket
            self.answered[number] += 1
            assert waiting == limit or refused.cause is not RefusalCause.QUEUE_FULL
        assert waiting <= limit or not limit

    @precondition(lambda self: self.policy.pending > 0)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.tickets) - 1))
        refused = self.policy.cancel(number, self.now)
        assert (refused is not None) == self.naive.cancel(number)
        if refused is not None:
            assert refused.ticket is self.tickets[number]
            assert refused.cause is RefusalCause.CANCELLED
            self.answered[number] += 1
        self.turn()

    def grant(self, instance: int) -> None:
        if self.grants[instance] < 2:
            self.grants[instance] += 1
            self.policy.grant(instance)
            self.naive.grant(instance)

    @rule(instance=st.integers(0, INSTANCES - 1))
    def an_instance_is_free(self, instance: int) -> None:
        self.grant(instance)
        self.turn()

    @rule(kind=st.sampled_from(("revoke", "surrender", "drain", "nothing", "nothing")))
    def something_rare(self, kind: str) -> None:
        if kind == "revoke":
            self.grants[0] = 0
            self.policy.revoke(0)
            self.naive.revoke(0)
        elif kind == "surrender":
            assert Counter(self.policy.surrender()) == +self.grants
            self.grants.clear()
            self.naive.grants.clear()
        elif kind == "drain" and self.now >= 8:
            self.policy.drain()
            self.naive.drain()
        self.turn()

    @rule(passing=quarters)
    def let_time_pass(self, passing: float) -> None:
        self.now += passing
        self.turn()

    @rule()
    def sleep_until_the_next_wake(self) -> None:
        if self.policy.next_wake < math.inf:
            assert self.policy.next_wake > self.now
            self.now = self.policy.next_wake
            self.turn()

    def turn(self) -> None:
        batches = []
        refusals = []
        for action in self.policy.step(self.now):
            match action:
                case Dispatch():
                    self.check_batch(action)
                    batches.append([ticket.id for ticket in action.tickets])
                case Refuse(ticket, cause):
                    self.answered[ticket.id] += 1
                    refusals.append((ticket.id, cause))
        expected_batches, expected_refusals = self.naive.step(self.now)
        # The naive model does not know which of several idle instances is next.
        self.naive.grants = sorted(self.grants.elements())
        assert batches == expected_batches
        assert Counter(refusals) == Counter(expected_refusals)
        assert self.policy.next_wake == self.naive.next_wake
        assert self.policy.grants_wanted == self.naive.wanted
        self.check_order(batches)

    def check_batch(self, batch: Dispatch) -> None:
        assert batch.batch_size == sum(ticket.batch_size for ticket in batch.tickets)
        assert batch.batch_size <= self.settings.max_batch_size or len(batch.tickets) == 1
        assert len({ticket.shape_key for ticket in batch.tickets}) == 1
        assert batch.oldest_enqueued_at == min(ticket.enqueued_at for ticket in batch.tickets)
        assert self.grants[batch.instance] > 0
        self.grants[batch.instance] -= 1
        for ticket in batch.tickets:
            self.answered[ticket.id] += 1
            assert ticket.deadline_at > self.now
            assert ticket.expires_at > self.now

    def check_order(self, batches: list[list[int]]) -> None:
        """Nobody overtakes: not within a level's live part, and no lower level a higher one."""
        everybody = enumerate(self.tickets)
        waiting = [
            one
            for number, one in everybody
            if not self.answered[number] and number < self.late_from
        ]
        self.late_from = math.inf
        for number in (number for batch in batches for number in batch):
            gone = self.tickets[number]
            for left in waiting:
                is_delayed = left.expires_at == math.inf != self.expiry(left)
                was_delayed = gone.expires_at == math.inf != self.expiry(gone)
                if gone.level == left.level and not is_delayed and not was_delayed:
                    assert gone.id < left.id
                assert gone.level <= left.level

    def expiry(self, ticket: Ticket) -> float:
        policy = self.settings.policy_of(ticket.level)
        return policy.default_timeout_seconds or math.inf

    @invariant()
    def everybody_is_answered_at_most_once(self) -> None:
        if not hasattr(self, "policy"):
            return
        assert max(self.answered.values(), default=0) <= 1
        assert self.policy.pending == len(self.naive.everyone())

    def teardown(self) -> None:
        if not hasattr(self, "policy"):
            return
        self.turn()
        self.policy.drain()
        self.naive.drain()
        for _ in range(2 * len(self.tickets) + 2):
            self.grant(0)
            self.turn()
            self.now += 0.25
        assert self.policy.pending == 0
        assert sorted(self.answered.elements()) == list(range(len(self.tickets)))


BatcherMachine.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBatcher = BatcherMachine.TestCase
