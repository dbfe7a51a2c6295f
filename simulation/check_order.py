"""Checkers of order: who goes first, and whose response leaves first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulation.ledger import Asked, Ledger

Rank = tuple[int, bool, float, int]


def nobody_overtakes(ledger: Ledger) -> Iterator[str]:
    """A batch is a prefix of the queue in scan order.

    Scan order is: by level, in each level the live ones by arrival, then the delayed ones by the
    instant at which their timeout struck. This holds priority levels and FIFO at once. What comes
    or goes at the very instant of the dispatch may do so before or after it.
    """
    for ran in ledger.ran:
        members = [ledger.asked[name] for name in ran.names if name in ledger.asked]
        if not members or ran.life.is_cached or ran.life.has_sequences:
            continue
        ranks = [_rank(member, ran.at) for member in members]
        if ranks != sorted(ranks) and all(member.at < ran.at for member in members):
            yield f"{ran.names} ran at {ran.at} in another order than they stood in"
        last = max(ranks)
        for other in ledger.asked.values():
            if (
                other.life is ran.life
                and other.at < ran.at < other.left_at
                and _rank(other, ran.at) < last
            ):
                yield f"{ran.names[-1]} ran at {ran.at} before {other.name}"


def _rank(asked: Asked, at: float) -> Rank:
    """Where a request stands in the queue, when looked at at this instant."""
    assert asked.life is not None
    expires_at = math.inf
    if asked.life.policy_of(asked.level).timeout_action == "DELAY":
        expires_at = asked.expires_at
    if expires_at <= at:
        return (asked.level, True, expires_at, asked.order)
    return (asked.level, False, 0.0, asked.order)


def responses_keep_the_order_of_dispatch(ledger: Ledger) -> Iterator[str]:
    """With `preserve_ordering` nobody hears the end before those who were dispatched earlier."""
    for life in ledger.lives:
        if not (life.is_dynamic and life.batching.preserve_ordering):
            continue
        latest = 0  # order number of the last final reply of everything dispatched before
        pending: list[int] = []
        previous_at = -math.inf
        for ran in ledger.ran:
            if ran.life is not life:
                continue
            if ran.at > previous_at:
                # Two batches of one instant may have been dispatched in either order.
                latest = max([latest, *pending])
                pending = []
                previous_at = ran.at
            within = 0
            for name in ran.names:
                asked = ledger.asked.get(name)
                if asked is None or asked.final is None:
                    continue
                order = asked.final.order
                if order < latest:
                    yield f"{name} was answered before somebody who was dispatched earlier"
                if order < within:
                    yield f"{name} was answered before somebody ahead of it in its batch"
                within = order
                pending.append(order)
