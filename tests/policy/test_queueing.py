"""Levels, deadlines and the choice between instances."""

from __future__ import annotations

import math

import pytest

from actors.policy.grants import MAX_GRANTS_PER_INSTANCE, Grants
from actors.policy.queueing import Deadlines, PolicyQueue, PriorityQueue, Ticket, normalise_level
from repo.model_config import BatchingSettings, QueuePolicySettings


def ticket(number: int, level: int = 0, *, deadline: float = math.inf) -> Ticket:
    return Ticket(number, level, 1, None, None, deadline_at=deadline)


@pytest.mark.parametrize(
    ("priority", "levels", "default", "level"),
    [
        (0, 0, 0, 0),
        (5, 0, 0, 0),
        (0, 3, 2, 2),
        (1, 3, 2, 1),
        (3, 3, 2, 3),
        (4, 3, 2, 2),
        (2**63, 3, 2, 2),
    ],
)
def test_a_priority_outside_the_levels_is_the_default(
    priority: int, levels: int, default: int, level: int
) -> None:
    assert normalise_level(priority, levels, default) == level


@pytest.mark.parametrize(
    ("default", "may_override", "own", "expires_at"),
    [
        (0.0, False, 0.0, math.inf),
        (0.0, True, 2.0, math.inf),
        (4.0, False, 2.0, 14.0),
        (4.0, True, 2.0, 12.0),
        (4.0, True, 4.0, 14.0),
        (4.0, True, 9.0, 14.0),
        (4.0, True, 0.0, 14.0),
    ],
)
def test_an_override_can_only_shorten_a_timeout(
    default: float, may_override: bool, own: float, expires_at: float
) -> None:
    queue = PolicyQueue(1, QueuePolicySettings("REJECT", default, may_override))
    late = Ticket(1, 1, 1, None, None, timeout_seconds=own)
    assert queue.expiry(late, 10.0) == expires_at


def test_scan_order_is_by_level_live_before_delayed() -> None:
    settings = BatchingSettings(8, (8,), priority_levels=3, default_priority_level=3)
    queue = PriorityQueue(settings)
    tickets = {number: ticket(number, level) for number, level in enumerate([2, 1, 1, 3, 2])}
    for one in tickets.values():
        queue.push(queue.level(one.level), one)
    queue.delay(tickets[1])
    assert [one.id for one in queue] == [2, 1, 0, 4, 3]
    assert queue.counts() == {1: 2, 2: 2, 3: 1}
    for one in tickets.values():
        queue.remove(one)
    assert list(queue) == []
    assert queue.counts() == {}


def test_a_push_tells_whether_the_ticket_is_last_in_scan_order() -> None:
    settings = BatchingSettings(8, (8,), priority_levels=2, default_priority_level=2)
    queue = PriorityQueue(settings)
    first, urgent, behind = ticket(1, 2), ticket(2, 1), ticket(3, 2)
    assert queue.push(queue.level(2), first)
    assert not queue.push(queue.level(1), urgent)
    assert queue.push(queue.level(2), behind)
    queue.delay(first)
    assert not queue.push(queue.level(2), ticket(4, 2))


def test_deadlines_come_due_in_order_and_ties_in_order_of_arrival() -> None:
    deadlines = Deadlines()
    for number, at in enumerate([5.0, 3.0, 3.0, math.inf, 9.0]):
        deadlines.watch(ticket(number, deadline=at))
    assert len(deadlines) == 4
    assert deadlines.next_at == 3.0
    assert deadlines.pop_due(2.9) is None
    due = []
    while (one := deadlines.pop_due(5.0)) is not None:
        due.append(one.id)
    assert due == [1, 2, 0]
    assert deadlines.next_at == 9.0


def test_forgotten_deadlines_never_come_due() -> None:
    deadlines = Deadlines()
    first, second = ticket(1, deadline=1.0), ticket(2, deadline=2.0)
    deadlines.watch(first)
    deadlines.watch(second)
    deadlines.forget(first)
    deadlines.forget(first)
    assert len(deadlines) == 1
    assert deadlines.next_at == 2.0
    deadlines.forget(second)
    assert deadlines.next_at == math.inf
    assert deadlines.pop_due(99.0) is None


def test_the_heap_stays_in_proportion_to_what_waits() -> None:
    """Answered tickets with a distant deadline must not pile up."""
    deadlines = Deadlines()
    keeper = ticket(0, deadline=1e9)
    deadlines.watch(keeper)
    largest = 0
    for number in range(1, 10_000):
        one = ticket(number, deadline=1e6 + number)
        deadlines.watch(one)
        deadlines.forget(one)
        largest = max(largest, len(deadlines._heap))
    assert largest <= 66
    assert deadlines.next_at == 1e9


def test_the_idlest_instance_is_next_and_among_equals_the_longest_waiting() -> None:
    grants = Grants()
    for instance in (0, 0, 1, 2, 2):
        grants.add(instance)
    assert grants.total == 5
    assert grants.instance_count == 3
    assert [grants.take() for _ in range(5)] == [0, 2, 1, 0, 2]
    assert not grants
    assert grants.instance_count == 3


def test_an_instance_cannot_grant_more_than_it_can_take() -> None:
    grants = Grants()
    for _ in range(MAX_GRANTS_PER_INSTANCE):
        grants.add(0)
    with pytest.raises(AssertionError, match="grants what it can take"):
        grants.add(0)


def test_forgetting_an_instance_drops_its_grants() -> None:
    grants = Grants()
    for instance in (0, 0, 1):
        grants.add(instance)
    grants.forget(0)
    grants.forget(0)
    assert grants.total == 1
    assert grants.take_all() == [1]
    with pytest.raises(AssertionError, match="only against a grant"):
        grants.take()
