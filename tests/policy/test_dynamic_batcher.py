"""Triton's behaviours of the dynamic batcher, as scenarios, in milliseconds.

Unless a test says otherwise the model prefers batches of 2 and 6, takes at most 8, delays for
10,000 and has one instance, whose executions take no time.
"""

from __future__ import annotations

import pytest

from actors.policy.batching import Dispatch, RefusalCause
from actors.policy.queueing import Ticket
from repo.model_config import QueuePolicySettings
from tests.policy.timeline import Timeline, batcher


def usual() -> Timeline:
    return Timeline(batcher((2, 6), 8, 10_000))


@pytest.mark.parametrize(
    ("size", "at", "closed_by"),
    [(1, 10_000, "delay"), (3, 10_000, "delay"), (7, 0, "full"), (2, 0, "preferred")],
)
def test_27_a_lone_request_runs_at_once_only_at_a_preferred_size_or_above_all(
    size: int, at: float, closed_by: str
) -> None:
    line = usual().send(0, "a", size).play()
    assert line.sizes == [(at, size)]
    assert line.ran[0].closed_by == closed_by


def test_28_preferred_sizes_run_at_once_each() -> None:
    line = usual().send(0, "a", 2).send(5, "b", 6).play()
    assert line.sizes == [(0, 2), (5, 6)]


def test_29_the_delay_counts_from_the_oldest_request() -> None:
    line = usual().send(0, "a", 1).send(2000, "b", 3).play()
    assert line.batches == [(10_000, "a b")]
    assert line.ran[0].size == 4


def test_30_another_shape_closes_the_batch_and_starts_the_next() -> None:
    line = usual().send(0, "a", shape=(4,)).send(1000, "b", shape=(5,)).play()
    assert line.batches == [(1000, "a"), (11_000, "b")]


def test_30_equal_keys_of_ragged_inputs_share_a_batch() -> None:
    line = usual().send(0, "a", shape=()).send(1000, "b", shape=()).play()
    assert line.batches == [(1000, "a b")]


@pytest.mark.parametrize(("count", "sizes"), [(6, [(0, 6)]), (3, [(0, 2), (10_000, 1)])])
def test_31_what_is_queued_before_the_scheduler_starts_reaches_the_largest_preferred_size(
    count: int, sizes: list[tuple[float, int]]
) -> None:
    line = usual()
    for number in range(count):
        line.send(0, f"r{number}")
    assert line.play().sizes == sizes


def test_31_the_hold_makes_arrivals_over_time_look_like_a_burst() -> None:
    """Triton's TRITONSERVER_DELAY_SCHEDULER does the same for its own tests."""
    line = Timeline(batcher((2, 6), 8, 10_000, hold_until=6))
    for at in range(7):
        line.send(at, f"r{at}")
    assert line.play().sizes == [(5, 6), (10_006, 1)]


def test_32_late_requests_leave_together_up_to_the_maximum() -> None:
    """Once the oldest has waited for the whole delay, preferred sizes no longer matter."""
    policy = batcher((2, 6), 8, 10_000)
    for number, size in enumerate([3, 4, 1, 2]):
        policy.submit(Ticket(number, 0, size, None, None), 0.0)
    policy.grant(0)
    (action,) = policy.step(10_000.0)
    assert isinstance(action, Dispatch)
    assert action.batch_size == 8
    assert [ticket.id for ticket in action.tickets] == [0, 1, 2]
    assert policy.pending == 1


def test_33_requests_with_different_optional_inputs_never_share_a_batch() -> None:
    line = Timeline(batcher((2, 6), 8, 5000))
    for turn in range(4):
        line.send(500 * turn, f"r{turn}", shape=("INPUT0",) if turn % 2 == 0 else ("INPUT1",))
    line.play()
    assert line.batches == [(500, "r0"), (1000, "r1"), (1500, "r2"), (6500, "r3")]


