"""One model instance: takes batches from its scheduler, runs them, answers the callers.

Owns the instance's executor and what is in flight on it. Hears `Execute`, at last `Drain`, and
cancellations through `cancel`; says `BatchExecuted` to Statistics, then a `Reply` to each caller,
then `Grant` to whoever hands out work. It decides nothing: a batch that arrives is run, and ends in
the turn in which its executor says so.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import trio

from actors.channels import Door, Mailbox
from actors.messages import (
    BatchExecuted,
    Drain,
    Execute,
    Fact,
    Reply,
    Submit,
    VersionKey,
)
from actors.metrics.late_responses import LateResponses, ResponseTeller
from actors.metrics.slow_requests import SlowTeller
from actors.street.answers import answer_error
from actors.street.executor import Ended, Executor
from actors.street.explanation import explanation, wants_explanation
from actors.street.response_lane import OPENING, ResponseLane
from actors.turns import current_turns
from protocol.inference import InferResponse, ParameterValue
from protocol.status import ServerError, StatusCode, internal
from repo.backends.base import ExecuteRequest, Outcome, Timings
from repo.warmup import WarmupSample, warmup_failure

log = logging.getLogger(__name__)

# Why a batch is as it is that nobody asked for.
WARM_UP: Final = "warmup"
# An execution no longer than it takes to send a batch's answers: there, a batch that is put
# together after them costs the model little, and is fuller by what they set off.
BRIEF_SECONDS: Final = 0.25e-3
# Responses of a warm-up that nobody has looked at yet.
WARMUP_WINDOW: Final = 64


class Responder:
    """Gives the responses of one request to its caller; what a backend knows as its sender.

    It stays in its instance's table of requests in flight until the final response.
    """

    __slots__ = (
        "_cancelled",
        "_explanation",
        "_finished",
        "_in_flight",
        "_lane",
        "_late",
        "_submit",
        "_teller",
        "_timings",
        "_token",
    )

    def __init__(
        self,
        submit: Submit,
        token: trio.lowlevel.TrioToken,
        in_flight: dict[int, Responder],
        timings: Timings,
        teller: ResponseTeller | None = None,
    ) -> None:
        self._submit = submit
        self._token = token
        self._in_flight = in_flight
        self._timings = timings  # of the execution, filled in until its end
        self._teller = teller
        self._late: LateResponses | None = None  # once a response comes on its own
        self._explanation: Mapping[str, ParameterValue] | None = None  # if its caller asked
        self._lane: ResponseLane | None = None  # for responses that a thread sends
        self._cancelled = False
        self._finished = False

    def is_cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nobody waits for this request any longer."""
        self._cancelled = True

    def explain(self, batch: Execute, started_at: float) -> None:
        """Let every response say why its request waited."""
        waited = started_at - self._submit.submitted_at
        self._explanation = explanation(batch.batch_size, waited, batch.closed_by)

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        """For backend threads: blocks while the caller's window, and the lane to it, are full."""
        if self._lane is None:
            self._open_lane()
        assert self._lane is not None, "it was opened above"
        self._lane.send(outcome, final)

    def _open_lane(self) -> None:
        with OPENING:  # several threads may answer one request
            if self._lane is None:
                self._lane = ResponseLane(self.deliver, self._token)

    async def deliver(self, outcome: Outcome | None, final: bool) -> None:
        """Send one reply, waiting for room in the caller's window; a caller may have left.

        The final one does not wait, so that nothing can come between it and its caller.
        """
        assert not self._finished, "nothing follows the final response"
        if self._teller is not None:
            if self._late is None:
                self._late = LateResponses(self._teller, self._submit, self._timings.began_at)
            await self._late.tell(outcome, cancelled=self._cancelled)
        if final:
            self.deliver_nowait(outcome)
            return
        try:
            await self._submit.reply.send(self._reply(outcome, final))
        except trio.BrokenResourceError:
            self._cancelled = True

    def deliver_nowait(self, outcome: Outcome | None) -> None:
        """Send the final reply, which a caller always takes; nothing if one was sent already."""
        if self._finished:
            return
        self._finish()
        try:
            self._submit.reply.send_owed(self._reply(outcome, final=True))
        except trio.BrokenResourceError:
            self._cancelled = True

    def _reply(self, outcome: Outcome | None, final: bool) -> Reply:
        """The one place through which every response leaves: what nobody asked for stays here."""
        wanted = self._submit.request.requested_outputs
        if wanted and isinstance(outcome, InferResponse):
            outcome.outputs = [tensor for tensor in outcome.outputs if tensor.name in wanted]
        if self._explanation is not None and isinstance(outcome, InferResponse):
            outcome.parameters = {**outcome.parameters, **self._explanation}
        return Reply(self._submit.number, outcome, final, self._timings if final else None)

    def _finish(self) -> None:
        self._finished = True
        del self._in_flight[self._submit.number]


