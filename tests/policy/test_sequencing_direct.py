"""The direct strategy, by literal times in milliseconds; names follow the scenario they play."""

from __future__ import annotations

from typing import Any

import pytest

from actors.policy.sequencing import DirectBatcher, SequenceRefusal, sequence_policy
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings
from tests.policy.sequence_timeline import SequenceTimeline

R = SequenceRefusal


def direct(
    max_batch: int = 4,
    *,
    durations: list[float] | None = None,
    idle: float = 1_000_000.0,
    delay: float = 0.0,
    utilization: float = 0.0,
    **timeline: Any,
) -> SequenceTimeline:
    durations = durations or [1.0]
    settings = SequenceSettings(
        max_batch_size=max_batch,
        slots_per_instance=max_batch,
        max_sequence_idle_seconds=idle,
        max_queue_delay_seconds=delay,
        minimum_slot_utilization=utilization,
    )
    policy = sequence_policy(settings, range(len(durations)))
    assert isinstance(policy, DirectBatcher)
    return SequenceTimeline(policy, durations, **timeline)


def test_43_two_sequences_run_side_by_side() -> None:
    line = direct().send_all(0, "a1 a2 a3 a4", 987).send_all(0, "b1 b2 b3 b4", 988).play()

    assert line.batches == [(0, "a1 b1"), (1, "a2 b2"), (2, "a3 b3"), (3, "a4 b4")]
    assert line.sizes == {2: 4}


def test_44_short_sequences_in_high_slots_leave_no_padding_behind() -> None:
    line = direct().send_all(0, "a a a a", 1).send_all(0, "b b b b", 2)
    line.send_all(0, "c c", 3).send_all(0, "d d", 4).play()

    assert line.sizes == {4: 2, 2: 2}


def test_45_short_sequences_in_low_slots_are_padded() -> None:
    line = direct().send_all(0, "c c", 3).send_all(0, "d d", 4)
    line.send_all(0, "a a a a", 1).send_all(0, "b b b b", 2).play()

    assert [names for _, names in line.batches] == ["c d a b", "c d a b", "- - a b", "- - a b"]
    assert sum(len(ran.slots) for ran in line.ran) == 12


def test_46_requests_of_other_shapes_wait_while_their_places_are_padded() -> None:
    line = direct()
    for place, (name, shape) in enumerate(zip("abcd", (1, 1, 2, 3), strict=True)):
        for step in range(3):
            flags = ("S", "", "E")[step]
            line.send(0, f"{name}{step}", place + 1, flags, shape=shape)
    line.play()

    assert line.sizes == {4: 9}
    assert [names for _, names in line.batches[:4]] == [
        "a0 b0 - -", "a1 b1 - -", "a2 b2 - -", "- - c0 -",
    ]  # fmt: skip
    assert line.batches[-1][1] == "- - - d2"
    assert sum(len(ran.slots) for ran in line.ran) == 12


def test_47_what_no_sequence_can_be_is_refused_at_once() -> None:
    line = direct().send(0, "unstarted", 5).send(0, "two", 6, "S", size=2).send(0, "none", 0, "S")
    line.send(0, "empty", "", "S").send(0, "first", 7, "SE").send(0, "after", 7).play()

    assert line.refused == [
        (0, "unstarted", R.NOT_STARTED),
        (0, "two", R.BATCHED),
        (0, "none", R.UNIDENTIFIED),
        (0, "empty", R.UNIDENTIFIED),
        (0, "after", R.NOT_STARTED),
    ]
    assert line.batches == [(0, "first")]


def test_48_a_sequence_started_anew_goes_on_in_its_slot() -> None:
    line = direct()
    for name, sequence in zip("abcd", (1, 2, 3, 4), strict=True):
        for step, flags in enumerate(("S", "", "S", "E")):
            line.send(0, f"{name}{step}", sequence, flags)
    line.play()

    assert line.sizes == {4: 4}
    assert line.conflicts == [1, 2, 3, 4]
    # The model sees the START, and so begins anew.
    assert [flags for name, _, flags in line.seen if name.startswith("a")] == [
        SequenceFlag.START, SequenceFlag.NONE, SequenceFlag.START, SequenceFlag.END,
    ]  # fmt: skip


def test_49_the_first_of_the_backlog_rides_the_batch_after_the_end() -> None:
    line = direct(durations=[10.0])
    for sequence in (1, 2, 3, 4):
        line.send(0, f"s{sequence}", sequence, "S")
    line.send(1, "e1", 1, "S").send(1, "e2", 5, "S").send(2, "end1", 1, "E")
    line.send(12, "s2'", 2).play(40)

    assert line.batches == [
        (0, "s1 s2 s3 s4"),
        (10, "e1"),
        (20, "end1 s2'"),
        (30, "e2"),
    ]
    assert line.ran[-1].slots == (0,)


