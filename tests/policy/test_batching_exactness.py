"""Where the dynamic batcher is deliberately better than Triton's; each test says what Triton does.

Times are milliseconds.
"""

from __future__ import annotations

import math

import pytest

from actors.policy.batching import Dispatch, DynamicBatcher, RefusalCause, Refuse
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings, QueuePolicySettings
from tests.policy.timeline import Timeline, batcher


def test_a_timeout_strikes_at_its_instant_also_deep_in_the_queue() -> None:
    """Triton notices an expired request only when a scan reaches it, or in a 500 ms sweep."""
    policy = QueuePolicySettings("REJECT", 1000, allow_timeout_override=True)
    line = Timeline(batcher((), 1, policy=policy), [500]).send(0, "x")
    for number in range(20):
        line.send(1, f"r{number}", timeout=100 + number)
    line.play(until=120)
    assert line.refused == [
        (101 + number, f"r{number}", RefusalCause.TIMEOUT) for number in range(20)
    ]


def test_an_expired_request_is_not_taken_along_at_its_last_instant() -> None:
    """Triton's test is strict, so a wake-up exactly at the deadline would still send it."""
    policy = QueuePolicySettings("REJECT", 10)
    line = Timeline(batcher((4,), 8, 10, policy=policy)).send(0, "a").play()
    assert line.refused == [(10, "a", RefusalCause.TIMEOUT)]
    assert line.batches == []


def test_delayed_requests_keep_the_order_of_their_deadlines() -> None:
    """Triton delays in the order in which a scan meets them, whatever their deadlines were."""
    policy = QueuePolicySettings("DELAY", 50, allow_timeout_override=True)
    line = Timeline(batcher((), 1, policy=policy), [100]).send(0, "x")
    line.send(1, "a", timeout=40).send(1, "b", timeout=20).play()
    assert line.batches == [(0, "x"), (100, "b"), (200, "a")]


def test_an_expired_request_does_not_count_towards_the_limit() -> None:
    """Triton counts it until a scan or a sweep has removed it, and refuses the newcomer."""
    policy = QueuePolicySettings("REJECT", 10, max_queue_size=1)
    line = Timeline(batcher((), 1, policy=policy), [100])
    line.send(0, "x").send(1, "a").send(11, "b").play()
    assert line.refused == [
        (11, "a", RefusalCause.TIMEOUT),
        (21, "b", RefusalCause.TIMEOUT),
    ]


def test_a_cancelled_request_frees_its_place_at_once() -> None:
    """Triton sets a flag; the request counts until a scan meets it."""
    policy = QueuePolicySettings(max_queue_size=1)
    line = Timeline(batcher((), 1, policy=policy), [100])
    line.send(0, "x").send(1, "a").send(5, "b").cancel(5, "a").play()
    assert line.refused == [(5, "a", RefusalCause.CANCELLED)]
    assert line.batches == [(0, "x"), (100, "b")]


def test_a_burst_beyond_the_limit_is_not_refused_while_an_instance_is_idle() -> None:
    """In Triton it depends on a race between the enqueuing and the batching thread."""
    policy = QueuePolicySettings(max_queue_size=2)
    line = Timeline(batcher((), 2, policy=policy), [10, 10])
    for number in range(7):
        line.send(0, f"r{number}")
    line.play()
    assert line.batches == [(0, "r0 r1"), (0, "r2 r3"), (10, "r4 r5")]
    assert line.refused == [(0, "r6", RefusalCause.QUEUE_FULL)]


def test_a_cancelled_request_lets_those_behind_it_go_at_once() -> None:
    """In Triton the batch re-forms only at the next wake-up of the batcher."""
    line = Timeline(batcher((4, 8), 8, 1000)).send(0, "a").send(1, "b", 2).send(2, "c", 2)
    line.cancel(5, "a").play()
    assert line.batches == [(5, "b c")]


