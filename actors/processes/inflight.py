"""The requests inside one worker process, and their answers.

Owns which batches the worker has not answered and which requests still get responses on their own.
Synchronous: it tells whoever asked for a batch, and leaves late responses to `LateRequest`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from actors.processes.late import Feedback, LateRequest
from actors.processes.link import STATUS_OF_CODE
from actors.street.executor import Ended
from protocol.inference import InferResponse, Tensor
from protocol.status import ServerError, StatusCode, internal
from protocol.tracing import Trace
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled, Timings
from repo.backends.python import wire
from repo.backends.python.extras import parse_error
from repo.backends.python.layout import WireError
from repo.backends.python.records import FAILED, LATE, RESCHEDULED, Records
from repo.output_shapes import OutputShapes

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Death:
    """The worker died with a batch. `failed_late` are the places of requests that had responses of
    their own, and have been told already."""

    never_started: bool  # the model has not seen the batch
    failed_late: frozenset[int] = frozenset()


BatchEnded = Ended | Death


class Execution:
    """A batch that the worker has and has not answered."""

    __slots__ = ("base", "end", "late", "requests", "timings")

    def __init__(
        self,
        base: int,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        end: Callable[[BatchEnded], None],
    ) -> None:
        self.base = base
        self.requests = requests
        self.timings = timings
        self.end = end  # called once
        self.late: dict[int, LateRequest] = {}  # by number; those with responses of their own


class InFlight:
    """See the module's docstring."""

    def __init__(
        self,
        load: wire.Load,
        *,
        nursery: trio.Nursery,
        feedback: Feedback,
        shapes: OutputShapes | None = None,
    ) -> None:
        """`shapes` gives the outputs of a model that reshapes them the shapes of its dims."""
        self._load = load
        self._shapes = shapes
        self._version = str(load.version)
        self._nursery = nursery
        self._feedback = feedback
        self._next_number = 1
        self._executions: dict[int, Execution] = {}  # by base, oldest first
        self._late: dict[int, LateRequest] = {}  # by number, until their final response
        self._late_numbers: dict[int, int] = {}  # ExecuteRequest.number → ours
        self._quiet: trio.Event | None = None  # while somebody waits until nothing is inside
        self.completed_count = 0

    @property
    def is_executing(self) -> bool:
        return bool(self._executions)

    def open(
        self,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        end: Callable[[BatchEnded], None],
    ) -> Execution:
        """Enter a batch; its requests are numbered on from `base`. `end` hears how it ends."""
        execution = Execution(self._next_number, requests, timings, end)
        self._next_number += len(requests)
        self._executions[execution.base] = execution
        return execution

    def withdraw(self, execution: Execution) -> None:
        """The batch was not sent after all."""
        self._executions.pop(execution.base, None)
        self._check_quiet()

    def number_of(self, request_number: int) -> int | None:
        """Our number of the request that the server calls `request_number`, if it is inside."""
        number = self._late_numbers.get(request_number)
        if number is not None:
            return number
        for execution in self._executions.values():
            for place, request in enumerate(execution.requests):
                if request.number == request_number:
                    return execution.base + place
        return None

    def trace_of(self, reference: str) -> Trace | None:
        """The trace of a request that is inside, by the name that the model was given for it."""
        if not reference:
            return None
        requests = [each for one in self._executions.values() for each in one.requests]
        requests += [late.request for late in self._late.values()]
        for execute in requests:
            trace = execute.request.trace
            if trace is not None and str(trace.id) == reference:
                return trace
        return None

    # --- what the worker says --------------------------------------------------------------------

    def completed(self, packet: bytes, records: Records[Tensor]) -> None:
        """A batch ended. Raises WireError."""
        arrived_at = trio.current_time()
        execution = self._executions.pop(records.base, None)
        if execution is None or len(records.numbers) != len(execution.requests):
            raise WireError(f"batch {records.base} was not asked for")
        input_ns, infer_ns, output_ns = wire.TIMINGS.unpack_from(packet, wire.PREFIX_AT)
        if records.plain and not execution.late and self._shapes is None:
            model_name, version = self._load.model_name, self._version
            ended: list[Outcome | None] = [
                InferResponse(model_name, version, one.request.id, outputs)
                for one, outputs in zip(execution.requests, records.tensors, strict=True)
            ]
        else:
            ended = [
                self._outcome(execution, place, records) for place in range(len(records.numbers))
            ]
        timings = execution.timings
        timings.input_ns += input_ns
        timings.infer_ns = infer_ns
        timings.output_ns = output_ns + int((trio.current_time() - arrived_at) * _NS)
        self.completed_count += 1
        self._check_quiet()
        execution.end(ended)

    def responded(self, packet: bytes, records: Records[Tensor]) -> None:
        """A request has a response of its own. Raises WireError."""
        (final,) = wire.FINAL.unpack_from(packet, wire.PREFIX_AT)
        late = self._late.get(records.base) or self._open_early(records.base)
        outcome = self._response(late.request, records, 0)
        late.push(outcome, final=bool(final))
        if final:
            self._close_late(late)

    def dropped(self, number: int) -> None:
        """The model has let go of a request without a final response."""
        late = self._late.get(number)
        if late is None:
            return  # its batch has failed meanwhile
        outcome = None
        if not late.answered and not self._load.decoupled:
            outcome = internal(
                f"model instance '{self._load.instance_name}' released the request without "
                "sending a response"
            )
        late.push(outcome, final=True)
        self._close_late(late)

    def died(self, begun: int) -> None:
        """The worker is no more: end everything. `begun` is the last batch that the model saw."""
        error = not_healthy(self._load.instance_name)
        for late in list(self._late.values()):
            late.push(error, final=True)
            self._close_late(late)
        executions, self._executions = self._executions, {}
        self._check_quiet()
        for execution in executions.values():
            failed = frozenset(number - execution.base for number in execution.late)
            execution.end(Death(never_started=execution.base > begun, failed_late=failed))

    # --- outcomes --------------------------------------------------------------------------------

    def _outcome(
        self, execution: Execution, place: int, records: Records[Tensor]
    ) -> Outcome | None:
        """What one request of a batch came to; None when it is, or was, answered on its own."""
        number = execution.base + place
        request = execution.requests[place]
        early = execution.late.get(number)
        if records.numbers[place] == LATE:
            if early is None:
                self._open_late(number, request)
            return None
        if records.numbers[place] == RESCHEDULED:
            if early is None:
                return Rescheduled()
            early.push(Rescheduled(), final=True)
            self._close_late(early)
            return Rescheduled(is_late=True)
        outcome = self._response(request, records, place)
        if early is None:
            return outcome
        # Behind its earlier responses, not past them.
        early.push(outcome, final=True)
        self._close_late(early)
        return None

    def _response(
        self, request: ExecuteRequest, records: Records[Tensor], place: int
    ) -> Outcome | None:
        number = records.numbers[place]
        extras = records.extras[place] if records.extras is not None else b""
        if number == FAILED:
            code, message = parse_error(extras)
            known = code < len(STATUS_OF_CODE)
            return ServerError(STATUS_OF_CODE[code] if known else StatusCode.UNKNOWN, message)
        if number >= RESCHEDULED:
            return None
        response = InferResponse(
            self._load.model_name, self._version, request.request.id, records.tensors[place]
        )
        if extras:
            response.parameters = _parameters(extras)
        if self._shapes is not None:
            self._shapes.restore(response)
        return response

    # --- late requests ---------------------------------------------------------------------------

    def _open_late(self, number: int, request: ExecuteRequest) -> LateRequest:
        late = LateRequest(number, request, self._feedback, self._nursery)
        self._late[number] = late
        self._late_numbers[request.number] = number
        return late

    def _open_early(self, number: int) -> LateRequest:
        """A response that came before its batch ended. Raises WireError for no such request."""
        for execution in self._executions.values():
            place = number - execution.base
            if 0 <= place < len(execution.requests) and number not in execution.late:
                late = self._open_late(number, execution.requests[place])
                execution.late[number] = late
                return late
        raise WireError(f"response to request {number}, which is not inside")

    def _close_late(self, late: LateRequest) -> None:
        del self._late[late.number]
        self._late_numbers.pop(late.request.number, None)
        self._check_quiet()

    async def until_quiet(self) -> None:
        """Return once nothing is inside."""
        while self._executions or self._late:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def _check_quiet(self) -> None:
        if self._quiet is not None and not self._executions and not self._late:
            self._quiet.set()


def not_healthy(instance_name: str) -> ServerError:
    """What a request gets whose worker died."""
    return internal(
        f"Failed to process the request(s) for model instance '{instance_name}', message: "
        f"Stub process '{instance_name}' is not healthy."
    )


def _parameters(extras: bytes) -> dict[str, bool | int | float | str]:
    try:
        parameters = json.loads(extras)
    except ValueError as error:
        raise WireError(f"malformed parameters: {error}") from error
    if not isinstance(parameters, dict):
        raise WireError("parameters are no object")
    return parameters
