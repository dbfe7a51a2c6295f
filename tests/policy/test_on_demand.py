"""A dynamic batcher whose grants come only when asked for, as under the rate limiter."""

from __future__ import annotations

from actors.policy.batching import DefaultScheduler, Dispatch, DynamicBatcher
from actors.policy.queueing import Ticket
from repo.model_config import QueuePolicySettings
from tests.policy.timeline import batcher


def sizes(policy: DynamicBatcher, now: float) -> list[int]:
    return [action.batch_size for action in policy.step(now) if isinstance(action, Dispatch)]


def submit(policy: DynamicBatcher, count: int, now: float, level: int = 0) -> None:
    first = policy.pending + int(now * 1000)
    for number in range(first, first + count):
        assert policy.submit(Ticket(number, level, 1, None, None), now) is None


def test_65_batches_that_wait_for_resources_fill_up() -> None:
    policy = batcher((1, 2, 3, 4), 4, 5000, on_demand=True)
    submit(policy, 80, 0.0)
    executed = []
    now = 0.0
    while policy.pending:
        executed += sizes(policy, now)
        if policy.grants_wanted:
            policy.grant(0)
        executed += sizes(policy, now)
        now += 1.0
    assert executed == [4] * 20


def test_a_batch_that_waits_for_resources_keeps_growing() -> None:
    policy = batcher((1, 2, 3, 4), 4, 5000, on_demand=True)
    submit(policy, 1, 0.0)
    assert sizes(policy, 0.0) == []
    assert policy.grants_wanted == 1
    submit(policy, 2, 1.0)
    assert sizes(policy, 1.0) == []
    assert policy.grants_wanted == 1
    policy.grant(0)
    assert sizes(policy, 2.0) == [3]
    assert policy.grants_wanted == 0


def test_no_grant_is_wanted_before_a_batch_could_leave() -> None:
    policy = batcher((4,), 8, 10, on_demand=True)
    submit(policy, 1, 0.0)
    policy.step(0.0)
    assert policy.grants_wanted == 0
    assert policy.next_wake == 10
    policy.step(10.0)
    assert policy.grants_wanted == 1


def test_a_limited_queue_keeps_its_tickets_until_the_grant_comes() -> None:
    limits = QueuePolicySettings("REJECT", 100, max_queue_size=3)
    policy = batcher((2,), 4, 10, policy=limits, on_demand=True)
    submit(policy, 3, 0.0)
    policy.step(0.0)
    assert policy.grants_wanted == 1
    assert policy.pending_by_level == {0: 3}
    assert policy.submit(Ticket(99, 0, 1, None, None), 1.0) is not None
    assert policy.cancel(0, 2.0) is not None
    policy.step(2.0)
    assert policy.grants_wanted == 1
    assert policy.cancel(1, 3.0) is not None
    policy.step(3.0)
    assert policy.grants_wanted == 0
    assert policy.next_wake == 10
    policy.step(10.0)
    policy.grant(5)
    assert sizes(policy, 11.0) == [1]


def test_arrivals_behind_a_closed_batch_are_scanned_once_it_has_left() -> None:
    limits = QueuePolicySettings(max_queue_size=100)
    policy = batcher((), 2, 10, policy=limits, on_demand=True)
    submit(policy, 3, 0.0)
    policy.step(0.0)
    submit(policy, 2, 1.0)
    policy.step(1.0)
    assert policy.grants_wanted == 1
    policy.grant(0)
    assert sizes(policy, 2.0) == [2]
    policy.grant(0)
    assert sizes(policy, 2.0) == [2]
    assert policy.pending == 1


def test_a_grant_that_nothing_waits_for_is_given_back() -> None:
    policy = batcher((2,), 2, 10, on_demand=True)
    policy.grant(3)
    policy.grant(3)
    policy.grant(1)
    assert policy.step(0.0) == []
    assert sorted(policy.surrender()) == [1, 3, 3]
    submit(policy, 2, 1.0)
    assert sizes(policy, 1.0) == []
    policy.grant(1)
    assert sizes(policy, 1.0) == [2]


def test_the_default_scheduler_wants_a_grant_per_ticket() -> None:
    policy = DefaultScheduler()
    for number in range(3):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    assert policy.step(0.0) == []
    assert policy.grants_wanted == 3
    policy.grant(0)
    policy.step(0.0)
    assert policy.grants_wanted == 2
    policy.grant(0)
    assert policy.cancel(1, 0.0) is not None
    assert policy.cancel(2, 0.0) is not None
    assert policy.step(0.0) == []
    assert policy.surrender() == [0]
