"""Checkers of time: deadlines, timeouts, cancellations, limits, and instances that stand idle.

Virtual time is exact, so what is due at an instant happens at that instant and not about then. If
the clock leapt over it, it happens where the clock landed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from simulation.ledger import Asked, Ledger, Life


def instants_are_kept(ledger: Ledger) -> Iterator[str]:
    """Nobody is executed at or after its limit, and nobody waits beyond it."""
    for asked in ledger.asked.values():
        if asked.life is None or asked.life.is_ensemble:
            continue  # an ensemble answers when its members have
        limits = [("deadline", asked.deadline_at)]
        # Who waits for an identical request is in no queue whose policy could time out.
        rejects = asked.life.policy_of(asked.level).timeout_action == "REJECT"
        if rejects and not asked.life.is_cached:
            limits.append(("timeout", asked.expires_at))
        for what, limit in limits:
            # A deadline that had passed when the request came is answered on arrival.
            due_at = ledger.due(max(limit, asked.at))
            if asked.ran is not None and asked.ran.at >= limit:
                yield f"{asked.name} was executed at {asked.ran.at}, its {what} was {limit}"
            elif asked.left_at > due_at:
                yield f"{asked.name} waited until {asked.left_at}, its {what} was {limit}"
        # In a sequence a cancelled request gives way when its turn comes.
        if asked.left_at > asked.cancelled_at and not asked.life.has_sequences:
            yield f"{asked.name} was cancelled at {asked.cancelled_at}, left at {asked.left_at}"


def queues_keep_their_limits(ledger: Ledger) -> Iterator[str]:
    """At no instant do more requests wait at a level than its `max_queue_size`."""
    waiting: dict[tuple[int, int], list[Asked]] = {}
    for asked in ledger.asked.values():
        life = asked.life
        # Before a cache, those who wait for an identical request are in no queue.
        if life is None or life.is_cached:
            continue
        if life.policy_of(asked.level).max_queue_size:
            waiting.setdefault((id(life), asked.level), []).append(asked)
    for (_, level), everyone in waiting.items():
        life = everyone[0].life
        assert life is not None
        limit = life.policy_of(level).max_queue_size
        for asked in everyone:
            count = sum(other.at <= asked.at < other.left_at for other in everyone)
            if count > limit:
                yield f"{count} wait at level {level} of {life.model} at {asked.at}"


def instances_are_not_idle(ledger: Ledger) -> Iterator[str]:
    """While a request has waited for the whole queue delay, every instance of its model is busy.

    This finds lost grants and missed wake-ups. Under the rate limiter instances idle on purpose,
    before a cache a request may wait for an identical one, and in a sequence for its predecessor.
    """
    if ledger.is_limited:
        return
    idle = {id(life): _idle_times(ledger, life) for life in ledger.lives}
    for asked in ledger.asked.values():
        life = asked.life
        if life is None or life.is_cached or life.has_sequences or life.is_ensemble:
            continue
        delay = life.batching.max_queue_delay_seconds if life.is_dynamic else 0.0
        late_at = ledger.due(asked.at + delay)
        left_at = min(asked.left_at, life.told_to_end_at)
        for name, since, until in idle[id(life)]:
            if max(since, late_at) < min(until, left_at):
                yield f"{asked.name} waited until {left_at}, {name} was idle from {since} on"


def _idle_times(ledger: Ledger, life: Life) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for spec in life.instances:
        if spec.passive:
            continue
        since, until = life.spans.get(spec.name, (math.inf, math.inf))
        for ran in ledger.ran:
            if ran.life is life and ran.instance == spec.name:
                if since < ran.at:
                    found.append((spec.name, since, ran.at))
                since = max(since, ran.ended_at)
        found.append((spec.name, since, until))
    return found
