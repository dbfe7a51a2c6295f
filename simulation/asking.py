"""Simulated models that ask another one before they answer, as a model.py may."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from actors.processes.ports import BlsPort
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, Outcome


@dataclass(frozen=True, slots=True)
class Asking:
    """What a model asks for each request that it is given, and what it makes of the answer."""

    question: Callable[[ExecuteRequest], InferRequest]
    answer: Callable[[ExecuteRequest, InferResponse], Outcome]

    async def outcome(self, models: BlsPort, request: ExecuteRequest) -> Outcome:
        """What the model answers in the end; an error of the other one is its own."""
        found: Outcome | None = None
        async with aclosing(models.infer(self.question(request), decoupled=False)) as responses:
            async for outcome, _ in responses:
                found = outcome
        assert found is not None, "a model that is not decoupled answers or fails"
        return found if isinstance(found, ServerError) else self.answer(request, found)
