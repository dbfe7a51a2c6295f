"""The worked timelines of Triton's dynamic batcher, in milliseconds.

One instance unless said otherwise. Where Triton gives a range because it polls, ours is exact.
"""

from __future__ import annotations

from actors.policy.batching import RefusalCause
from repo.model_config import QueuePolicySettings
from tests.policy.timeline import Timeline, batcher


def test_t1_waits_for_the_delay_when_no_preferred_size_is_reached() -> None:
    line = Timeline(batcher((4, 8), 8, 10)).send(0, "a").send(1, "b").send(2, "c").play()
    assert line.batches == [(10, "a b c")]
    assert line.ran[0].closed_by == "delay"


def test_t2_leaves_at_once_when_a_preferred_size_is_reached() -> None:
    line = Timeline(batcher((4, 8), 8, 10))
    line.send(0, "a").send(1, "b").send(2, "c").send(3, "d").play()
    assert line.batches == [(3, "a b c d")]
    assert line.ran[0].closed_by == "preferred"


def test_t3_would_exceed_the_largest_preferred_size() -> None:
    line = Timeline(batcher((2, 6), 8, 10_000)).send(0, "a", 3).send(1000, "b", 4).play()
    assert line.batches == [(1000, "a"), (11_000, "b")]
    assert [ran.closed_by for ran in line.ran] == ["full", "delay"]


def test_t4_larger_than_any_preferred_size_runs_at_once() -> None:
    line = Timeline(batcher((2, 6), 8, 10_000), [7]).send(0, "a", 3).send(1000, "b", 7).play()
    assert line.batches == [(1000, "a"), (1007, "b")]


def test_t5_another_shape_closes_the_batch() -> None:
    line = Timeline(batcher((2, 6), 8, 10_000))
    line.send(0, "a", 1, shape="X").send(0, "b", 3, shape="X")
    line.send(1000, "c", 1, shape="Y").send(2000, "d", 5, shape="Y").play()
    assert line.batches == [(1000, "a b"), (2000, "c d")]
    assert line.sizes == [(1000, 4), (2000, 6)]
    assert [ran.closed_by for ran in line.ran] == ["shape", "preferred"]


def test_t6_a_burst_reaches_the_largest_preferred_size() -> None:
    line = Timeline(batcher((4, 6), 8), [10])
    for name in "abcdefg":
        line.send(0, name)
    assert line.play().sizes == [(0, 6), (10, 1)]


def test_t7_one_by_one_arrivals_saturate_at_the_smallest_preferred_size() -> None:
    line = Timeline(batcher((4, 8), 8), [100]).send(0, "x")
    for at in range(1, 11):
        line.send(at, f"r{at}")
    assert line.play().sizes == [(0, 1), (100, 4), (200, 4), (300, 2)]


def test_t8_without_preference_batches_grow_to_the_maximum() -> None:
    line = Timeline(batcher((), 8), [100]).send(0, "x")
    for at in range(1, 21):
        line.send(at, f"r{at}")
    assert line.play().sizes == [(0, 1), (100, 8), (200, 8), (300, 4)]


def test_t9_a_batch_that_waits_for_a_busy_instance_keeps_growing() -> None:
    line = Timeline(batcher((8,), 8, 10), [50])
    line.send(0, "x", 8).send(5, "a").send(16, "b").send(17, "c").play()
    assert line.batches == [(0, "x"), (50, "a b c")]


def test_t10_a_delayed_request_no_longer_counts_first() -> None:
    policy = QueuePolicySettings("DELAY", default_timeout_seconds=100)
    line = Timeline(batcher((4, 8), 32, 10_000, policy=policy))
    line.send(0, "a").send(200, "b", 2).send(200, "c", 2).play()
    assert line.batches == [(200, "b c"), (10_000, "a")]
    assert line.refused == []


def test_t11_a_rejected_request_is_answered_at_its_instant() -> None:
    policy = QueuePolicySettings("REJECT", default_timeout_seconds=100)
    line = Timeline(batcher((4, 8), 32, 10_000, policy=policy))
    line.send(0, "a").send(200, "b", 2).send(200, "c", 2).play()
    assert line.refused == [(100, "a", RefusalCause.TIMEOUT)]
    assert line.batches == [(200, "b c")]


def test_t12_a_request_may_shorten_its_timeout() -> None:
    policy = QueuePolicySettings("REJECT", 1000, allow_timeout_override=True)
    line = Timeline(batcher((4, 8), 32, 10_000, policy=policy))
    line.send(0, "a", timeout=100).send(200, "b", 2).send(200, "c", 2).play()
    assert line.refused == [(100, "a", RefusalCause.TIMEOUT)]
    assert line.batches == [(200, "b c")]


def test_t13_a_request_cannot_lengthen_its_timeout() -> None:
    policy = QueuePolicySettings("REJECT", 1000, allow_timeout_override=True)
    line = Timeline(batcher((4, 8), 32, 10_000, policy=policy))
    line.send(0, "a", timeout=10_000).send(200, "b", 2).send(200, "c", 2).play()
    assert line.refused == [(1000, "a", RefusalCause.TIMEOUT)]
    assert line.batches == [(1000, "b c")]


def test_t14_a_higher_level_goes_first_and_takes_lower_ones_along() -> None:
    line = Timeline(batcher((4, 8), 32, 10_000, levels=2))
    line.send(0, "a", 2).send(100, "b", 1).send(300, "c", 2, level=1).play()
    assert line.batches == [(300, "c a"), (10_100, "b")]


def test_t15_levels_with_different_timeout_actions() -> None:
    policies = {
        1: QueuePolicySettings("DELAY", 11_000, allow_timeout_override=True),
        2: QueuePolicySettings("REJECT", 11_000, allow_timeout_override=True),
    }
    line = Timeline(batcher((4, 8, 32), 32, 10_000, levels=2, level_policies=policies))
    line.send(0, "p1a", 2, level=1).send(200, "p1b", 1, level=1, timeout=1000)
    line.send(400, "p1c", 2, level=1).send(600, "p2a", 2, level=2, timeout=2000)
    line.send(800, "p2b", 3, level=2).send(1000, "p2c", 6, level=2).play()
    assert line.batches == [(1200, "p1a p1c"), (2600, "p1b p2b"), (11_000, "p2c")]
    assert line.refused == [(2600, "p2a", RefusalCause.TIMEOUT)]


def test_t16_a_full_queue_refuses_at_once() -> None:
    policy = QueuePolicySettings(max_queue_size=8)
    line = Timeline(batcher((4, 8), 32, policy=policy), [5000]).send(0, "x", 8)
    for number in range(10):
        line.send(500, f"r{number}")
    line.play()
    assert line.sizes == [(0, 8), (5000, 8)]
    assert line.refused == [
        (500, "r8", RefusalCause.QUEUE_FULL),
        (500, "r9", RefusalCause.QUEUE_FULL),
    ]


def test_t17_a_timeout_is_exact_though_the_instance_is_busy() -> None:
    """Triton sweeps a waiting queue every 500 ms, so its timeout may come that much later."""
    policy = QueuePolicySettings("REJECT", default_timeout_seconds=100)
    line = Timeline(batcher((), 8, policy=policy), [2000])
    line.send(0, "x").send(10, "a").send(700, "b").play()
    assert line.batches == [(0, "x")]
    assert line.refused == [(110, "a", RefusalCause.TIMEOUT), (800, "b", RefusalCause.TIMEOUT)]
