"""What a model asks of the server while it runs: other models, their loading, and its metrics.

Owns the calls under way of one worker, each a task, and the metrics that it has opened. Answers go
back over the worker's link. When the worker is gone all of it ends.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

import trio

from actors.processes.link import Link
from actors.processes.ports import BlsPort, Labels, MetricKind, MetricOperation, MetricsPort
from protocol.inference import InferRequest, SequenceFlag, Tensor
from protocol.status import ServerError, cancelled, internal, unavailable
from protocol.tracing import Trace
from repo.backends.base import Outcome
from repo.backends.python import wire
from repo.backends.python.arena import ArenaFullError
from repo.backends.python.extras import parse_call
from repo.backends.python.layout import WireError
from repo.backends.python.records import Records

_KINDS: Final[tuple[MetricKind, ...]] = ("counter", "gauge", "histogram")
_OPERATIONS: Final[dict[int, MetricOperation]] = {
    wire.INCREMENT: "increment",
    wire.SET: "set",
    wire.OBSERVE: "observe",
}

# Loads, unloads and readiness questions under way; each blocks a thread of the worker.
_CONTROL_LIMIT: Final = 64


class _Call:
    """One inference of another model."""

    __slots__ = ("room", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.room = trio.Semaphore(wire.RESPONSE_WINDOW)


class OutgoingCalls:
    """See the module's docstring."""

    def __init__(
        self,
        link: Link,
        *,
        nursery: trio.Nursery,
        bls: BlsPort | None,
        metrics: MetricsPort | None,
        limit: int,
        trace_of: Callable[[str], Trace | None],
    ) -> None:
        """`trace_of` finds the trace of a request that the worker has, by the name it was given."""
        self._link = link
        self._nursery = nursery
        self._bls = bls
        self._metrics = metrics
        self._limit = limit
        self._trace_of = trace_of
        self._calls: dict[int, _Call] = {}
        self._control_scopes: dict[int, trio.CancelScope] = {}
        self._families: list[str] = []
        self._metric_names: dict[int, tuple[str, Labels]] = {}

    def close(self) -> None:
        """The worker is gone: cancel its calls, close its metrics."""
        for call in self._calls.values():
            call.scope.cancel()
        for scope in self._control_scopes.values():
            scope.cancel()
        if self._metrics is None:
            return
        for family, labels in self._metric_names.values():
            self._metrics.close_metric(family, labels)
        for family in self._families:
            self._metrics.close_family(family)
        self._metric_names.clear()
        self._families.clear()

    # --- inference -------------------------------------------------------------------------------

    def infer(self, packet: bytes, records: Records[Tensor]) -> None:
        """Start a call. Raises WireError."""
        if len(records.numbers) != 1 or records.extras is None:
            raise WireError("a call is one request")
        if len(self._calls) >= self._limit or records.base in self._calls:
            raise WireError(f"more than {self._limit} calls at once")
        (decoupled,) = wire.FINAL.unpack_from(packet, wire.PREFIX_AT)
        model_name, version, trace, extras = parse_call(records.extras[0])
        request = InferRequest(
            model_name=model_name,
            model_version="" if version < 0 else str(version),
            id=extras.id,
            inputs=records.tensors[0],
            requested_outputs=records.layouts[records.numbers[0]].requested,
            parameters=json.loads(extras.parameters_json) if extras.parameters_json else {},
            correlation_id=extras.correlation_id,
            sequence_flags=SequenceFlag(extras.flags & 3),
            timeout_us=extras.timeout_us,
            trace=self._trace_of(trace),
        )
        call = self._calls[records.base] = _Call()
        self._nursery.start_soon(self._run, records.base, call, request, bool(decoupled))

    async def _run(self, number: int, call: _Call, request: InferRequest, decoupled: bool) -> None:
        try:
            with call.scope:
                await self._stream(number, call, request, decoupled)
        except ServerError as error:
            text = f"Model {request.model_name} - Error when running inference: {error.message}"
            self._respond(number, internal(text), final=True)
        finally:
            # Cancelled, or the other model's responses ended without a final one.
            if number in self._calls:
                self._respond(
                    number, cancelled() if call.scope.cancelled_caught else None, final=True
                )

    async def _stream(
        self, number: int, call: _Call, request: InferRequest, decoupled: bool
    ) -> None:
        if self._bls is None:
            raise unavailable("this server does not let models call models")
        async with aclosing(self._bls.infer(request, decoupled=decoupled)) as responses:
            async for outcome, final in responses:
                await call.room.acquire()
                last = final or not decoupled
                self._respond(number, outcome, final=last)
                if last:
                    return

    def _respond(self, number: int, outcome: Outcome | None, *, final: bool) -> None:
        if final:
            # Before the worker hears of it, because it may then start another one.
            del self._calls[number]
        try:
            self._link.say_response(number, outcome, final)
        except (ArenaFullError, WireError, KeyError) as error:
            self._link.say_response(
                number, internal(f"response cannot be passed on: {error}"), final
            )

    # --- questions -------------------------------------------------------------------------------

    def hear(self, message: wire.Message) -> bool:
        """Act on a message; False when it is none of ours. Raises WireError."""
        match message:
            case wire.BlsCredit(number=number, room=room):
                call = self._calls.get(number)
                for _ in range(min(room, wire.RESPONSE_WINDOW) if call is not None else 0):
                    call.room.release()  # type: ignore[union-attr]  # the range is empty for None
            case wire.BlsCancel(number=number) | wire.BlsAbandon(number=number):
                if number in self._calls:
                    self._calls[number].scope.cancel()
            case wire.LoadModel(call=number, model_name=name, config_json=config, files=files):
                self._ask(number, lambda bls: bls.load(name, config, files))
            case wire.UnloadModel(call=number, model_name=name, unload_dependents=dependents):
                self._ask(number, lambda bls: bls.unload(name, unload_dependents=bool(dependents)))
            case wire.AskModelReady(call=number, model_name=name, version=version):
                self._ask(number, lambda bls: bls.is_ready(name, version))
            case _:
                return self._hear_metrics(message)
        return True

    def _ask(self, number: int, question: Callable[[BlsPort], Awaitable[bool | None]]) -> None:
        if len(self._control_scopes) >= _CONTROL_LIMIT:
            self._answer(number, "too many questions at once")
            return
        scope = self._control_scopes[number] = trio.CancelScope()
        self._nursery.start_soon(self._ask_soon, number, scope, question)

    async def _ask_soon(
        self,
        number: int,
        scope: trio.CancelScope,
        question: Callable[[BlsPort], Awaitable[bool | None]],
    ) -> None:
        try:
            with scope:
                if self._bls is None:
                    raise unavailable("this server does not let models control models")
                self._answer(number, "", float(bool(await question(self._bls))))
        except ServerError as error:
            self._answer(number, error.message)
        finally:
            del self._control_scopes[number]

    def _answer(self, number: int, error: str, value: float = math.nan) -> None:
        self._link.say(wire.Answer(number, error, value))

    # --- metrics ---------------------------------------------------------------------------------

    def _hear_metrics(self, message: wire.Message) -> bool:
        match message:
            case wire.OpenFamily(call=number, name=name, description=description, kind=kind):
                self._answered(
                    number, lambda port: self._open_family(port, name, description, kind)
                )
            case wire.OpenMetric(call=number):
                self._answered(number, lambda port: self._open_metric(port, message))
            case wire.AskMetric(call=number, metric=metric):
                self._answered(number, lambda port: port.value(*self._name_of(metric)))
            case wire.UpdateMetric(metric=metric, operation=operation, value=value):
                if self._metrics is not None:
                    family, labels = self._name_of(metric)
                    self._metrics.update(family, labels, _OPERATIONS[operation], value)
            case wire.CloseMetric(metric=metric):
                name_and_labels = self._metric_names.pop(metric, None)
                if name_and_labels is not None and self._metrics is not None:
                    self._metrics.close_metric(*name_and_labels)
            case wire.CloseFamily(name=name):
                if name in self._families and self._metrics is not None:
                    self._families.remove(name)
                    self._metrics.close_family(name)
            case _:
                return False
        return True

    def _answered(self, number: int, question: Callable[[MetricsPort], float | None]) -> None:
        """Answer a question about metrics; a server without metrics takes them and is silent."""
        try:
            value = question(self._metrics) if self._metrics is not None else 0.0
            self._answer(number, "", 0.0 if value is None else value)
        except ServerError as error:
            self._answer(number, error.message)

    def _open_family(self, port: MetricsPort, name: str, description: str, kind: int) -> None:
        if not 0 <= kind < len(_KINDS):
            raise WireError(f"metric kind {kind}")
        port.open_family(name, description, _KINDS[kind])
        self._families.append(name)

    def _open_metric(self, port: MetricsPort, message: wire.OpenMetric) -> None:
        labels = {key: value.decode("utf-8", "replace") for key, value in message.labels.items()}
        buckets = [bound for (bound,) in struct.iter_unpack("<d", message.buckets)]
        port.open_metric(message.family, labels, buckets)
        self._metric_names[message.metric] = (message.family, labels)

    def _name_of(self, metric: int) -> tuple[str, Labels]:
        try:
            return self._metric_names[metric]
        except KeyError:
            raise WireError(f"metric {metric} was not opened") from None
