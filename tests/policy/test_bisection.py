"""Blame for a dead worker, by halving the batch that killed it."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.policy.bisection import DEATH_LIMIT, EXECUTION_LIMIT, Bisection


def search(count: int, poisoned: set[int]) -> tuple[set[int], set[int], int, int]:
    """Who is cleared, who is blamed, how many workers died, the most executions of one request."""
    executions = Counter(range(count))
    cleared: set[int] = set()
    blamed: set[int] = set()
    deaths = 1
    bisection = Bisection(range(count))
    while part := bisection.next_part():
        executions.update(part)
        if not poisoned.intersection(part):
            cleared.update(part)
            continue
        deaths += 1
        if bisection.died():
            blamed.update(part)
    return cleared, blamed, deaths, max(executions.values())


@pytest.mark.parametrize("count", [2, 3, 8, 100, 128])
def test_one_poisoned_request_is_found_wherever_it_is(count: int) -> None:
    for place in range(count):
        cleared, blamed, deaths, executions = search(count, {place})
        assert blamed == {place}
        assert cleared == set(range(count)) - {place}
        assert deaths == executions <= 1 + (count - 1).bit_length()


@pytest.mark.parametrize("count", [2, 8, 16, 128, 129, 1000])
def test_however_many_are_poisoned_the_search_has_an_end(count: int) -> None:
    for poisoned in ({count - 1}, set(range(count)), {0, count - 1}, set(range(0, count, 5))):
        cleared, blamed, deaths, executions = search(count, poisoned)
        assert not cleared & poisoned
        assert blamed <= poisoned
        assert deaths <= DEATH_LIMIT
        assert executions <= EXECUTION_LIMIT


def test_a_part_that_may_not_be_halved_any_more_fails_as_it_is() -> None:
    cleared, blamed, deaths, _ = search(256, {255})
    assert cleared == set(range(254))
    assert blamed == set()
    assert deaths == 8


def test_two_poisoned_requests_of_a_batch_of_eight() -> None:
    cleared, blamed, deaths, _ = search(8, {2, 7})
    assert blamed == {2, 7}
    assert cleared == {0, 1, 3, 4, 5, 6}
    assert deaths == 7


def test_who_was_answered_before_the_death_is_no_suspect() -> None:
    bisection = Bisection(range(8))
    assert bisection.next_part() == [0, 1, 2, 3]
    assert not bisection.died({0, 1, 3})
    assert bisection.next_part() == [2]
    assert bisection.died()
    assert bisection.next_part() == [4, 5, 6, 7]
    assert bisection.next_part() == []


def test_without_suspects_nothing_is_run() -> None:
    assert Bisection([]).next_part() == []
