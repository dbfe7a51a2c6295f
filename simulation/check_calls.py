"""Checkers of models that call others."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.ledger import Ledger


def callers_wait_for_what_they_asked(ledger: Ledger) -> Iterator[str]:
    """What only another model asks of a model runs while that executes the same request."""
    for ran in ledger.ran:
        caller = ledger.callers.get(ran.life.model)
        if caller is None:
            continue
        for name in ran.names:
            within = name.replace(f" in {ran.life.model}", f" in {caller}")
            waits = any(
                other.order < ran.order and ran.ended_order < other.ended_order
                for other in ledger.ran
                if other.life.model == caller and within in other.names
            )
            if not waits:
                yield f"{name} ran from {ran.at} to {ran.ended_at}, and {caller} did not wait"
