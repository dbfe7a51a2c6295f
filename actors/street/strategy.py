"""A model's own batch strategy, as the scheduling policy sees one."""

from __future__ import annotations

from typing import cast

from actors.messages import Submit
from actors.policy.queueing import Ticket
from repo.batch_strategy import StrategyFunctions


class ModelStrategy:
    """Unwraps tickets for the model's functions, which know requests and nothing of scheduling."""

    def __init__(self, functions: StrategyFunctions) -> None:
        self._functions = functions

    def begin_batch(self) -> object:
        return self._functions.begin(self._functions.batcher)

    def include(self, state: object, ticket: Ticket) -> bool:
        return bool(self._functions.include(cast("Submit", ticket.work).request, state))

    def end_batch(self, state: object) -> None:
        self._functions.end(state)

    def close(self) -> None:
        """The model is unloaded."""
        self._functions.finalize(self._functions.batcher)
