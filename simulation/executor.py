"""An executor that only takes its time: virtual seconds instead of computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from protocol.inference import InferResponse
from protocol.status import ServerError, internal
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from simulation.traces import Trace

Latency = Callable[[int], float]
"""Batch size → seconds that its execution takes."""

Behaviour = Callable[[ExecuteRequest], Outcome]
"""What the simulated model answers to one request."""


def echo(request: ExecuteRequest) -> Outcome:
    """Every input comes back as an output of the same name."""
    asked = request.request
    return InferResponse(asked.model_name, "1", asked.id, list(asked.inputs))


class SimulatedExecutor:
    """Sleeps as long as the model would compute, then answers as told."""

    def __init__(
        self,
        context: InstanceContext,
        *,
        latency: Latency,
        behaviour: Behaviour,
        trace: Trace,
        depth: int = 1,
    ) -> None:
        self.depth = depth
        self._name = context.instance_name
        self._latency = latency
        self._behaviour = behaviour
        self._trace = trace
        self._stopped = trio.Event()
        self._crash: BaseException | None = None

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self._stopped.wait()
        if self._crash is not None:
            raise self._crash

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        size = sum(request.batch_size or 1 for request in requests)
        ids = ",".join(request.request.id for request in requests)
        self._trace.add("execute", self._name, size, ids)
        seconds = self._latency(size)
        await trio.sleep(seconds)
        if self._crash is not None:
            raise internal(f"model instance '{self._name}' has crashed")
        timings.infer_ns = int(seconds * 1e9)
        self._trace.add("executed", self._name, size, ids)
        return [self._answer(request) for request in requests]

    def cancel(self, number: int) -> None:
        """A batch that runs is not interrupted, as in production."""

    async def is_ready(self) -> bool:
        return not self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    def crash(self, error: BaseException) -> None:
        """Fault: the instance dies at this instant, whatever it is doing."""
        self._trace.add("crash", self._name, 0, "")
        self._crash = error
        self._stopped.set()

    def _answer(self, request: ExecuteRequest) -> Outcome:
        try:
            return self._behaviour(request)
        except ServerError as error:
            return error