def test_a_cancelled_request_leaves_a_batch_that_waits_for_its_instance() -> None:
    """Triton no longer looks at a request once it is in a batch; only the backend could."""
    line = Timeline(batcher((2,), 2), [100]).send(0, "x", 2)
    line.send(1, "a").send(2, "b").send(3, "c").cancel(10, "a").cancel(11, "c").play()
    assert line.batches == [(0, "x"), (100, "b")]
    assert [(at, name) for at, name, _ in line.refused] == [(10, "a"), (11, "c")]


def test_a_growing_batch_that_lost_a_request_has_room_for_another() -> None:
    line = Timeline(batcher((), 2), [100]).send(0, "x", 2)
    line.send(1, "a").cancel(2, "a").send(3, "b").send(4, "c").play()
    assert line.batches == [(0, "x"), (100, "b c")]


def test_a_callers_deadline_is_honoured_in_the_queue() -> None:
    """Triton knows the queue policy's timeouts only; it executes what nobody waits for."""
    line = Timeline(batcher((), 1), [100]).send(0, "x").send(1, "a").send(1, "b")
    line.send(1, "c", deadline=50).play()
    assert line.refused == [(50, "c", RefusalCause.DEADLINE)]
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]


def test_a_callers_deadline_is_honoured_in_a_batch_that_waits_for_its_instance() -> None:
    line = Timeline(batcher((2,), 2), [100]).send(0, "x", 2)
    line.send(1, "a", deadline=50).send(1, "b").play()
    assert line.refused == [(50, "a", RefusalCause.DEADLINE)]
    assert line.batches == [(0, "x"), (100, "b")]


def test_a_callers_deadline_is_honoured_among_the_delayed() -> None:
    policy = QueuePolicySettings("DELAY", 10)
    line = Timeline(batcher((), 1, policy=policy), [100]).send(0, "x")
    line.send(1, "a", deadline=50).play()
    assert line.refused == [(50, "a", RefusalCause.DEADLINE)]


def test_a_request_that_is_too_late_already_is_not_queued() -> None:
    policy = batcher((), 1)
    refused = policy.submit(Ticket(1, 0, 1, None, None, deadline_at=5.0), 5.0)
    assert refused is not None
    assert refused.cause is RefusalCause.DEADLINE
    assert policy.pending == 0


def test_the_earlier_of_two_limits_names_the_cause() -> None:
    policy = QueuePolicySettings("REJECT", 10)
    line = Timeline(batcher((), 1, policy=policy), [100]).send(0, "x")
    line.send(1, "timeout first", deadline=12).send(1, "deadline first", deadline=10)
    line.send(1, "both at once", deadline=11).play()
    assert line.refused == [
        (10, "deadline first", RefusalCause.DEADLINE),
        (11, "timeout first", RefusalCause.TIMEOUT),
        (11, "both at once", RefusalCause.TIMEOUT),
    ]


def test_draining_does_not_wait_for_companions_that_cannot_come() -> None:
    """Triton waits out the queue delay though it accepts nothing more."""
    policy = batcher((4,), 8, 10_000)
    policy.grant(0)
    policy.submit(Ticket(1, 0, 1, None, None), 0.0)
    assert policy.step(0.0) == []
    assert policy.next_wake == 10_000
    policy.drain()
    (action,) = policy.step(1.0)
    assert isinstance(action, Dispatch)
    assert action.closed_by == "delay"


def test_draining_releases_a_hold() -> None:
    policy = batcher((), 8, hold_until=5)
    policy.grant(0)
    policy.submit(Ticket(1, 0, 1, None, None), 0.0)
    assert policy.step(0.0) == []
    policy.drain()
    assert len(policy.step(1.0)) == 1


def test_next_wake_is_the_exact_instant_of_the_next_event() -> None:
    settings = BatchingSettings(
        max_batch_size=8,
        preferred_batch_sizes=(8,),
        max_queue_delay_seconds=0.003,
        default_policy=QueuePolicySettings("REJECT", 0.002),
    )
    policy = DynamicBatcher(settings)
    assert policy.next_wake == math.inf
    policy.grant(0)
    policy.submit(Ticket(1, 0, 1, None, None), 0.1)
    assert policy.step(0.1) == []
    assert policy.next_wake == 0.1 + 0.002
    (refused,) = policy.step(policy.next_wake)
    assert isinstance(refused, Refuse)
    assert policy.next_wake == math.inf


