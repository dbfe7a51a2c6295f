"""Which requests of which sequences run together, and when: the sequence batcher.

One name for everything a caller needs, and the interface that both strategies share. Where Triton
looks every now and then, this is exact: a timeout, a deadline and the end of a silence strike at
their instant. The rules stand in `sequencing_table`, the strategies in modules of their own.

A sequence that waited for a slot is silent only from the moment it has one; by Triton's count it
could be given up in that very moment, before it had a chance to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.policy.queueing import Waiting
from actors.policy.sequencing_direct import DirectBatcher
from actors.policy.sequencing_oldest import OldestBatcher
from actors.policy.sequencing_table import (
    CorrelationId,
    DispatchSlots,
    Place,
    RefuseRequest,
    SequenceAction,
    SequenceRefusal,
    SequenceTicket,
    WarnOfConflict,
)
from repo.model_config import SequenceSettings

__all__ = [
    "CorrelationId",
    "DirectBatcher",
    "DispatchSlots",
    "OldestBatcher",
    "Place",
    "RefuseRequest",
    "SequenceAction",
    "SequencePolicy",
    "SequenceRefusal",
    "SequenceTicket",
    "WarnOfConflict",
    "sequence_policy",
]


class SequencePolicy(Protocol):
    """What a sequence batcher drives.

    In one turn the actor first cancels, releases and grants, then submits, then calls `step`, all
    with the same `now`. `next_wake` and `instances_wanted` describe the state that the last `step`
    left behind. A ticket is answered exactly once: in a `RefuseRequest`, or, once dispatched, by
    whoever executes it, unless it is released as `rescheduled`; then it waits here again.
    """

    def submit(self, ticket: SequenceTicket, now: float) -> RefuseRequest | None:
        """Let a request in, stamping `enqueued_at`; or refuse it at once."""

    def cancel(self, number: int, now: float) -> bool:
        """Nobody waits for this request any longer; False when it is not here but executing."""

    def released(self, number: int, now: float, *, rescheduled: bool) -> None:
        """A dispatched request has had its final response, or asks to be executed again."""

    def add(self, instance: int, now: float) -> None:
        """One more instance: its slots are for whoever waits, or comes."""

    def retire(self, instance: int) -> None:
        """This instance gets no further sequence; those that it has go on to their end."""

    def vacated(self) -> list[int]:
        """The retired instances that have become free of sequences, each once; then forgotten."""

    def grant(self, instance: int) -> None:
        """`instance` can take one more execution."""

    def surrender(self) -> list[int]:
        """Give back every unused grant, one entry each."""

    def drain(self) -> None:
        """Refuse new sequences as STOPPING; those that are open may still go on."""

    def abandon(self) -> list[SequenceTicket]:
        """Drop every request that was not dispatched and hand it back: the caller answers it."""

    def step(self, now: float) -> list[SequenceAction]:
        """Everything that has to happen at `now`. Calling it again at once returns nothing."""

    @property
    def next_wake(self) -> float:
        """The exact instant at which `step` has something to do though nothing happened."""

    @property
    def pending(self) -> int:
        """How many requests have been neither answered nor dispatched."""

    def waiting(self) -> dict[int, Waiting]:
        """Every request that is `pending`, all at level 0; empty without any. For observers."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is here, and none that has been dispatched can come back."""

    @property
    def instances_wanted(self) -> Sequence[int]:
        """The instances that could use a grant at once."""


def sequence_policy(settings: SequenceSettings, instances: Sequence[int]) -> SequencePolicy:
    """The policy of a model; `instances` are those that execute."""
    if settings.strategy == "oldest":
        return OldestBatcher(settings, instances)
    return DirectBatcher(settings, instances)
