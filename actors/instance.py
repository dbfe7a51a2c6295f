"""One model instance: takes batches from its scheduler, runs them, answers the callers.

Owns the instance's executor and what is in flight on it. Hears `Execute` on a channel of its own
and cancellations through `cancel`; says `BatchExecuted` to Statistics, then a `Reply` to each
caller, then `Grant` to whoever hands out work. It decides nothing: a batch that arrives is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio

from actors.channels import Door
from actors.executor import Executor
from actors.messages import BatchExecuted, Execute, Fact, Grant, Reply, Submit, VersionKey
from protocol.inference import InferResponse
from protocol.status import ServerError, internal
from repo.backends.base import ExecuteRequest, Outcome, Timings


class Responder:
    """Gives the responses of one request to its caller; what a backend knows as its sender.

    It stays in its instance's table of requests in flight until the final response.
    """

    __slots__ = ("_cancelled", "_finished", "_in_flight", "_submit", "_token")

    def __init__(
        self, submit: Submit, token: trio.lowlevel.TrioToken, in_flight: dict[int, Responder]
    ) -> None:
        self._submit = submit
        self._token = token
        self._in_flight = in_flight
        self._cancelled = False
        self._finished = False

    def is_cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nobody waits for this request any longer."""
        self._cancelled = True

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        """For backend threads: blocks while the caller's window is full."""
        trio.from_thread.run(self.deliver, outcome, final, trio_token=self._token)

    async def deliver(self, outcome: Outcome | None, final: bool) -> None:
        """Send one reply, waiting for room in the caller's window; a caller may have left."""
        assert not self._finished, "nothing follows the final response"
        if final:
            self._finish()
        try:
            await self._submit.reply.send(Reply(self._submit.number, outcome, final))
        except trio.BrokenResourceError:
            self._cancelled = True

    def deliver_nowait(self, outcome: Outcome) -> None:
        """Send the final reply, which a caller always takes; nothing if one was sent already."""
        if self._finished:
            return
        self._finish()
        try:
            self._submit.reply.send_owed(Reply(self._submit.number, outcome, final=True))
        except trio.BrokenResourceError:
            self._cancelled = True

    def _finish(self) -> None:
        self._finished = True
        del self._in_flight[self._submit.number]


class Instance:
    """Runs batches on one executor, as many at a time as it has grants to give."""

    def __init__(
        self,
        *,
        index: int,
        name: str,
        key: VersionKey,
        executor: Executor,
        execute: trio.MemoryReceiveChannel[Execute],
        freed: Door[Grant],
        grants: int,
        statistics: Door[Fact],
    ) -> None:
        self.index = index
        self.name = name
        self._key = key
        self._executor = executor
        self._execute = execute
        self._freed = freed
        self._grants = grants
        self._statistics = statistics
        self._in_flight: dict[int, Responder] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, report `started`, then serve until the execute channel ends."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._executor.start)
            task_status.started()
            try:
                for _ in range(self._grants):
                    self._freed.send_nowait(Grant(self.index))
                async with trio.open_nursery() as carriers:
                    for _ in range(self._grants):
                        carriers.start_soon(self._carry)
            finally:
                self._executor.stop()
        for responder in list(self._in_flight.values()):
            # A decoupled model has ended without a final response; its callers must not wait.
            responder.deliver_nowait(internal(f"model instance '{self.name}' has ended"))

    def cancel(self, number: int) -> None:
        """Tell the model that nobody waits for this request; it may still run to its end."""
        responder = self._in_flight.get(number)
        if responder is not None:
            responder.cancel()
            self._executor.cancel(number)

    async def is_ready(self) -> bool:
        return await self._executor.is_ready()

    async def _carry(self) -> None:
        """One batch after the other; there are as many carriers as grants."""
        async for batch in self._execute:
            await self._run_batch(batch)
            # Room is certain: the door holds every grant that all instances can have out. A closed
            # door means that the scheduler has left; what it still dispatched is run all the same.
            with contextlib.suppress(trio.BrokenResourceError):
                self._freed.send_nowait(Grant(self.index))

    async def _run_batch(self, batch: Execute) -> None:
        started_at = trio.current_time()
        token = trio.lowlevel.current_trio_token()
        in_flight = self._in_flight
        responders: list[Responder] = []
        requests: list[ExecuteRequest] = []
        for submit in batch.submits:
            responder = Responder(submit, token, in_flight)
            in_flight[submit.number] = responder
            responders.append(responder)
            requests.append(
                ExecuteRequest(submit.request, submit.batch_size, responder, number=submit.number)
            )
        timings = Timings()
        outcomes: Sequence[Outcome | None]
        try:
            outcomes = await self._executor.execute(requests, timings)
        except ServerError as error:
            outcomes = [error] * len(responders)
        except BaseException:
            for responder in responders:
                responder.deliver_nowait(internal(f"model instance '{self.name}' has ended"))
            raise
        assert len(outcomes) == len(responders), "an executor answers every request of a batch"
        # Before the replies: whoever asks for statistics after its answer finds itself counted.
        await self._report(batch, outcomes, timings, started_at)
        for responder, outcome in zip(responders, outcomes, strict=True):
            if outcome is not None:
                responder.deliver_nowait(outcome)

    async def _report(
        self,
        batch: Execute,
        outcomes: Sequence[InferResponse | ServerError | None],
        timings: Timings,
        started_at: float,
    ) -> None:
        now = trio.current_time()
        queued: list[float] = []
        lasted: list[float] = []
        failed: list[float] = []
        inference_count = 0
        for submit, outcome in zip(batch.submits, outcomes, strict=True):
            if isinstance(outcome, ServerError):
                failed.append(now - submit.submitted_at)
            else:
                queued.append(started_at - submit.submitted_at)
                lasted.append(now - submit.submitted_at)
                inference_count += submit.batch_size or 1
        executed = BatchExecuted(
            self._key, batch.batch_size, inference_count, queued, lasted, timings, failed
        )
        try:
            self._statistics.send_nowait(executed)
        except trio.WouldBlock:
            await self._statistics.send(executed)
