"""The oldest strategy, by literal times in milliseconds; numbers are those of its scenarios."""

from __future__ import annotations

from actors.policy.sequencing import OldestBatcher, SequenceRefusal, sequence_policy
from repo.model_config import SequenceSettings
from tests.policy.sequence_timeline import SequenceTimeline

R = SequenceRefusal


def oldest(
    max_batch: int = 4,
    *,
    candidates: int = 4,
    durations: list[float] | None = None,
    delay: float = 0.0,
    preferred: tuple[int, ...] = (),
    idle: float = 1_000_000.0,
) -> SequenceTimeline:
    durations = durations or [1.0]
    settings = SequenceSettings(
        max_batch_size=max_batch,
        strategy="oldest",
        slots_per_instance=candidates,
        max_sequence_idle_seconds=idle,
        max_queue_delay_seconds=delay,
        preferred_batch_sizes=preferred or (max_batch,),
    )
    policy = sequence_policy(settings, range(len(durations)))
    assert isinstance(policy, OldestBatcher)
    return SequenceTimeline(policy, durations, pads=False)


def test_56_candidates_are_batched_as_they_come() -> None:
    line = oldest(delay=5000.0)
    for sequence, name in enumerate("abcd", start=1):
        line.send_all(0, f"{name}1 {name}2 {name}3", sequence)
    line.send_all(20_000, "e1 e2 e3", 5).play()

    assert line.batches == [
        (0, "a1 b1 c1 d1"),
        (1, "a2 b2 c2 d2"),
        (2, "a3 b3 c3 d3"),
        (25_000, "e1"),
        (30_001, "e2"),
        (35_002, "e3"),
    ]


def test_57_requests_of_one_sequence_never_share_a_batch() -> None:
    line = oldest(durations=[10.0]).send_all(0, "a1 a2 a3", 1).play()

    assert line.batches == [(0, "a1"), (10, "a2"), (20, "a3")]


def test_58_the_next_owner_of_a_slot_waits_for_the_last_one_s_end() -> None:
    line = oldest(candidates=1, durations=[10.0, 10.0])
    line.send(0, "x", 8, "S").send(0, "y", 9, "S")  # one candidate on each instance
    line.send(11, "x2", 8, "E").send(12, "b1", 2, "S").send(15, "b2", 2, "E").play()

    assert [(ran.at, ran.names, ran.instance) for ran in line.ran] == [
        (0, "x", 0), (0, "y", 1), (11, "x2", 0), (21, "b1", 0), (31, "b2", 0),
    ]  # fmt: skip
    assert line.ran[-1].slots == (0,)


def test_a_sequence_beyond_the_candidates_waits() -> None:
    line = oldest(candidates=2, durations=[10.0])
    line.send(0, "a1", 1, "S").send(0, "b1", 2, "S").send(1, "c1", 3, "SE")
    line.send(20, "b2", 2, "E").play(100)

    assert line.batches == [(0, "a1 b1"), (20, "b2"), (30, "c1")]


def test_a_cancelled_head_takes_its_sequence_along() -> None:
    line = oldest(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "a2", 1).send(1, "a3", 1)
    line.cancel(2, "a2").send(3, "a4", 1).play()

    assert line.refused == [
        (2, "a2", R.CANCELLED), (2, "a3", R.CANCELLED), (3, "a4", R.NOT_STARTED),
    ]  # fmt: skip
    assert line.batches == [(0, "a1")]


def test_a_request_cancelled_inside_the_batcher_fails_alone() -> None:
    line = oldest(delay=50.0).send(0, "a1", 1, "S").send(1, "a2", 1).cancel(10, "a1").play(100)

    assert line.refused == [(10, "a1", R.CANCELLED)]
    assert line.batches == [(60, "a2")]


def test_a_deadline_inside_the_batcher_strikes_alone() -> None:
    line = oldest(delay=50.0).send(0, "a1", 1, "S", deadline=20).send(1, "a2", 1).play(100)

    assert line.refused == [(20, "a1", R.DEADLINE)]
    assert line.batches == [(70, "a2")]


def test_cancelling_what_executes_changes_nothing_here() -> None:
    line = oldest(durations=[10.0]).send(0, "a1", 1, "S").cancel(5, "a1").send(6, "a2", 1).play(50)

    assert line.batches == [(0, "a1"), (10, "a2")]
    assert not line.refused
    assert not line.policy.cancel(77, 50)


def test_preferred_sizes_and_the_delay_are_the_batcher_s() -> None:
    line = oldest(8, candidates=8, delay=10.0, preferred=(2,))
    for sequence in range(1, 4):
        line.send(0, f"s{sequence}", sequence, "S")
    line.play(100)

    assert line.batches == [(0, "s1 s2"), (10, "s3")]


def test_a_silent_candidate_gives_its_slot_up() -> None:
    line = oldest(candidates=1, idle=20.0).send(0, "a1", 1, "S").send(1, "b1", 2, "SE")
    line.send(30, "a2", 1).play()

    assert line.batches == [(0, "a1"), (20, "b1")]
    assert line.refused == [(30, "a2", R.NOT_STARTED)]


def test_a_timeout_limits_the_wait_in_the_backlog_here_too() -> None:
    line = oldest(candidates=1).send(0, "a1", 1, "S").send(1, "b1", 2, "S", timeout=5).play(100)

    assert line.refused == [(6, "b1", R.EXPIRED)]


def test_abandoning_hands_back_what_was_not_dispatched() -> None:
    line = oldest(candidates=2, delay=50.0).send(0, "a1", 1, "S").send(0, "a2", 1)
    line.send(0, "b1", 2, "S").send(0, "c1", 3, "S").play(0)

    assert line.policy.pending == 4
    assert sorted(str(ticket.work) for ticket in line.policy.abandon()) == ["a1", "a2", "b1", "c1"]
    assert line.policy.pending == 0
    assert line.policy.is_idle


def test_grants_are_asked_for_on_the_instance_that_needs_them() -> None:
    line = oldest(candidates=1, durations=[1.0, 1.0])
    assert sorted(line.policy.surrender()) == [0, 1]
    line.send(0, "a", 1, "S").send(5, "b", 2, "S").play(0)
    assert line.policy.instances_wanted == [0]
    line.policy.grant(0)
    line.play(5)
    assert line.batches == [(0, "a")]
    assert line.policy.instances_wanted == [1]
