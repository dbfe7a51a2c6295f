"""Which request a call carries next.

Owns the walk through the data for plain models and, with `Sequences`, for stateful ones, and the
request ids. Pure.
"""

from __future__ import annotations

from typing import Final, Protocol

from perf_analyzer.calls import Call
from perf_analyzer.requests import Payloads
from perf_analyzer.sequences import Sequences, Turn

# An id names the place that sent the request and how many it had sent before.
ID_SHIFT: Final = 48


class Picker(Protocol):
    """Fills a call with its next request."""

    def fill(self, call: Call) -> None: ...


class PlainPicker:
    """The first stream's steps one after another, a batch of them per request."""

    def __init__(self, payloads: Payloads, *, with_ids: bool, keeps: bool) -> None:
        self._payloads = payloads
        self._steps = payloads.plan.data.step_count
        self._batch_size = payloads.plan.batch_size
        self._with_ids = with_ids
        self._keeps = keeps
        self._sent = 0
        self._only = payloads.at(0, 0) if self._steps == 1 else None

    def fill(self, call: Call) -> None:
        number = self._sent
        self._sent = number + 1
        payload = self._only
        if payload is None:
            payload = self._payloads.at(0, number * self._batch_size % self._steps)
        if self._with_ids:
            call.request_id = str(call.number << ID_SHIFT | number)
        call.begin(payload, keeps=self._keeps)


class SequencePicker:
    """The next request of the sequence in the call's slot."""

    def __init__(
        self, payloads: Payloads, sequences: Sequences, *, with_ids: bool, keeps: bool
    ) -> None:
        self._payloads = payloads
        self.sequences = sequences
        self._with_ids = with_ids
        self._keeps = keeps
        self._sent = 0

    def fill(self, call: Call) -> None:
        self._take(call, self.sequences.next(call.sequence_slot))

    def fill_last(self, call: Call) -> None:
        """The request that ends the live sequence of the call's slot."""
        self._take(call, self.sequences.last(call.sequence_slot))

    def _take(self, call: Call, turn: Turn) -> None:
        call.sequence_id = turn.sequence_id
        call.starts_sequence = turn.starts
        call.ends_sequence = turn.ends
        if self._with_ids:
            call.request_id = str(call.number << ID_SHIFT | self._sent)
        self._sent += 1
        call.begin(self._payloads.at(turn.stream, turn.step), keeps=self._keeps)