def test_35_an_unknown_priority_is_the_default_and_a_higher_one_jumps_the_queue() -> None:
    line = Timeline(batcher((), 1, levels=2), [10])
    line.send(0, "started", level=2).send(1, "a", level=2).send(2, "seven", level=7)
    line.send(3, "zero", level=0).send(4, "urgent", level=1).play()
    assert line.batches == [
        (0, "started"),
        (10, "urgent"),
        (20, "a"),
        (30, "seven"),
        (40, "zero"),
    ]


def test_36_a_limit_on_one_level_does_not_refuse_at_another() -> None:
    policies = {1: QueuePolicySettings(max_queue_size=1)}
    line = Timeline(batcher((), 1, levels=2, level_policies=policies), [100])
    line.send(0, "x", level=2)
    line.send(1, "a", level=1).send(2, "b", level=1).send(3, "c", level=2).send(4, "d", level=2)
    line.play()
    assert line.refused == [(2, "b", RefusalCause.QUEUE_FULL)]
    assert line.batches == [(0, "x"), (100, "a"), (200, "c"), (300, "d")]


def test_37_an_override_needs_a_default_timeout_to_shorten() -> None:
    policy = QueuePolicySettings(allow_timeout_override=True)
    line = Timeline(batcher((), 1, policy=policy), [50])
    line.send(0, "x").send(1, "a", timeout=1).play()
    assert line.refused == []
    assert line.batches == [(0, "x"), (50, "a")]


def test_38_a_request_cancelled_while_the_instance_is_busy_never_runs() -> None:
    line = Timeline(batcher((), 8), [50]).send(0, "x").send(1, "a").send(2, "b")
    line.cancel(10, "a").play()
    assert line.refused == [(10, "a", RefusalCause.CANCELLED)]
    assert line.batches == [(0, "x"), (50, "b")]


def test_39_draining_refuses_new_requests_and_completes_queued_ones() -> None:
    policy = batcher((), 1)
    policy.submit(Ticket(1, 0, 1, None, None), 0.0)
    policy.drain()
    late = Ticket(2, 0, 1, None, None)
    refused = policy.submit(late, 1.0)
    assert refused is not None
    assert refused.ticket is late
    assert refused.cause is RefusalCause.STOPPING
    policy.grant(0)
    (action,) = policy.step(2.0)
    assert isinstance(action, Dispatch)
    assert [ticket.id for ticket in action.tickets] == [1]


def test_a_model_without_batching_runs_requests_one_by_one() -> None:
    line = Timeline(batcher((), 1, 10), [1]).send(0, "a").send(0, "b").send(0, "c").play()
    assert line.batches == [(0, "a"), (1, "b"), (2, "c")]


def test_a_request_larger_than_the_maximum_is_not_policys_to_judge() -> None:
    """Admission refuses it; here it simply runs alone."""
    line = usual().send(0, "a", 1).send(0, "b", 20).send(0, "c", 2).play()
    assert line.batches == [(0, "a"), (0, "b"), (0, "c")]


def test_late_ignores_preferred_sizes() -> None:
    line = Timeline(batcher((4, 8), 8, 10))
    line.send(0, "a", 3).send(2, "b", 3).play()
    assert line.batches == [(10, "a b")]


def test_the_largest_preferred_size_within_one_scan_wins_over_the_first() -> None:
    line = usual()
    for number in range(7):
        line.send(0, f"r{number}")
    line.play()
    assert line.sizes == [(0, 6), (10_000, 1)]


def test_no_look_ahead_past_an_odd_request() -> None:
    line = usual().send(0, "a", shape="X").send(0, "b", shape="Y").send(0, "c", shape="X").play()
    assert line.batches == [(0, "a"), (0, "b"), (10_000, "c")]


def test_a_delayed_request_rides_with_its_own_level_before_lower_levels() -> None:
    policies = {1: QueuePolicySettings("DELAY", 5)}
    line = Timeline(batcher((), 2, levels=2, level_policies=policies), [20])
    line.send(0, "x1", level=1).send(0, "x2", level=1)
    line.send(1, "old", level=1).send(2, "low", level=2).send(18, "new", level=1).play()
    assert line.batches == [(0, "x1 x2"), (20, "new old"), (40, "low")]