def test_50_a_silent_sequence_gives_its_slot_up() -> None:
    line = direct(1, idle=5000.0).send(0, "a1", 1, "S").send(100, "b1", 2, "S")
    line.send(6000, "a2", 1).play(7000)

    assert line.batches == [(0, "a1"), (5000, "b1")]
    assert line.refused == [(6000, "a2", R.NOT_STARTED)]


def test_what_a_silent_sequence_has_queued_still_runs() -> None:
    line = direct(1, durations=[4000.0], idle=5000.0)
    line.send(0, "a1", 1, "S").send(1, "a2", 1).send(2, "a3", 1).send(3, "b1", 2, "S").play(20_000)

    assert line.batches == [(0, "a1"), (4000, "a2"), (8000, "a3"), (12_000, "b1")]


def test_every_request_puts_the_end_of_patience_off() -> None:
    line = direct(1, idle=5.0).send(0, "a1", 1, "S").send(4, "a2", 1).send(8, "a3", 1)
    line.send(14, "late", 1).play()

    assert [names for _, names in line.batches] == ["a1", "a2", "a3"]
    assert line.refused == [(14, "late", R.NOT_STARTED)]


def test_a_sequence_is_not_silent_while_it_waits_for_a_slot() -> None:
    line = direct(1, durations=[8.0], idle=10.0).send(0, "a1", 1, "S").send(1, "b1", 2, "S")
    line.send(9, "a2", 1).send(17, "a3", 1, "E").send(26, "b2", 2, "E").play()

    assert line.batches == [(0, "a1"), (9, "a2"), (17, "a3"), (25, "b1"), (33, "b2")]
    assert not line.refused


@pytest.mark.parametrize(
    ("utilization", "ready", "runs_at"),
    [(0.0, 2, 0), (0.5, 2, 0), (0.5, 1, 3000), (1.0, 2, 3000), (1.0, 4, 0)],
)
def test_51_enough_slots_must_be_ready_or_the_oldest_late(
    utilization: float, ready: int, runs_at: float
) -> None:
    line = direct(delay=3000.0, utilization=utilization)
    for sequence in range(1, ready + 1):
        line.send(0, f"s{sequence}", sequence, "S")
    line.play()

    assert [(ran.at, ran.size) for ran in line.ran] == [(runs_at, ready)]
    reason = "delay" if runs_at else "full" if utilization else "immediate"
    assert line.ran[0].closed_by == reason


def test_51_one_that_comes_meanwhile_fills_the_batch() -> None:
    line = direct(delay=3000.0, utilization=0.5).send(0, "a", 1, "S").send(1000, "b", 2, "S").play()

    assert line.batches == [(1000, "a b")]


def test_the_delay_alone_does_not_hold_a_batch_back() -> None:
    assert direct(delay=3000.0).send(0, "a", 1, "S").play().batches == [(0, "a")]


def test_52_a_sequence_waits_for_a_slot_no_longer_than_it_wants() -> None:
    line = direct(1, durations=[5000.0]).send(0, "a1", 1, "S", timeout=3000)
    line.send(0, "b1", 2, "S", timeout=3000).send(100, "b2", 2).send(4000, "b3", 2)
    line.send(4000, "a2", 1, "E", timeout=10).play()

    assert line.refused == [
        (3000, "b1", R.EXPIRED), (3000, "b2", R.EXPIRED), (4000, "b3", R.NOT_STARTED),
    ]  # fmt: skip
    assert line.batches == [(0, "a1"), (5000, "a2")]


def test_the_most_impatient_request_speaks_for_its_sequence() -> None:
    line = direct(1, durations=[50.0]).send(0, "a", 1, "S")
    line.send(0, "b1", 2, "S", timeout=30).send(5, "b2", 2, timeout=10).play(20)

    assert line.refused == [(15, "b1", R.EXPIRED), (15, "b2", R.EXPIRED)]


def test_53_a_cancelled_head_takes_its_sequence_along() -> None:
    line = direct(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "a2", 1).send(1, "a3", 1)
    line.send(2, "b1", 2, "SE").cancel(3, "a2").send(4, "a4", 1).play()

    assert line.refused == [
        (3, "a2", R.CANCELLED), (3, "a3", R.CANCELLED), (4, "a4", R.NOT_STARTED),
    ]  # fmt: skip
    assert line.batches == [(0, "a1"), (10, "b1")]


def test_what_stands_before_a_cancelled_request_still_runs() -> None:
    line = direct(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "a2", 1).send(1, "a3", 1)
    line.send(1, "a4", 1).cancel(2, "a3").play()

    assert line.batches == [(0, "a1"), (10, "a2")]
    assert line.refused == [(10, "a3", R.CANCELLED), (10, "a4", R.CANCELLED)]