@pytest.mark.parametrize("start", [0.1, 0.7, 1e6 + 0.1, 123456.789])
def test_the_wake_up_for_the_delay_finds_the_batch_late_whatever_the_rounding(
    start: float,
) -> None:
    settings = BatchingSettings(8, (8,), max_queue_delay_seconds=0.1)
    policy = DynamicBatcher(settings)
    policy.grant(0)
    policy.submit(Ticket(1, 0, 1, None, None), start)
    assert policy.step(start) == []
    assert len(policy.step(policy.next_wake)) == 1


def test_nothing_wakes_a_batcher_whose_instances_are_all_busy() -> None:
    """Triton polls every 500 ms."""
    policy = batcher((2,), 2, 10)
    for number in range(10):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    assert policy.step(0.0) == []
    assert policy.next_wake == math.inf
    assert policy.pending == 10


def test_asking_again_at_the_same_instant_changes_nothing() -> None:
    policy = batcher((4,), 8, 10)
    policy.grant(0)
    policy.grant(1)
    for number in range(6):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    assert len(policy.step(0.0)) == 1
    assert policy.step(0.0) == []
    assert policy.next_wake == 10


def test_cancelling_what_is_not_here_is_harmless() -> None:
    policy = batcher((), 1)
    assert policy.cancel(7, 0.0) is None


def test_abandoning_hands_back_every_ticket_once() -> None:
    settings = QueuePolicySettings("DELAY", 5)
    policy = batcher((), 2, policy=settings)
    tickets = [Ticket(number, 0, 1, None, None, deadline_at=1000.0) for number in range(7)]
    for ticket in tickets:
        policy.submit(ticket, 0.0)
    policy.step(6.0)
    assert policy.abandon() == tickets
    assert policy.pending == 0
    assert policy.pending_by_level == {}
    assert policy.next_wake == math.inf


def test_abandoning_also_empties_formed_batches() -> None:
    policy = batcher((), 2)
    for number in range(5):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    policy.step(0.0)
    assert len(policy.abandon()) == 5
    policy.grant(0)
    assert policy.step(1.0) == []


def test_a_revoked_instance_gets_nothing_more() -> None:
    policy = batcher((), 1)
    policy.grant(0)
    policy.grant(1)
    policy.revoke(0)
    for number in range(2):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    (action,) = policy.step(0.0)
    assert isinstance(action, Dispatch)
    assert action.instance == 1


def test_a_scan_that_waits_for_its_delay_waits_on_without_the_instance() -> None:
    policy = batcher((4,), 8, 10, policy=QueuePolicySettings(max_queue_size=100))
    policy.grant(0)
    policy.submit(Ticket(1, 0, 1, None, None), 0.0)
    policy.step(0.0)
    assert policy.next_wake == 10
    policy.revoke(0)
    assert policy.step(1.0) == []
    assert policy.next_wake == math.inf
    policy.grant(1)
    (action,) = policy.step(20.0)
    assert isinstance(action, Dispatch)


def test_pending_by_level_counts_what_waits_in_each_queue() -> None:
    policy = batcher((), 1, levels=3)
    for number, level in enumerate([1, 3, 3, 2, 9]):
        policy.submit(Ticket(number, level, 1, None, None), 0.0)
    assert policy.pending_by_level == {1: 1, 2: 1, 3: 3}
    assert policy.pending == 5


def test_higher_levels_are_scanned_first_in_whatever_order_they_fill() -> None:
    policy = batcher((), 8, levels=4)
    for number, level in enumerate([3, 1, 4, 2, 1]):
        policy.submit(Ticket(number, level, 1, None, None), 0.0)
    policy.grant(0)
    (action,) = policy.step(0.0)
    assert isinstance(action, Dispatch)
    assert [ticket.level for ticket in action.tickets] == [1, 1, 2, 3, 4]
    assert [ticket.id for ticket in action.tickets] == [1, 4, 3, 0, 2]
