"""What must be true of any run: each checker reads the ledger and yields its complaints.

They know Triton's rules and what a ledger says, and nothing of how the server works inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from protocol.status import ServerError, StatusCode
from simulation.check_books import books_add_up, nothing_is_left, nothing_is_pending
from simulation.check_calls import callers_wait_for_what_they_asked
from simulation.check_ensembles import (
    ensemble_error_is_true,
    ensembles_answer_what_their_graphs_say,
    steps_keep_their_limit,
)
from simulation.check_order import nobody_overtakes, responses_keep_the_order_of_dispatch
from simulation.check_sequences import (
    sequence_error_is_true,
    sequences_keep_their_order,
    sequences_stay_where_they_are,
    slots_have_one_owner,
    states_are_nobody_else_s,
)
from simulation.check_time import (
    instances_are_not_idle,
    instants_are_kept,
    queues_keep_their_limits,
)
from simulation.check_work import batches_fit, instances_run_one_batch, resources_suffice
from simulation.ledger import Answer, Asked, Ledger

Checker = Callable[[Ledger], Iterator[str]]


def complaints(ledger: Ledger) -> Iterator[str]:
    """Everything that was wrong with a run."""
    yield from ledger.problems
    for line in ledger.logged:
        yield f"logged as an error, and not expected: {line}"
    for checker in CHECKERS:
        for complaint in checker(ledger):
            yield f"{checker.__name__.replace('_', ' ')}: {complaint}"


def everybody_is_answered_once(ledger: Ledger) -> Iterator[str]:
    """Exactly one final reply, nothing after it, and one response where a model gives one."""
    for asked in ledger.asked.values():
        finals = sum(answer.final for answer in asked.answers)
        if asked.life is None and asked.cancelled_at <= asked.left_at and not asked.answers:
            continue  # cancelled while it waited for room at a door
        if finals != 1:
            yield f"{asked.name} got {finals} final replies"
        elif not asked.answers[-1].final:
            yield f"{asked.name} got a reply after the final one"
        if asked.problem:
            yield asked.problem
        if asked.life is None or asked.life.is_decoupled:
            continue
        if len(asked.answers) > 1:
            yield f"{asked.name} got {len(asked.answers)} replies"
        if any(answer.is_empty for answer in asked.answers):
            yield f"{asked.name} got an empty reply"


def errors_have_their_reason(ledger: Ledger) -> Iterator[str]:
    """Whoever was refused was told why, and it was so; whoever was not got a response."""
    for asked in ledger.asked.values():
        if asked.life is None:
            continue
        for answer in asked.answers:
            if answer.error is not None and not _is_true(ledger, asked, answer, answer.error):
                yield f"{asked.name} was told at {answer.at}: {answer.error}"
        ran = asked.ran
        if ran is not None and asked.name in ran.failed and asked.error is None:
            yield f"{asked.name} failed and was not told so"
        executes = not (asked.life.is_cached or asked.life.is_ensemble)
        if ran is None and asked.error is None and executes and asked.final:
            yield f"{asked.name} was answered and never executed"


def _is_true(ledger: Ledger, asked: Asked, answer: Answer, error: ServerError) -> bool:
    """Whether what the error says is what happened."""
    life = asked.life
    assert life is not None
    if error.message.endswith("has ended"):
        return life.told_to_end_at <= answer.at
    if life.has_sequences:
        return sequence_error_is_true(ledger, asked, answer, error)
    if life.is_ensemble:
        return ensemble_error_is_true(ledger, asked, answer, error)
    if asked.ran is not None:
        return asked.name in asked.ran.failed
    if error.status is StatusCode.CANCELLED:
        return asked.cancelled_at <= answer.at
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        return asked.deadline_at <= answer.at
    if error.message == "Request timeout expired":
        policy = life.policy_of(asked.level)
        return policy.timeout_action == "REJECT" and asked.expires_at <= answer.at
    if error.message.endswith("Exceeds maximum queue size"):
        return queue_was_full(ledger, asked, answer.at)
    if error.message.endswith("has stopped accepting new inference requests"):
        return life.told_to_end_at <= answer.at
    return False


def queue_was_full(ledger: Ledger, refused: Asked, at: float) -> bool:
    """Whether as many as the limit allows may have waited at the level at this instant."""
    assert refused.life is not None
    limit = refused.life.policy_of(refused.level).max_queue_size
    waiting = sum(
        other.life is refused.life
        and other.level == refused.level
        and other is not refused
        and other.at <= at <= other.left_at
        for other in ledger.asked.values()
    )
    return 0 < limit <= waiting


CHECKERS: Final[tuple[Checker, ...]] = (
    everybody_is_answered_once,
    errors_have_their_reason,
    batches_fit,
    instances_run_one_batch,
    resources_suffice,
    nobody_overtakes,
    responses_keep_the_order_of_dispatch,
    instants_are_kept,
    queues_keep_their_limits,
    instances_are_not_idle,
    sequences_keep_their_order,
    sequences_stay_where_they_are,
    slots_have_one_owner,
    states_are_nobody_else_s,
    ensembles_answer_what_their_graphs_say,
    steps_keep_their_limit,
    callers_wait_for_what_they_asked,
    books_add_up,
    nothing_is_pending,
    nothing_is_left,
)
