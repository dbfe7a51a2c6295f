"""The port through which an instance runs a batch, and the executor that uses a thread.

An executor owns the code of one model instance. `ThreadExecutor` keeps a backend in one dedicated
worker thread for its whole life, because a current device and a current CUDA stream belong to a
thread. `actors/processes/executor.py` keeps a model.py in a worker process, and
`simulation/executor.py` only sleeps in virtual time.
"""

from __future__ import annotations

import abc
import functools
import logging
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from actors.thread_answers import ThreadAnswers, current_thread_answers
from protocol.status import ServerError, cancelled, internal
from repo.backends.base import Backend, ExecuteRequest, Outcome, Timings

log = logging.getLogger(__name__)


Ended = Sequence[Outcome | None] | ServerError
"""How a batch ended: one outcome per request, None where the sender carries the responses; or why
it failed as a whole."""

Done = Callable[[Ended], None]
"""Hears, within trio and once, how a batch ended."""


class Executor(Protocol):
    """What an Instance needs of the code it drives."""

    depth: int
    """How many batches it takes at once; 2 lets a worker start the next one without a pause."""

    on_device: bool
    """Whether it takes tensors on its device, and overlaps copies of one batch with another's
    computing, so that two batches are worth having even of a dynamic batcher."""

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, call `started`, serve until `stop`, then release everything.

        Raises ServerError, before `started`, when the model does not load.
        """

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        """Run one batch, between `started` and `stop`, and fill in `timings`.

        `done` may be called before this returns. It is not if `start` ends before the batch does.
        """

    def cancel(self, number: int) -> None:
        """Nobody waits for request `number`; a hint that may come too late."""

    async def is_ready(self) -> bool:
        """Whether the next batch has a chance."""

    def stop(self) -> None:
        """End `start` once the batches in flight are done."""


class PlainExecutor(abc.ABC):
    """An executor with neither thread nor process: it lives until it is stopped."""

    depth = 1
    on_device = False

    def __init__(self) -> None:
        self._stopped = trio.Event()
        self._nursery: trio.Nursery

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._stopped.wait()

    @abc.abstractmethod
    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        """As the port says."""

    def cancel(self, number: int) -> None:  # noqa: B027  # nothing can be done about a batch
        """It would be too late."""

    async def is_ready(self) -> bool:
        return not self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()


class TaskExecutor(PlainExecutor):
    """An executor that is nothing but coroutines: every batch is a task."""

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        self._nursery.start_soon(self._run, requests, timings, done)

    async def _run(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        ended: Ended
        try:
            ended = await self.execute(requests, timings)
        except ServerError as error:
            ended = error
        done(ended)

    @abc.abstractmethod
    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        """Run one batch: one outcome per request. Raises ServerError if it fails as a whole."""


async def execute(
    executor: Executor, requests: Sequence[ExecuteRequest], timings: Timings
) -> Sequence[Outcome | None]:
    """Run one batch and wait for it. Raises ServerError when it failed as a whole."""
    send, receive = trio.open_memory_channel[Ended](1)
    executor.begin(requests, timings, send.send_nowait)
    ended = await receive.receive()
    if isinstance(ended, ServerError):
        raise ended
    return ended


@dataclass(slots=True, eq=False)
class Job:
    """Work for the thread, and who hears in trio how it ended."""

    work: Callable[[], Sequence[Outcome | None]]
    done: Done


def describe(error: BaseException) -> ServerError:
    """What a client may know of an exception that backend code raised."""
    if isinstance(error, ServerError):
        return error
    return internal("".join(traceback.format_exception_only(error)).strip())


class ThreadExecutor:
    """A backend in a thread of its own, which finds its next batch when it has run one."""

    depth = 2
    on_device = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._cores = backend.context.cores
        # At most `depth` jobs plus load, unload and the sentinel are ever inside.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: ThreadAnswers
        self._crash: BaseException | None = None  # of whoever heard how a batch ended
        self._loaded = False

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._answers = current_thread_answers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._own_thread)
            try:
                await self._load()
                self._loaded = True
                task_status.started()
                # The thread ends the nursery once `stop` has sent the sentinel.
            except BaseException:
                self.stop()
                raise
        if self._crash is not None:
            raise self._crash

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        self._jobs.put(Job(lambda: self._execute(requests, timings), done))

    def cancel(self, number: int) -> None:
        """A batch in a thread cannot be interrupted; its backend polls `sender.is_cancelled`."""

    def _execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        """In the thread. Raises ServerError; CANCELLED where nobody waits any longer."""
        if all(request.sender.is_cancelled() for request in requests if not request.is_null):
            raise cancelled()
        return self._backend.execute(requests, timings)

    async def is_ready(self) -> bool:
        return self._loaded

    def stop(self) -> None:
        self._loaded = False
        self._jobs.put(None)

    async def _load(self) -> None:
        """Raises ServerError. Model code cannot be interrupted, so neither can this wait."""

        def load() -> Sequence[Outcome | None]:
            self._load_backend()
            return ()

        send, receive = trio.open_memory_channel[Ended](1)
        self._jobs.put(Job(load, send.send_nowait))
        with trio.CancelScope(shield=True):
            ended = await receive.receive()
        if isinstance(ended, ServerError):
            raise ended

    def _load_backend(self) -> None:
        """In the thread. Raises ServerError."""
        self._backend.load()

    async def _own_thread(self) -> None:
        # The shield keeps the thread until it has unloaded; the sentinel always comes.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._serve, limiter=trio.CapacityLimiter(1))

    def _serve(self) -> None:
        """The thread: one job after the other until the sentinel."""
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # this thread, and those that the model starts
        while (job := self._next()) is not None:
            self._do(job)
            del job  # an idle instance keeps no tensors
        self._unload()

    def _next(self) -> Job | None:
        return self._jobs.get()

    def _do(self, job: Job) -> None:
        ended: Ended
        try:
            ended = job.work()
        # ring boundary: model code may raise anything, SystemExit too
        except BaseException as error:  # noqa: BLE001
            ended = describe(error)
        self._end(job.done, ended)

    def _end(self, done: Done, ended: Ended) -> None:
        """In the thread: say in trio how a batch ended."""
        self._answers.put(functools.partial(self._tell, done, ended))

    def _tell(self, done: Done, ended: Ended) -> None:
        """In trio, the turns of others held: a job has ended."""
        try:
            done(ended)
        except BaseException as error:  # noqa: BLE001  # raised again by `start`
            self._crash = error
            self.stop()

    def _unload(self) -> None:
        """Nobody waits for this any longer, so what goes wrong is for the log alone."""
        try:
            self._backend.unload()
        except BaseException:  # as above
            log.exception(
                "model instance '%s' failed to unload", self._backend.context.instance_name
            )
