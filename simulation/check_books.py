"""Checkers of what remains: statistics that agree with what happened, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from actors.metrics.counters import VersionCounters
from protocol.status import StatusCode
from simulation.ledger import Asked, Ledger, Life

# Durations are summed in floats and cut to whole nanoseconds, once per message.
_ROUNDING_NS = 1_000
_EXPIRED = ("Request timeout expired", "timeout of the corresponding sequence has been expired")


def books_add_up(ledger: Ledger) -> Iterator[str]:
    """Every counter of a version that was loaded once and lived on is what the ledger says."""
    for life in ledger.lives:
        generations = sum(other.model == life.model for other in ledger.lives)
        counters = ledger.counters.get((life.model, 1))
        if generations > 1 or life.told_to_end_at < math.inf or counters is None:
            continue
        for name, counted, expected in _expectations(ledger, life, counters):
            if counted != expected:
                yield f"{life.model} counts {name} {counted} instead of {expected}"
        spent = sum(
            asked.final.at - asked.at
            for asked in _asked_of(ledger, life)
            if asked.ran is not None and asked.final is not None and asked.error is None
        )
        is_exact = not (
            life.is_cached
            or life.is_decoupled
            or life.batching.preserve_ordering
            or life.has_sequences
            or life.is_ensemble
            or ledger.outsiders
            or not ledger.asked
        )
        if is_exact and abs(counters.success.ns - spent * 1e9) > _ROUNDING_NS:
            yield f"{life.model} counts {counters.success.ns} ns of success, not {spent} s"


def _expectations(
    ledger: Ledger, life: Life, counters: VersionCounters
) -> Iterator[tuple[str, object, object]]:
    runs = [ran for ran in ledger.ran if ran.life is life]
    asked = _asked_of(ledger, life)
    if life.is_ensemble:
        errors = sum(one.error is not None for one in asked)
        yield "successes", counters.success.count, len(asked) - errors
        yield "failures", counters.fail.count, errors
        return
    yield "executions", counters.execution_count, len(runs)
    sizes = {size: batch.compute_infer.count for size, batch in counters.batches.items()}
    yield "batches", sizes, dict(Counter(ran.batch_size for ran in runs))
    hits = counters.cache_hit.count
    executed = sum(len(ran.names) - ran.failures - ran.came_back for ran in runs)
    yield "successes", counters.success.count, executed + hits
    failed = sum(ran.failures for ran in runs)
    yield "backend failures", counters.failures["BACKEND"], failed
    if ledger.outsiders or not ledger.asked:
        return
    answered = sum(one.error is None for one in asked)
    yield "successes", counters.success.count, answered
    done = (one for one in asked if one.ran is not None and one.error is None)
    yield "inferences", counters.inference_count, sum(one.batch for one in done)
    if life.is_iterative:
        return  # a request may be refused between two of its executions
    cancelled = [one for one in asked if _was_cancelled(one)]
    yield "cancellations", counters.failures["CANCELED"], len(cancelled)
    rejected = [one for one in asked if _was_rejected(one)]
    yield "rejections", counters.failures["REJECTED"], len(rejected)
    yield "failures", counters.fail.count, failed + len(cancelled) + len(rejected)


def _asked_of(ledger: Ledger, life: Life) -> list[Asked]:
    return [asked for asked in ledger.asked.values() if asked.life is life]


def _was_cancelled(asked: Asked) -> bool:
    error = asked.error
    return asked.ran is None and error is not None and error.status is StatusCode.CANCELLED


def _was_rejected(asked: Asked) -> bool:
    """Refused after it had been queued; whoever is refused on arrival is not counted."""
    error = asked.error
    if asked.ran is not None or error is None:
        return False
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        return asked.deadline_at > asked.at
    return error.message in _EXPIRED


def nothing_is_pending(ledger: Ledger) -> Iterator[str]:
    """When everybody has been answered, the gauges stand at zero.

    Not so with sequences: a cancelled request keeps its place until its sequence has had its turn.
    """
    with_sequences = {life.model for life in ledger.lives if life.has_sequences}
    for model, pending in ledger.pending.items():
        if pending and model not in with_sequences:
            yield f"{pending} requests of {model} are said to be pending"


def nothing_is_left(ledger: Ledger) -> Iterator[str]:
    """When the server has ended, every door is closed."""
    yield from ledger.leftovers