def test_a_delayed_request_is_never_rejected_afterwards() -> None:
    policy = QueuePolicySettings("DELAY", 5)
    line = Timeline(batcher((), 1, policy=policy), [1000]).send(0, "x").send(1, "a").play()
    assert line.refused == []
    assert line.batches == [(0, "x"), (1000, "a")]


def test_a_delayed_request_keeps_its_age_for_the_queue_delay() -> None:
    policy = QueuePolicySettings("DELAY", 5)
    line = Timeline(batcher((4,), 8, 100, policy=policy))
    line.send(0, "a").send(97, "b").play()
    assert line.batches == [(100, "b a")]
    assert line.ran[0].closed_by == "delay"


def test_delayed_requests_count_towards_the_queue_limit() -> None:
    policy = QueuePolicySettings("DELAY", 5, max_queue_size=1)
    line = Timeline(batcher((), 1, policy=policy), [100])
    line.send(0, "x").send(1, "a").send(50, "b").play()
    assert line.refused == [(50, "b", RefusalCause.QUEUE_FULL)]


def test_two_instances_share_the_queue_and_the_idler_one_goes_first() -> None:
    line = Timeline(batcher((), 1), [30, 10])
    for number in range(4):
        line.send(0, f"r{number}")
    line.play()
    assert [(ran.at, ran.instance) for ran in line.ran] == [(0, 0), (0, 1), (10, 1), (20, 1)]


def test_formed_batches_are_bounded_by_the_number_of_instances() -> None:
    """Two wait at 5, so 6 to 16 stay queued; more batches of 4 would have formed from them."""
    line = Timeline(batcher((4, 8), 8), [100]).send(0, "x")
    for at in range(1, 17):
        line.send(at, f"r{at}")
    assert line.play().sizes == [(0, 1), (100, 4), (200, 8), (300, 4)]


def test_a_waiting_batch_is_topped_up_even_to_an_unpreferred_size() -> None:
    line = Timeline(batcher((4,), 8, 10), [100]).send(0, "x", 4)
    line.send(1, "a").send(30, "b").send(31, "c").play()
    assert line.batches == [(0, "x"), (100, "a b c")]


def test_a_waiting_batch_of_preferred_size_takes_more_only_once_they_are_late() -> None:
    line = Timeline(batcher((2, 6), 8, 10), [100]).send(0, "x", 2)
    line.send(1, "a").send(2, "b").send(80, "late").send(95, "young").play()
    assert line.batches == [(0, "x"), (100, "a b late young")]
    line = Timeline(batcher((2, 6), 8, 10), [100]).send(0, "x", 2)
    line.send(1, "a").send(2, "b").send(95, "young").play()
    assert line.batches == [(0, "x"), (100, "a b"), (200, "young")]


def test_a_waiting_batch_does_not_take_other_shapes() -> None:
    line = Timeline(batcher((), 8), [100]).send(0, "x").send(1, "a", shape="X")
    line.send(2, "b", shape="Y").send(3, "c", shape="Y").play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b c")]


def test_waiting_batches_merge_when_the_second_is_late_too() -> None:
    """Triton joins neighbours in its instance queue if they fit and the delay is long over."""
    line = Timeline(batcher((2, 6), 16, 10), [100]).send(0, "x", 6)
    line.send(1, "a", 3).send(2, "b", 6).play()
    assert line.batches == [(0, "x"), (100, "a b")]
    assert line.ran[1].size == 9


def test_waiting_batches_do_not_merge_while_the_second_is_young() -> None:
    line = Timeline(batcher((2, 6), 16, 10), [100]).send(0, "x", 6)
    line.send(90, "a", 3).send(91, "b", 6).play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]


def test_waiting_batches_do_not_merge_beyond_the_maximum() -> None:
    line = Timeline(batcher((2, 6), 8, 10), [100]).send(0, "x", 6)
    line.send(1, "a", 3).send(2, "b", 6).play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]


def test_waiting_batches_do_not_merge_across_shapes() -> None:
    line = Timeline(batcher((2, 6), 8, 10), [100]).send(0, "x", 6)
    line.send(1, "a", 3, shape="X").send(2, "b", 3, shape="Y").play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]
