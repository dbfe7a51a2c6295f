"""Iterative sequences: requests that their model wants to see again; with both strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from actors.policy.sequencing import SequenceRefusal, sequence_policy
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings
from tests.policy.sequence_timeline import SequenceTimeline

R = SequenceRefusal
Strategy = Literal["direct", "oldest"]

both = pytest.mark.parametrize("strategy", ["direct", "oldest"])


def iterative(
    strategy: Strategy,
    comes_back: Callable[[str, int], bool],
    *,
    slots: int = 4,
    duration: float = 10.0,
    idle: float = 1_000_000.0,
) -> SequenceTimeline:
    settings = SequenceSettings(
        max_batch_size=slots,
        strategy=strategy,
        slots_per_instance=slots,
        iterative=True,
        max_sequence_idle_seconds=idle,
    )
    if strategy == "oldest":
        settings = replace(settings, preferred_batch_sizes=(slots,))
    return SequenceTimeline(
        sequence_policy(settings, [0]),
        [duration],
        comes_back=comes_back,
        pads=strategy == "direct",
    )


def times(wanted: int) -> Callable[[str, int], bool]:
    return lambda _, count: count < wanted


@both
def test_a_request_comes_back_as_one_in_the_middle_of_its_sequence(strategy: Strategy) -> None:
    line = iterative(strategy, times(3)).send(0, "a", 0).play()

    assert line.batches == [(0, "a"), (10, "a"), (20, "a")]
    assert line.seen == [
        ("a", 1, SequenceFlag.START), ("a", 1, SequenceFlag.NONE), ("a", 1, SequenceFlag.NONE),
    ]  # fmt: skip
    assert line.policy.is_idle


@both
def test_requests_at_different_iterations_run_together(strategy: Strategy) -> None:
    line = iterative(strategy, times(3)).send(0, "a", 0).send(10, "b", 0).play()

    assert [set(names.split()) - {"-"} for _, names in line.batches] == [
        {"a"}, {"a", "b"}, {"a", "b"}, {"b"},
    ]  # fmt: skip
    assert {(name, number) for name, number, _ in line.seen} == {("a", 1), ("b", 2)}


@both
def test_its_last_iteration_frees_the_slot(strategy: Strategy) -> None:
    line = iterative(strategy, times(2), slots=1).send(0, "a", 0).send(1, "b", 0).play()

    assert line.batches == [(0, "a"), (10, "a"), (20, "b"), (30, "b")]


@both
def test_61_one_whose_sequence_was_given_up_meanwhile_cannot_come_back(strategy: Strategy) -> None:
    line = iterative(strategy, times(2), slots=1, duration=500.0, idle=200.0).send(0, "a", 0)
    line.send(100, "b", 0).play()

    assert line.refused == [(500, "a", R.NOT_STARTED), (1000, "b", R.NOT_STARTED)]
    assert line.batches == [(0, "a"), (500, "b")]
    assert line.policy.is_idle


@both
def test_it_does_not_join_another_sequence_that_took_its_id(strategy: Strategy) -> None:
    line = iterative(strategy, lambda name, count: name == "a" and count < 2, idle=6.0)
    line.send(0, "a", 7, "S").send(8, "other", 7, "S").play()

    assert line.refused == [(10, "a", R.NOT_STARTED)]
    assert line.batches == [(0, "a"), (10, "other")]


@both
def test_a_cancelled_request_comes_back_to_be_cancelled(strategy: Strategy) -> None:
    line = iterative(strategy, times(9), slots=1).send(0, "a", 0).send(1, "b", 0)
    line.cancel(5, "a").cancel(15, "b").play()

    assert line.refused == [(10, "a", R.CANCELLED), (20, "b", R.CANCELLED)]
    assert line.batches == [(0, "a"), (10, "b")]


@both
def test_a_number_that_a_client_uses_is_not_given_away(strategy: Strategy) -> None:
    line = iterative(strategy, times(2)).send(0, "theirs", 1, "S").send(0, "ours", 0).play()

    assert {(name, number) for name, number, _ in line.seen} == {("theirs", 1), ("ours", 2)}


@both
def test_a_drained_model_finishes_what_it_has(strategy: Strategy) -> None:
    line = iterative(strategy, times(3)).send(0, "a", 0).play(0)
    line.policy.drain()
    assert not line.policy.is_idle
    line.send(1, "late", 0).play()

    assert line.refused == [(1, "late", R.STOPPING)]
    assert [names for _, names in line.batches] == ["a", "a", "a"]
    assert line.policy.is_idle


def test_a_request_cancelled_inside_the_oldest_s_batcher_frees_its_slot() -> None:
    settings = SequenceSettings(
        max_batch_size=2,
        strategy="oldest",
        slots_per_instance=1,
        iterative=True,
        max_queue_delay_seconds=50.0,
        preferred_batch_sizes=(2,),
        max_sequence_idle_seconds=1e6,
    )
    line = SequenceTimeline(sequence_policy(settings, [0]), pads=False)
    line.send(0, "a", 0).send(1, "b", 0).cancel(10, "a").play()

    assert line.refused == [(10, "a", R.CANCELLED)]
    assert line.batches == [(60, "b")]
