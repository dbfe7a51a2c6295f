"""Deadlines by number: who is told, when, and that nothing is kept for nobody."""

from __future__ import annotations

import math

from actors.policy.alarms import Alarms


def test_the_earliest_is_told_first_and_once() -> None:
    open_requests = {1, 2, 3}
    alarms = Alarms(open_requests)
    assert alarms.next_at == math.inf
    alarms.set(3.0, 1)
    alarms.set(1.0, 2)
    alarms.set(2.0, 3)
    assert alarms.next_at == 1.0
    assert list(alarms.due(0.5)) == []
    assert list(alarms.due(2.0)) == [2, 3]
    assert list(alarms.due(2.0)) == []
    assert alarms.next_at == 3.0


def test_whoever_has_ended_is_passed_over() -> None:
    open_requests = {1, 2}
    alarms = Alarms(open_requests)
    alarms.set(1.0, 1)
    alarms.set(1.0, 2)
    open_requests.discard(1)
    assert list(alarms.due(1.0)) == [2]


def test_a_request_that_ends_while_others_are_told_is_passed_over() -> None:
    open_requests = {1, 2}
    alarms = Alarms(open_requests)
    alarms.set(1.0, 1)
    alarms.set(2.0, 2)
    told = []
    for number in alarms.due(5.0):
        told.append(number)
        open_requests.clear()
    assert told == [1]


def test_far_deadlines_of_requests_that_have_ended_do_not_pile_up() -> None:
    open_requests = {0}
    alarms = Alarms(open_requests)
    alarms.set(1e9, 0)
    for number in range(1, 10_000):
        open_requests.add(number)
        alarms.set(1e9, number)
        open_requests.discard(number)
    assert len(alarms) < 100
    assert list(alarms.due(1e9)) == [0], "who is open is not swept out"