def _without_padding(
    requests: Sequence[ExecuteRequest], outcomes: Sequence[Outcome | None]
) -> list[Outcome | None]:
    """What was answered to requests that somebody sent."""
    pairs = zip(requests, outcomes, strict=True)
    return [outcome for request, outcome in pairs if not request.is_null]


class _Execution:
    """A batch that an executor has: that it runs, or will find when it has run those before."""

    __slots__ = ("_instance", "batch", "requests", "responders", "timings")

    def __init__(
        self,
        instance: Instance,
        batch: Execute,
        responders: Sequence[Responder],
        requests: Sequence[ExecuteRequest],
        timings: Timings,
    ) -> None:
        self._instance = instance
        self.batch = batch
        self.responders = responders
        self.requests = requests
        self.timings = timings

    def explain(self) -> None:
        """Let those who asked hear how long they have waited."""
        for responder, submit in zip(self.responders, self.batch.submits, strict=True):
            if submit.request.parameters and wants_explanation(submit.request):
                responder.explain(self.batch, self.timings.began_at)

    def begins(self, now: float) -> None:
        """Whatever was before it has ended: until now it has waited."""
        self.timings.began_at = now
        self.explain()

    def ended(self, ended: Ended) -> None:
        """What the executor calls, once."""
        self._instance.finish(self, ended)


def let_end(execute: Door[Execute | Drain]) -> None:
    """Tell an instance, by the only way to it, that no more work follows."""
    with contextlib.suppress(trio.BrokenResourceError):  # it has ended by itself
        execute.send_nowait(Drain())


class GrantsOut(Protocol):
    """Whom an instance tells that it can take more work."""

    def loaded(self, index: int) -> None:
        """The instance is ready for its first executions."""

    def executed(self, index: int, seconds: float) -> None:
        """One execution has ended, which took the instance so long; infinity if it failed."""


