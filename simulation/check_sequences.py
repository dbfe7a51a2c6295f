"""Checkers of sequences: order, places, and what is remembered from one request to the next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from protocol.status import ServerError, StatusCode
from simulation.ledger import Answer, Asked, Ledger, Life, Ran

Key = tuple[int, int | str]
"""A sequence, in one life of its model; simulated ones never use an id again."""


def sequences_keep_their_order(ledger: Ledger) -> Iterator[str]:
    """Requests of a sequence are executed as they were asked, one after the other."""
    for runs in _by_sequence(ledger).values():
        for (earlier, before), (later, after) in itertools.pairwise(runs):
            if earlier is later:
                yield f"{before.name} and {after.name} of one sequence ran together"
            elif later.order < earlier.ended_order:
                yield f"{after.name} began before {before.name} of its sequence had ended"
            if after.order < before.order:
                yield f"{after.name} ran after {before.name} of its sequence, which came later"


def sequences_stay_where_they_are(ledger: Ledger) -> Iterator[str]:
    """A sequence never changes its instance, nor, with the direct strategy, its place."""
    for runs in _by_sequence(ledger).values():
        instances = {ran.instance for ran, _ in runs}
        if len(instances) > 1:
            yield f"the sequence of {runs[0][1].name} ran on {sorted(instances)}"
        places = {_place(ran, asked) for ran, asked in runs}
        if _is_direct(runs[0][0].life) and len(places) > 1:
            yield f"the sequence of {runs[0][1].name} stood at the places {sorted(places)}"


def slots_have_one_owner(ledger: Ledger) -> Iterator[str]:
    """From its first request to its last a sequence shares its slot with nobody."""
    # By order numbers: within one instant a slot may change its owner.
    spans: dict[tuple[int, str], list[tuple[float, float, int, str]]] = {}
    for runs in _by_sequence(ledger).values():
        first, last = runs[0][0], runs[-1][0]
        place = _place(*runs[0]) if _is_direct(first.life) else -1
        spans.setdefault((id(first.life), first.instance), []).append(
            (first.order, last.ended_order, place, runs[0][1].name)
        )
    for (_, instance), owners in spans.items():
        life = next(ran.life for ran in ledger.ran if ran.instance == instance)
        assert life.sequences is not None, "only requests of sequences are looked at"
        for at, _, place, name in owners:
            live = [one for one in owners if one[0] <= at < one[1]]
            if len(live) > life.sequences.slots_per_instance:
                yield f"{len(live)} sequences are live on {instance} with {name}"
            shared = [one[3] for one in live if one[2] == place and one[3] != name]
            if place >= 0 and shared:
                yield f"the sequences of {name} and {shared[0]} share place {place} of {instance}"


def states_are_nobody_else_s(ledger: Ledger) -> Iterator[str]:
    """What a sequence is told stands on its own requests, on all that was answered before."""
    for runs in _by_sequence(ledger).values():
        own = 0
        for _, asked in runs:
            own |= asked.tag
        before = 0
        for asked in dict.fromkeys(asked for _, asked in runs):
            if not asked.heard:
                continue
            total = asked.heard[0]["SUM"]
            if asked.turns > 1 or (asked.life is not None and asked.life.is_iterative):
                if total != asked.turns * asked.tag:
                    yield f"{asked.name} was told {total}, not {asked.turns} times {asked.tag}"
                continue
            if total & ~own:
                yield f"{asked.name} stands on requests of another sequence: {total:b}"
            if not total & asked.tag or total >= 2 * asked.tag:
                yield f"{asked.name} was told {total:b}, its own number is {asked.tag:b}"
            if before & ~total:
                yield f"{asked.name} stands on less than the request before it: {total:b}"
            before = total


def sequence_error_is_true(
    ledger: Ledger, asked: Asked, answer: Answer, error: ServerError
) -> bool:
    """Whether what the error says of a sequence is what happened."""
    assert asked.life is not None
    assert asked.life.sequences is not None
    companions = [
        one
        for one in ledger.asked.values()
        if one.sequence == asked.sequence and one.model == asked.model
    ]
    if error.status is StatusCode.CANCELLED:
        # Whoever gives up takes along what follows it.
        return any(min(one.cancelled_at, one.deadline_at) <= answer.at for one in companions)
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        return asked.deadline_at <= answer.at
    if error.message == "timeout of the corresponding sequence has been expired":
        limits = [one.at + one.timeout_seconds for one in companions if one.timeout_seconds]
        return asked.ran is None and min(limits, default=math.inf) <= answer.at
    if error.message.endswith("must specify the START flag on the first request of the sequence"):
        if asked.life.is_iterative:
            return answer.at - asked.at >= asked.life.sequences.max_sequence_idle_seconds
        earlier = [one for one in companions if one.order < asked.order]
        silence = asked.at - max((one.at for one in earlier), default=-math.inf)
        return (
            any(one.error is not None or one.cancelled_at < math.inf for one in earlier)
            or any(one.life is not asked.life for one in earlier)
            or silence >= asked.life.sequences.max_sequence_idle_seconds
        )
    if error.message.endswith("has stopped accepting new inference requests"):
        return asked.life.told_to_end_at <= answer.at
    return asked.ran is not None and asked.name in asked.ran.failed


def _by_sequence(ledger: Ledger) -> dict[Key, Sequence[tuple[Ran, Asked]]]:
    """What ran of each sequence, in the order of the executions."""
    found: dict[Key, list[tuple[Ran, Asked]]] = {}
    for ran in ledger.ran:
        if not ran.life.has_sequences:
            continue
        for name in ran.names:
            asked = ledger.asked.get(name)
            if asked is not None:
                found.setdefault((id(ran.life), asked.sequence), []).append((ran, asked))
    return dict(found)


def _is_direct(life: Life) -> bool:
    return life.sequences is not None and life.sequences.strategy == "direct"


def _place(ran: Ran, asked: Asked) -> int:
    return ran.places[ran.names.index(asked.name)]
