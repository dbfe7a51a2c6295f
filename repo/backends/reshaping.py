"""A backend whose model answers in the reshaped form, seen in the form of its configuration.

Owns nothing but the translation of responses on their way out, also of those that a decoupled
model sends on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protocol.inference import InferResponse
from repo.backends.base import Backend, ExecuteRequest, Outcome, ResponseSender, Timings
from repo.output_shapes import OutputShapes


class _ReshapingSender:
    """The sender that a model sees: every response passes the translation."""

    def __init__(self, sender: ResponseSender, shapes: OutputShapes) -> None:
        self._sender = sender
        self._shapes = shapes

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        if isinstance(outcome, InferResponse):
            self._shapes.restore(outcome)
        self._sender.send(outcome, final=final)

    def is_cancelled(self) -> bool:
        return self._sender.is_cancelled()


class ReshapingBackend(Backend):
    """Wraps the backend that does the work."""

    def __init__(self, inner: Backend, shapes: OutputShapes) -> None:
        super().__init__(inner.context)
        self._inner = inner
        self._shapes = shapes

    def load(self) -> None:
        self._inner.load()

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        outcomes = self._inner.execute(
            [
                replace(request, sender=_ReshapingSender(request.sender, self._shapes))
                for request in requests
            ],
            timings,
        )
        for outcome in outcomes:
            if isinstance(outcome, InferResponse):
                self._shapes.restore(outcome)
        return outcomes

    def unload(self) -> None:
        self._inner.unload()
