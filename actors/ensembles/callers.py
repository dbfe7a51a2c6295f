"""The requests of an ensemble that are under way, and what their callers are told.

Owns each caller's backlog of responses, the sums over its members, and what Statistics and the
console hear of a request that has ended. What to tell is `policy.dataflow`'s decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from actors.channels import Door
from actors.ensembles.waits import Waits
from actors.lifecycle.model_index import ServingVersion
from actors.messages import (
    BatchExecuted,
    Fact,
    LongestStep,
    Reply,
    RequestsRefused,
    Submit,
    VersionKey,
)
from actors.metrics.slow_requests import NO_STEP, SlowTeller
from actors.street.answers import answer
from protocol.inference import InferResponse, ParameterValue, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import Timings


@dataclass(slots=True, eq=False)
class Caller:
    """A request of the ensemble."""

    submit: Submit
    servings: Sequence[ServingVersion | ServerError]  # of the members that it began with, by step
    began_at: float
    timings: Timings = field(default_factory=Timings)
    unsent: deque[Reply] = field(default_factory=deque)  # while its window is full
    explanation: dict[str, ParameterValue] | None = None  # if it asked why it waits
    longest: LongestStep = NO_STEP  # if somebody looks

    def add(self, timings: Timings) -> None:
        """A member has executed a step."""
        total = self.timings
        total.input_ns += timings.input_ns
        total.infer_ns += timings.infer_ns
        total.output_ns += timings.output_ns


class Callers:
    """What they are told; see the module's docstring."""

    def __init__(
        self,
        key: VersionKey,
        *,
        waits: Waits,
        statistics: Door[Fact],
        slow: SlowTeller | None,
    ) -> None:
        self._key = key
        self._version_text = str(key[1])
        self._waits = waits
        self._statistics = statistics
        self._slow = slow  # None: nobody looks

    def respond(
        self,
        caller: Caller,
        outputs: list[Tensor],
        sequence: Mapping[str, ParameterValue],
        *,
        final: bool,
    ) -> None:
        """Give a caller a response; with the final one its request has ended."""
        response = InferResponse(
            self._key[0], self._version_text, caller.submit.request.id, outputs, dict(sequence)
        )
        if caller.explanation is not None:
            response.parameters |= caller.explanation
        if final:
            self.end(caller, response)
        else:
            self._send(caller, Reply(caller.submit.number, response, final=False))

    def end(self, caller: Caller, outcome: InferResponse | ServerError | None) -> None:
        """Count a request, then give its final reply: who asks after it finds it counted."""
        message, timings = caller.submit, caller.timings
        lasted = trio.current_time() - message.submitted_at
        if isinstance(outcome, ServerError):
            reason = "CANCELED" if outcome.status is StatusCode.CANCELLED else "OTHER"
            self._tell(RequestsRefused(self._key, reason, [lasted]))
        else:
            size = message.batch_size or 1
            queued = caller.began_at - message.submitted_at
            self._tell(
                BatchExecuted(
                    self._key, size, size, [queued], [lasted], timings, (), by_backend=False
                )
            )
        if self._slow is not None:
            self._slow.look_at(message, outcome, timings, caller.began_at, longest=caller.longest)
        self._send(caller, Reply(message.number, outcome, True, timings))

    def _tell(self, fact: Fact) -> None:
        try:
            # Owed, because it can wait for room no better than whoever is served in turns.
            self._statistics.send_owed(fact)
        except trio.BrokenResourceError:
            return  # the server is being cut off

    def _send(self, caller: Caller, reply: Reply) -> None:
        if caller.unsent:
            caller.unsent.append(reply)  # bounded: what lies here holds the members up
            return
        if reply.final:
            answer(caller.submit, reply)
            return
        try:
            caller.submit.reply.send_nowait(reply)
        except trio.WouldBlock:
            caller.unsent.append(reply)
            self._waits.for_caller(caller.submit, caller.unsent)
        except trio.BrokenResourceError:
            self._waits.caller_has_gone(reply.number)
