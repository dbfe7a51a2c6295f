"""Instances that come and go under sequences, by literal instants."""

from __future__ import annotations

from typing import Literal

import pytest

from actors.policy.sequencing import (
    DispatchSlots,
    SequencePolicy,
    SequenceTicket,
    sequence_policy,
)
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings

S, E, N = SequenceFlag.START, SequenceFlag.END, SequenceFlag.NONE
Strategy = Literal["direct", "oldest"]
STRATEGIES: tuple[Strategy, ...] = ("direct", "oldest")


def policy_of(strategy: Strategy, instances: int = 2) -> SequencePolicy:
    """One slot per instance, which has a grant to spend."""
    settings = SequenceSettings(
        max_batch_size=1,
        strategy=strategy,
        slots_per_instance=1,
        max_sequence_idle_seconds=10.0,
    )
    policy = sequence_policy(settings, range(instances))
    for instance in range(instances):
        policy.grant(instance)
    return policy


class Numbers:
    def __init__(self) -> None:
        self.last = 0

    def ticket(self, sequence: int, flags: SequenceFlag = N) -> SequenceTicket:
        self.last += 1
        return SequenceTicket(self.last, 0, 1, None, None, correlation_id=sequence, flags=flags)


def ran(policy: SequencePolicy, now: float) -> list[tuple[int, int]]:
    """(sequence, instance) of what is dispatched; it ends at once."""
    found: list[tuple[int, int]] = []
    for action in policy.step(now):
        assert isinstance(action, DispatchSlots)
        for place in action.places:
            assert isinstance(place.ticket.correlation_id, int)
            found.append((place.ticket.correlation_id, action.instance))
            policy.released(place.ticket.id, now, rescheduled=False)
        policy.grant(action.instance)
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_instance_is_vacated_at_once_and_once(strategy: Strategy) -> None:
    policy = policy_of(strategy)

    policy.retire(1)

    assert policy.vacated() == [1]
    assert policy.vacated() == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sequence_goes_on_where_it_lives_and_no_other_follows(strategy: Strategy) -> None:
    policy, numbers = policy_of(strategy), Numbers()
    for sequence in (1, 2):
        policy.submit(numbers.ticket(sequence, S), 0.0)
    places = dict(ran(policy, 0.0))
    assert sorted(places.values()) == [0, 1]

    policy.retire(places[2])
    assert policy.vacated() == []
    policy.submit(numbers.ticket(2), 1.0)
    policy.submit(numbers.ticket(3, S), 1.0)  # has to wait: the only other slot is taken
    assert ran(policy, 1.0) == [(2, places[2])]
    policy.submit(numbers.ticket(2, E), 2.0)
    assert ran(policy, 2.0) == [(2, places[2])]
    policy.step(2.0)
    assert policy.vacated() == [places[2]]
    policy.submit(numbers.ticket(1, E), 3.0)
    assert ran(policy, 3.0) == [(1, places[1])]
    assert ran(policy, 3.0) == [(3, places[1])]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sequence_that_falls_silent_vacates_its_instance(strategy: Strategy) -> None:
    policy, numbers = policy_of(strategy, instances=1), Numbers()
    policy.submit(numbers.ticket(1, S), 0.0)
    assert ran(policy, 0.0) == [(1, 0)]
    policy.step(0.0)
    policy.retire(0)

    assert policy.vacated() == []
    assert policy.next_wake == 10.0
    policy.step(10.0)
    assert policy.vacated() == [0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_new_instance_takes_whoever_waits(strategy: Strategy) -> None:
    policy, numbers = policy_of(strategy, instances=1), Numbers()
    for sequence in (1, 2):
        policy.submit(numbers.ticket(sequence, S), 0.0)
    assert ran(policy, 0.0) == [(1, 0)]

    policy.add(7, 1.0)
    assert ran(policy, 1.0) == []  # it has not said yet that it can take anything
    policy.grant(7)
    assert ran(policy, 1.0) == [(2, 7)]