def test_54_a_cancelled_request_in_the_backlog_takes_its_sequence_along() -> None:
    line = direct(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "b1", 2, "S").send(1, "b2", 2)
    line.send(1, "c1", 3, "SE").cancel(2, "b2").send(3, "a2", 1, "E").play()

    assert line.refused == [(10, "b1", R.CANCELLED), (10, "b2", R.CANCELLED)]
    assert line.batches == [(0, "a1"), (10, "a2"), (20, "c1")]


def test_slot_zero_of_every_instance_comes_first() -> None:
    line = direct(2, durations=[1.0, 1.0])
    for sequence in range(1, 5):
        line.send(0, f"s{sequence}", sequence, "S")
    line.play(0)

    assert [(ran.instance, ran.names) for ran in line.ran] == [(0, "s1 s3"), (1, "s2 s4")]


def test_short_sequences_spread_over_the_instances() -> None:
    line = direct(1, durations=[10.0, 10.0])
    for sequence in range(1, 5):
        line.send(sequence, f"s{sequence}", sequence, "SE")
    line.play()

    assert [(ran.at, ran.names, ran.instance) for ran in line.ran] == [
        (1, "s1", 0), (2, "s2", 1), (11, "s3", 0), (12, "s4", 1),
    ]  # fmt: skip


def test_a_freed_low_slot_is_taken_before_a_high_one() -> None:
    line = direct(4).send(0, "a", 1, "S").send(0, "b", 2, "S").send(0, "c", 3, "S")
    line.send(5, "a2", 1, "E").send(10, "d", 4, "S").play()

    assert line.ran[-1].slots == (0,)


def test_five_and_its_name_are_two_sequences() -> None:
    line = direct().send(0, "number", 5, "S").send(0, "word", "5", "S").send(1, "word2", "5")
    line.play(5)

    assert line.batches == [(0, "number word"), (1, "- word2")]


def test_an_id_can_start_again_while_its_last_request_waits() -> None:
    line = direct(2, durations=[10.0]).send(0, "x", 9, "SE").send(1, "a1", 1, "S")
    line.send(2, "a2", 1, "E").send(3, "new", 1, "S").play(15)

    # The new sequence has a slot of its own; the old one keeps what it had.
    assert [(ran.at, ran.names, ran.slots) for ran in line.ran[1:]] == [(10, "a1 new", (0, 1))]


def test_a_caller_s_deadline_strikes_at_its_instant() -> None:
    line = direct(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "a2", 1, deadline=5)
    line.send(1, "a3", 1).send(2, "b1", 2, "S", deadline=6).send(2, "c1", 3, "S").play(12)

    assert line.refused == [
        (5, "a2", R.DEADLINE),
        (5, "a3", R.CANCELLED),  # what follows one that gave way at the head
        (6, "b1", R.DEADLINE),
    ]
    assert line.batches == [(0, "a1"), (10, "c1")]


def test_a_request_past_its_deadline_never_gets_in() -> None:
    line = direct().send(3, "late", 1, "S", deadline=3).play()

    assert line.refused == [(3, "late", R.DEADLINE)]
    assert line.policy.is_idle


def test_draining_lets_open_sequences_go_on_and_no_other_begin() -> None:
    line = direct(2, durations=[10.0]).send(0, "a1", 1, "S").play(0)
    line.policy.drain()
    line.send(1, "b1", 2, "S").send(2, "a2", 1, "E").send(3, "again", 1, "S").play()

    assert line.refused == [(1, "b1", R.STOPPING), (3, "again", R.STOPPING)]
    assert line.batches == [(0, "a1"), (10, "a2")]
    assert line.policy.is_idle


def test_abandoning_hands_back_everything_that_waits() -> None:
    line = direct(1, durations=[10.0]).send(0, "a1", 1, "S").send(1, "a2", 1).send(1, "b", 2, "S")
    line.play(1)

    assert [ticket.work for ticket in line.policy.abandon()] == ["a2", "b"]
    assert line.policy.pending == 0


def test_grants_are_wanted_only_for_what_could_leave_now() -> None:
    line = direct(2, durations=[1.0, 1.0], delay=10.0, utilization=1.0)
    assert sorted(line.policy.surrender()) == [0, 1]
    line.send(0, "a", 1, "S").play(0)
    assert line.policy.instances_wanted == []
    line.play(10)
    assert line.policy.instances_wanted == [0]
    line.policy.grant(0)
    line.play(11)
    assert line.ran[-1].names == "a"
    assert line.policy.instances_wanted == []
