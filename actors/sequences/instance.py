"""An instance of a model with sequences: states go in and out with requests, places are padded.

Owns the implicit state of its slots. Otherwise it is an Instance, and decides as little: which
slot a request belongs to is part of its orders. Where the model may ask for a request again, or
one sequence must wait for itself, it says `Released` to the sequence batcher after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from actors.channels import Door
from actors.messages import Execute, Released, Reply, Submit
from actors.metrics.late_responses import ResponseTeller
from actors.street.instance import Instance, Responder
from protocol.inference import InferResponse, SequenceFlag
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled, Timings
from repo.implicit_state import SequenceState, StateKeeper


class _SlotResponder(Responder):
    """Keeps the states that a response carries, and tells when its request has ended."""

    __slots__ = ("_released", "_reschedules", "_state")

    def __init__(
        self,
        submit: Submit,
        token: trio.lowlevel.TrioToken,
        in_flight: dict[int, Responder],
        timings: Timings,
        *,
        teller: ResponseTeller,
        state: SequenceState | None,
        released: Door[Released] | None,
        reschedules: bool,
    ) -> None:
        super().__init__(submit, token, in_flight, timings, teller=teller)
        self._state = state
        self._released = released
        self._reschedules = reschedules

    async def deliver(self, outcome: Outcome | None, final: bool) -> None:
        if isinstance(outcome, Rescheduled) and self._reschedules:
            self._come_back(outcome)
            await trio.lowlevel.checkpoint()
            return
        await super().deliver(outcome, final)

    def deliver_nowait(self, outcome: Outcome | None) -> None:
        if isinstance(outcome, Rescheduled) and self._reschedules:
            if not outcome.is_late:
                self._come_back(outcome)
            return
        super().deliver_nowait(outcome)

    def _come_back(self, outcome: Rescheduled) -> None:
        """Leave without a word to the caller, who goes on waiting."""
        if self._finished:
            return  # it has been answered, because its instance ended
        if self._release(rescheduled=True):
            super()._finish()
        else:
            super().deliver_nowait(outcome)

    def _reply(self, outcome: Outcome | None, final: bool) -> Reply:
        if self._state is not None and isinstance(outcome, InferResponse):
            self._state.take(outcome)
        return super()._reply(outcome, final)

    def _finish(self) -> None:
        super()._finish()
        self._release(rescheduled=False)

    def _release(self, *, rescheduled: bool) -> bool:
        """False when nobody is left to be told."""
        if self._released is None:
            return True
        try:
            self._released.send_owed(Released(self._submit.number, rescheduled))
        except trio.BrokenResourceError:
            return False
        return True


class _Nobody:
    """Takes what a model answers to padding."""

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        """Drop it."""

    async def deliver(self, outcome: Outcome | None, final: bool) -> None:
        """Drop it."""
        await trio.lowlevel.checkpoint()

    def is_cancelled(self) -> bool:
        return False


_NOBODY = _Nobody()


class SequenceInstance(Instance):
    """See the module's docstring. `released` is None where nobody waits to hear of it."""

    def __init__(
        self,
        *,
        keeper: StateKeeper,
        released: Door[Released] | None,
        reschedules: bool,
        **instance: Any,  # what every Instance needs
    ) -> None:
        super().__init__(**instance)
        self._keeper = keeper
        self._released = released
        self._reschedules = reschedules
        self._teller_again = self._teller._replace(again=True)

    def _open(
        self, batch: Execute, timings: Timings
    ) -> tuple[Sequence[Responder], Sequence[ExecuteRequest]]:
        slots = batch.slots
        if slots is None:
            return super()._open(batch, timings)  # a warm-up brings its own states
        keeper = self._keeper if self._keeper.has_states else None
        state: SequenceState | None = None
        responders: list[Responder] = []
        by_slot: dict[int, ExecuteRequest] = {}
        for submit, slot in zip(batch.submits, slots.numbers, strict=True):
            request = submit.request
            again = self._reschedules and SequenceFlag.START not in request.sequence_flags
            if keeper is not None:
                begins = slot in slots.beginning
                state = keeper.of(slot, request.sequence_flags, begins=begins)
                request = state.attach(request)
            responder = _SlotResponder(
                submit,
                self._token,
                self._in_flight,
                timings,
                teller=self._teller_again if again else self._teller,
                state=state,
                released=self._released,
                reschedules=self._reschedules,
            )
            self._in_flight[submit.number] = responder
            responders.append(responder)
            by_slot[slot] = ExecuteRequest(
                request, submit.batch_size, responder, number=submit.number, states=state
            )
        requests = list(by_slot.values())
        if slots.padding is None or len(requests) == batch.batch_size:
            return responders, requests
        null = ExecuteRequest(
            self._keeper.pad(slots.padding, requests[0].request),
            requests[0].batch_size,
            _NOBODY,
            is_null=True,
        )
        return responders, [by_slot.get(slot, null) for slot in range(batch.batch_size)]

    def _report(
        self,
        batch: Execute,
        outcomes: Sequence[InferResponse | ServerError | None],
        timings: Timings,
    ) -> None:
        """A request that comes back has neither succeeded nor failed yet."""
        if self._reschedules and any(isinstance(one, Rescheduled) for one in outcomes):
            pairs = [
                pair
                for pair in zip(batch.submits, outcomes, strict=True)
                if not isinstance(pair[1], Rescheduled)
            ]
            batch = batch._replace(submits=[submit for submit, _ in pairs])
            outcomes = [outcome for _, outcome in pairs]
        super()._report(batch, outcomes, timings)
