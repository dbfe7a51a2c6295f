"""An executor that only takes its time: virtual seconds instead of computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from actors.processes.ports import BlsPort
from actors.street.executor import TaskExecutor
from protocol.inference import InferResponse
from protocol.status import ServerError, invalid_arg, unavailable
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled, Timings
from simulation.asking import Asking
from simulation.ledger import Ledger, Life, Ran
from simulation.traces import Trace

Latency = Callable[[int], float]
"""Batch size → seconds that its execution takes."""

Behaviour = Callable[[ExecuteRequest], Outcome]
"""What the simulated model answers to one request."""

Together = Callable[[Sequence[ExecuteRequest]], Sequence[Outcome]]
"""What a simulated model answers to a whole batch; a ServerError that it raises is for all."""

Responses = Callable[[ExecuteRequest], Sequence[tuple[float, Outcome]]]
"""What a decoupled model answers to one request: pauses in seconds, each before its response."""


class _Sender(Protocol):
    """What an instance gives an executor that delivers responses from within trio."""

    async def deliver(self, outcome: Outcome | None, final: bool) -> None: ...
    def is_cancelled(self) -> bool: ...


def echo(request: ExecuteRequest) -> Outcome:
    """Every input comes back as an output of the same name."""
    asked = request.request
    return InferResponse(asked.model_name, "1", asked.id, list(asked.inputs))


class SimulatedExecutor(TaskExecutor):
    """Sleeps as long as the model would compute, then answers as told.

    Like a worker it runs one batch at a time, though it takes `depth` of them.
    """

    def __init__(
        self,
        name: str,
        *,
        latency: Latency,
        behaviour: Behaviour,
        together: Together | None,
        responses: Responses | None,
        asking: Asking | None,
        models: BlsPort,
        trace: Trace,
        ledger: Ledger,
        life: Life,
        depth: int,
        load_seconds: float = 0.0,
        broken: str = "",
    ) -> None:
        super().__init__()
        self._load_seconds = load_seconds
        self._broken = broken
        self.depth = depth
        self.name = name
        self.slowness = 1.0  # fault: executions take this many times as long
        self._latency = latency
        self._behaviour = behaviour
        self._together = together
        self._responses = responses
        self._asking = asking
        self._models = models  # whom it asks
        self._trace = trace
        self._ledger = ledger
        self._life = life
        self._one_at_a_time = trio.Lock()
        self._lost = trio.Event()
        self._crash: BaseException | None = None
        self._finished: set[str] = set()  # decoupled requests whose final response is on its way

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self._load_seconds:
            await trio.sleep(self._load_seconds)
        if self._broken:
            raise invalid_arg(self._broken)
        self._life.spans[self.name] = (trio.current_time(), math.inf)
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._stopped.wait()
            if self._crash is not None:
                raise self._crash

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        real = [place for place, request in enumerate(requests) if not request.is_null]
        ran = Ran(
            life=self._life,
            instance=self.name,
            names=self._ledger.names_in(self._life, [requests[place].request.id for place in real]),
            places=tuple(real),
            batch_size=sum([request.batch_size or 1 for request in requests]),
            at=trio.current_time(),
            order=self._ledger.next_order(),
            is_warmup=requests[0].number < 0,
        )
        self._ledger.run(ran)
        try:
            if self.depth == 1:
                return await self._execute(requests, timings, ran)
            async with self._one_at_a_time:
                return await self._execute(requests, timings, ran)
        except BaseException:
            self._note_failures(ran, [name not in self._finished for name in ran.names])
            raise
        finally:
            ran.ended_at = trio.current_time()
            ran.ended_order = self._ledger.next_order()
            self._trace.add("executed", self.name, ran.batch_size, ",".join(ran.names))

    def cancel(self, number: int) -> None:
        """A batch that runs is not interrupted, as in production."""

    def stop(self) -> None:
        since, _ = self._life.spans.get(self.name, (math.inf, math.inf))
        self._life.spans[self.name] = (since, trio.current_time())
        super().stop()

    def crash(self, error: BaseException) -> None:
        """Fault: the instance dies at this instant, whatever it is doing."""
        self._trace.add("crash", self.name, 0, "")
        self._life.end_now()
        self._crash = error
        self._stopped.set()

    def lose_worker(self) -> None:
        """Fault: what is being executed fails at this instant, and the instance goes on."""
        self._trace.add("worker lost", self.name, 0, "")
        self._lost.set()
        self._lost = trio.Event()

    async def _execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings, ran: Ran
    ) -> Sequence[Outcome | None]:
        self._trace.add("execute", self.name, ran.batch_size, ",".join(ran.names))
        ran.began_at = trio.current_time()
        seconds = self._latency(ran.batch_size) * self.slowness
        with trio.move_on_after(seconds):
            await self._lost.wait()
            raise unavailable(f"Stub process '{self.name}' is not healthy.")
        outcomes: Sequence[Outcome | None]
        if self._together is not None:
            outcomes = self._together(requests)
        else:
            outcomes = [await self._answer(request, ran) for request in requests]
        timings.infer_ns = int(seconds * 1e9)
        pairs = zip(requests, outcomes, strict=True)
        asked = [outcome for request, outcome in pairs if not request.is_null]
        back = [self._life.is_iterative and isinstance(one, Rescheduled) for one in asked]
        ran.came_back = sum(back)
        failed = [isinstance(one, ServerError) for one in asked]
        self._note_failures(
            ran, [error and not again for error, again in zip(failed, back, strict=True)]
        )
        return outcomes

    @staticmethod
    def _note_failures(ran: Ran, failed: Sequence[bool]) -> None:
        ran.failures = sum(failed)
        if ran.failures:
            ran.failed = frozenset(name for name, has in zip(ran.names, failed, strict=True) if has)

    async def _answer(self, request: ExecuteRequest, ran: Ran) -> Outcome | None:
        try:
            if self._asking is not None:
                return await self._asking.outcome(self._models, request)
            if self._responses is None:
                return self._behaviour(request)
            responses = self._responses(request)
        except ServerError as error:
            return error
        sender: _Sender = request.sender  # type: ignore[assignment]  # an instance's can deliver
        for pause, outcome in responses:
            await trio.sleep(pause)
            if sender.is_cancelled():
                break
            await sender.deliver(outcome, False)
        await sender.deliver(None, True)
        (name,) = self._ledger.names_in(self._life, [request.request.id])
        self._finished.add(name)
        ran.done_at[name] = trio.current_time()
        return None
