"""Custom batching: a model's own code closes batches early; times are milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from actors.policy.queueing import Ticket
from tests.policy.timeline import Timeline, batcher


@dataclass
class Volume:
    """At most `limit` units per batch; a request's size is what it takes."""

    limit: int
    open_states: int = 0
    closed_totals: list[int] = field(default_factory=list)

    def begin_batch(self) -> object:
        self.open_states += 1
        return [0]

    def include(self, state: object, ticket: Ticket) -> bool:
        assert isinstance(state, list)
        if state[0] + ticket.batch_size > self.limit:
            return False
        state[0] += ticket.batch_size
        return True

    def end_batch(self, state: object) -> None:
        assert isinstance(state, list)
        self.open_states -= 1
        self.closed_totals.append(state[0])


@dataclass
class Failing:
    """Raises in one of its methods."""

    where: str

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise ValueError("out of cheese")

    def begin_batch(self) -> object:
        self._fail("begin_batch")
        return self

    def include(self, state: object, ticket: Ticket) -> bool:
        self._fail("include")
        return True

    def end_batch(self, state: object) -> None:
        self._fail("end_batch")


def test_40_a_volume_strategy_keeps_every_batch_within_its_limit() -> None:
    line = Timeline(batcher((12,), 12, 10, strategy=Volume(3)))
    for number in range(12):
        line.send(number, f"r{number}")
    line.play()
    assert len(line.ran) >= 4
    assert max(ran.size for ran in line.ran) == 3
    assert [ran.closed_by for ran in line.ran[:3]] == ["custom"] * 3


def test_a_refused_request_closes_the_batch_and_starts_the_next() -> None:
    line = Timeline(batcher((8,), 8, 10, strategy=Volume(3)))
    line.send(0, "a", 2).send(1, "b", 2).send(2, "c", 1).play()
    assert line.batches == [(1, "a"), (11, "b c")]


def test_the_other_rules_still_apply() -> None:
    line = Timeline(batcher((2, 8), 8, 10, strategy=Volume(100)))
    line.send(0, "a").send(1, "b").send(2, "c", shape="X").send(3, "d", shape="Y").play()
    assert line.batches == [(1, "a b"), (3, "c"), (13, "d")]


def test_a_refusal_of_the_first_request_counts_as_inclusion() -> None:
    """Triton forms an empty batch and tries again, forever."""
    line = Timeline(batcher((8,), 8, 10, strategy=Volume(0))).send(0, "a").send(1, "b").play()
    assert line.batches == [(1, "a"), (11, "b")]


def test_a_growing_batch_is_known_to_the_strategy() -> None:
    """A scan that starts over gets a new state, into which the batch is counted again."""
    strategy = Volume(3)
    line = Timeline(batcher((), 8, strategy=strategy), [100]).send(0, "x")
    for at in range(1, 6):
        line.send(at, f"r{at}")
    line.play()
    assert line.batches == [(0, "x"), (100, "r1 r2 r3"), (200, "r4 r5")]
    assert strategy.open_states == 0


def test_batches_of_a_strategy_never_merge() -> None:
    line = Timeline(batcher((8,), 8, 10, strategy=Volume(2)), [100]).send(0, "x", 8)
    line.send(1, "a", 2).send(2, "b", 2).play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]


@pytest.mark.parametrize("where", ["begin_batch", "include"])
def test_a_failing_strategy_is_reported_and_refuses_everything(where: str) -> None:
    line = Timeline(batcher((8,), 8, 10, strategy=Failing(where)))
    line.send(0, "a").send(0, "b").play()
    assert line.batches == [(0, "a"), (10, "b")]
    assert f"batch strategy failed in {where}: out of cheese" in line.reports


def test_a_strategy_that_fails_at_the_end_is_reported_and_its_batch_leaves() -> None:
    line = Timeline(batcher((), 8, strategy=Failing("end_batch"))).send(0, "a").play()
    assert line.batches == [(0, "a")]
    assert line.reports == ["batch strategy failed in end_batch: out of cheese"]