class Instance:
    """Runs batches on one executor, as many at a time as it has given grants."""

    def __init__(
        self,
        *,
        index: int,
        name: str,
        key: VersionKey,
        executor: Executor,
        mailbox: Mailbox,
        execute: Door[Execute | Drain],
        grants: GrantsOut,
        statistics: Door[Fact],
        warmup: Sequence[WarmupSample] = (),
        slow: SlowTeller | None = None,
    ) -> None:
        self.index = index
        self.name = name
        self._key = key
        self._executor = executor
        self._mailbox = mailbox
        self._execute = execute
        self._grants = grants
        self._warmup = warmup
        self._statistics = statistics
        self._slow = slow  # None: nobody looks
        self._teller = ResponseTeller(key, statistics)
        self._in_flight: dict[int, Responder] = {}
        # The batches that its executor has, the one that it runs first; at most as many as it has
        # grants to give.
        self._executions: list[_Execution] = []
        self._token: trio.lowlevel.TrioToken  # of the event loop that it runs in
        self._draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, report `started`, then serve until drained."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._executor.start)
                try:
                    for sample in self._warmup:
                        await self._warm_up(sample)
                    task_status.started()
                    self._grants.loaded(self.index)
                    await self._mailbox.serve(self._turn)
                finally:
                    self._executor.stop()
        finally:
            self.close()
            # A decoupled model has ended, or crashed, without a final response; its callers must
            # not wait.
            for responder in list(self._in_flight.values()):
                responder.deliver_nowait(self._has_ended())

    def refuse(self, batch: Execute) -> None:
        """Answer for a batch that this instance, having ended, does not run."""
        error = self._has_ended()
        for submit in batch.submits:
            answer_error(submit, error)

    def close(self) -> None:
        """Take no more batches; after a crash there may be one that nobody has begun."""
        for message in self._execute.drain():
            if isinstance(message, Execute):
                self.refuse(message)
        self._mailbox.close()

    def _has_ended(self) -> ServerError:
        return internal(f"model instance '{self.name}' has ended")

    def cancel(self, number: int) -> None:
        """Tell the model that nobody waits for this request; it may still run to its end."""
        responder = self._in_flight.get(number)
        if responder is not None:
            responder.cancel()
            self._executor.cancel(number)

    @property
    def on_device(self) -> bool:
        """Whether its executor takes tensors on its device."""
        return self._executor.on_device

    @property
    def executing(self) -> int:
        """Requests that it has begun and not answered; a gauge, read at any time."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Batches that it was given and has not begun."""
        return len(self._execute)

    @property
    def ahead(self) -> int:
        """Requests that it was given ahead of time, and that still wait for others to end."""
        return sum(len(execution.responders) for execution in self._executions[1:])

    async def is_ready(self) -> bool:
        return await self._executor.is_ready()

    def _turn(self) -> float:
        for message in self._execute.drain():
            if isinstance(message, Execute):
                self._begin(message)
            else:
                self._draining = True
        if self._draining and not self._executions:
            self._mailbox.leave()
        return math.inf

    async def _warm_up(self, sample: WarmupSample) -> None:
        """Run a sample past the scheduler. Raises ServerError when any answer is an error."""
        model, _ = self._key
        for iteration in range(sample.count):
            log.debug(
                "model '%s' instance %s is running warmup sample '%s' for iteration %s",
                model,
                self.name,
                sample.name,
                iteration,
            )
            mailbox = Mailbox()
            replies: Door[Reply] = mailbox.door(WARMUP_WINDOW)
            now = trio.current_time()
            submits = [
                Submit(-number, request, sample.batch_size, None, 0, math.inf, now, replies)
                for number, request in enumerate(sample.requests, start=1)
            ]
            size = sum(submit.batch_size or 1 for submit in submits)
            unanswered = len(submits)
            try:
                self._begin(Execute(submits, size, WARM_UP))
                while unanswered:
                    await mailbox.wait()
                    for reply in replies.drain():
                        if isinstance(reply.outcome, ServerError):
                            raise warmup_failure(sample.name, reply.outcome)
                        unanswered -= reply.final
            finally:
                mailbox.close()

    def _begin(self, batch: Execute) -> None:
        timings = Timings(began_at=trio.current_time())
        responders, requests = self._open(batch, timings)
        execution = _Execution(self, batch, responders, requests, timings)
        execution.explain()
        self._executions.append(execution)
        self._executor.begin(requests, timings, execution.ended)

    def finish(self, execution: _Execution, ended: Ended) -> None:
        """Count an execution, answer its callers, take the next one."""
        executions = self._executions
        was_first = executions[0] is execution
        executions.remove(execution)
        # A device that overlaps batches has begun the next one long since.
        if was_first and executions and not self._executor.on_device:
            executions[0].begins(trio.current_time())
        timings = execution.timings
        seconds = (timings.input_ns + timings.infer_ns + timings.output_ns) / 1e9
        if executions or seconds < BRIEF_SECONDS:
            # It waits for nobody, its callers do; or what comes of the answers is worth the wait.
            current_turns().answers_first = True
        batch, responders, requests = execution.batch, execution.responders, execution.requests
        outcomes: Sequence[Outcome | None]
        outcomes = [ended] * len(requests) if isinstance(ended, ServerError) else ended
        assert len(outcomes) == len(requests), "an executor answers every request of a batch"
        if len(requests) > len(responders):
            outcomes = _without_padding(requests, outcomes)
        # Before the replies: whoever asks for statistics after its answer finds itself counted.
        self._report(batch, outcomes, timings)
        for responder, outcome in zip(responders, outcomes, strict=True):
            if outcome is not None:  # else its responses go, or went, through the responder
                responder.deliver_nowait(outcome)
        if batch.closed_by != WARM_UP:
            failed = isinstance(ended, ServerError)
            self._grants.executed(self.index, math.inf if failed else seconds)
        if self._draining:
            self._mailbox.ring()

    def _open(
        self, batch: Execute, timings: Timings
    ) -> tuple[Sequence[Responder], Sequence[ExecuteRequest]]:
        """What the executor is given, and who takes what it answers to each caller's request."""
        token, in_flight, teller = self._token, self._in_flight, self._teller
        responders: list[Responder] = []
        requests: list[ExecuteRequest] = []
        for submit in batch.submits:
            number = submit.number
            responder = in_flight[number] = Responder(submit, token, in_flight, timings, teller)
            responders.append(responder)
            requests.append(
                ExecuteRequest(submit.request, submit.batch_size, responder, False, number)
            )
        return responders, requests

    def _report(
        self,
        batch: Execute,
        outcomes: Sequence[InferResponse | ServerError | None],
        timings: Timings,
    ) -> None:
        now, started_at = trio.current_time(), timings.began_at
        queued: list[float] = []
        lasted: list[float] = []
        failed: list[float] = []
        first: list[float] | None = None
        if None in outcomes:
            pairs = zip(batch.submits, outcomes, strict=True)
            first = [now - submit.submitted_at for submit, outcome in pairs if outcome is not None]
        inference_count = cancelled = 0
        for submit, outcome in zip(batch.submits, outcomes, strict=True):
            submitted_at = submit.submitted_at
            if isinstance(outcome, ServerError):
                failed.append(now - submitted_at)
                cancelled += outcome.status is StatusCode.CANCELLED
            else:
                queued.append(started_at - submitted_at)
                lasted.append(now - submitted_at)
                inference_count += submit.batch_size or 1
        executed = BatchExecuted(
            self._key,
            batch.batch_size,
            inference_count,
            queued,
            lasted,
            timings,
            failed,
            first,
            cancelled,
        )
        if self._slow is not None:
            self._slow.look(batch, outcomes, timings, self.name)
        # Owed, because it can wait for room no better than whoever is served in turns.
        with contextlib.suppress(trio.BrokenResourceError):  # the server is being cut off
            self._statistics.send_owed(executed)
