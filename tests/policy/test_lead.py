"""How far a scheduler may be ahead of an instance."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.lead import LEAD_SECONDS, LEAST, MOST, Lead


def test_a_slow_instance_holds_what_it_runs_and_the_next_one() -> None:
    lead = Lead(MOST)
    assert lead.begin() == 2
    assert [lead.ended(0.005) for _ in range(4)] == [1, 1, 1, 1]


def test_an_instance_that_takes_one_batch_at_a_time_never_holds_two() -> None:
    lead = Lead(1)
    assert lead.begin() == 1
    assert [lead.ended(0.0) for _ in range(4)] == [1, 1, 1, 1]


def test_short_executions_let_it_hold_more_one_by_one() -> None:
    lead = Lead(MOST)
    lead.begin()
    assert [lead.ended(50e-6) for _ in range(8)] == [2, 2, 2, 2, 2, 2, 1, 1]


def test_it_holds_no_more_than_a_moments_work() -> None:
    lead = Lead(MOST)
    lead.begin()
    assert [lead.ended(250e-6) for _ in range(4)] == [2, 2, 1, 1], "four of them are the moment"


def test_a_long_execution_gives_nothing_back_until_it_holds_little() -> None:
    lead = Lead(4)
    lead.begin()
    assert [lead.ended(0.0) for _ in range(2)] == [2, 2]
    assert [lead.ended(0.01) for _ in range(4)] == [0, 0, 1, 1]


def test_a_failed_execution_counts_as_a_long_one() -> None:
    lead = Lead(4)
    lead.begin()
    lead.ended(0.0)
    assert lead.ended(math.inf) == 0
    assert lead.ended(math.inf) == 1


@given(
    st.integers(1, 12),
    st.lists(st.floats(0.0, 0.01) | st.just(math.inf), max_size=60),
)
def test_it_always_holds_at_least_one_and_at_most_what_it_takes(
    most: int, seconds: list[float]
) -> None:
    lead = Lead(most)
    out = lead.begin()
    for each in seconds:
        out += lead.ended(each) - 1
        assert 1 <= out <= most
        assert out >= min(most, LEAST), "it is never left without its next batch"


@pytest.mark.parametrize("seconds", [LEAD_SECONDS / 2, LEAD_SECONDS, 1.0])
def test_the_least_is_given_however_long_it_takes(seconds: float) -> None:
    lead = Lead(MOST)
    lead.begin()
    assert lead.ended(seconds) == 1
