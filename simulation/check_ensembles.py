"""Checkers of ensembles: what they answer, and how much of their work is under way at once."""

from __future__ import annotations

from collections.abc import Iterator

from protocol.status import ServerError, StatusCode
from simulation.ledger import Answer, Asked, Ledger


def ensembles_answer_what_their_graphs_say(ledger: Ledger) -> Iterator[str]:
    """All responses of the reference interpreter, or, before an error, the first of them."""
    for asked in ledger.asked.values():
        if asked.expected is None or asked.life is None:
            continue
        count = len(asked.heard)
        told = asked.expected[:count] if _may_be_short(asked) else asked.expected
        if asked.heard != told:
            yield f"{asked.name} was told {asked.heard} instead of {asked.expected}"


def steps_keep_their_limit(ledger: Ledger) -> Iterator[str]:
    """No member executes more requests of an ensemble at once than `max_inflight_requests`."""
    for ensemble in ledger.lives:
        limit = ensemble.ensemble_limit
        if not limit:
            continue
        for ran in ledger.ran:
            together = sum(
                other.at <= ran.at < other.done_at.get(name, other.ended_at)
                for other in ledger.ran
                if other.life is ran.life
                for name in other.names
            )
            if together > limit and all(" in " in name for name in ran.names):
                yield f"{ran.life.model} executes {together} requests at {ran.at}, of {limit}"


def ensemble_error_is_true(
    ledger: Ledger, asked: Asked, answer: Answer, error: ServerError
) -> bool:
    """Whether what the error says of an ensemble is what happened."""
    if error.status is StatusCode.CANCELLED:
        return asked.cancelled_at <= answer.at
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        return asked.deadline_at <= answer.at
    failed = any(
        f"{asked.name} in {ran.life.model}" in ran.failed and ran.ended_at <= answer.at
        for ran in ledger.ran
    )
    assert asked.life is not None
    return failed and error.message.startswith(f"in ensemble '{asked.life.model}', ")


def _may_be_short(asked: Asked) -> bool:
    """Whoever gave up, or was answered with an error, may have missed some."""
    # A vanished client has not read what was sent.
    return asked.error is not None or asked.cancelled_at <= (asked.final or _NEVER).at


_NEVER = Answer(float("inf"), 0, None, final=True, is_empty=True)
