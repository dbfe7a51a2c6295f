"""The port through which an instance runs a batch, and the executor that uses a thread.

An executor owns the code of one model instance. `ThreadExecutor` keeps a backend in one dedicated
worker thread for its whole life, because a current device and a current CUDA stream belong to a
thread. `actors/process_executor.py` keeps a model.py in a worker process, and
`simulation/executor.py` only sleeps in virtual time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from protocol.status import ServerError, internal
from repo.backends.base import Backend, ExecuteRequest, Outcome, Timings

log = logging.getLogger(__name__)


class Executor(Protocol):
    """What an Instance needs of the code it drives."""

    depth: int
    """How many batches it takes at once; 2 lets a worker start the next one without a pause."""

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, call `started`, serve until `stop`, then release everything.

        Raises ServerError, before `started`, when the model does not load.
        """

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        """Run one batch: one outcome per request, None where the sender carries the responses.

        Raises ServerError when the batch failed as a whole.
        """

    def cancel(self, number: int) -> None:
        """Nobody waits for request `number`; a hint that may come too late."""

    async def is_ready(self) -> bool:
        """Whether the next batch has a chance."""

    def stop(self) -> None:
        """End `start` once the batches in flight are done."""


@dataclass(slots=True, eq=False)
class _Job:
    """Work for the thread and where its result goes; filled in by the thread, then read by trio."""

    work: Callable[[], Sequence[Outcome | None]]
    done: trio.Event = field(default_factory=trio.Event)
    outcomes: Sequence[Outcome | None] = ()
    error: ServerError | None = None


def _describe(error: BaseException) -> ServerError:
    """What a client may know of an exception that backend code raised."""
    if isinstance(error, ServerError):
        return error
    return internal("".join(traceback.format_exception_only(error)).strip())


class ThreadExecutor:
    """A backend in a thread of its own."""

    depth = 1

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._cores = backend.context.cores
        # At most `depth` jobs plus load, unload and the sentinel are ever inside.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._loaded = False

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._own_thread)
            try:
                await self._run(self._load)
                self._loaded = True
                task_status.started()
                # The thread ends the nursery once `stop` has sent the sentinel.
            except BaseException:
                self.stop()
                raise

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        return await self._run(lambda: self._backend.execute(requests, timings))

    def cancel(self, number: int) -> None:
        """A batch in a thread cannot be interrupted; its backend polls `sender.is_cancelled`."""

    async def is_ready(self) -> bool:
        return self._loaded

    def stop(self) -> None:
        self._loaded = False
        self._jobs.put(None)

    def _load(self) -> Sequence[Outcome | None]:
        self._backend.load()
        return ()

    async def _run(self, work: Callable[[], Sequence[Outcome | None]]) -> Sequence[Outcome | None]:
        job = _Job(work)
        self._jobs.put(job)
        # Model code cannot be interrupted, so the wait for it cannot either.
        with trio.CancelScope(shield=True):
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.outcomes

    async def _own_thread(self) -> None:
        # The shield keeps the thread until it has unloaded; the sentinel always comes.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._serve, limiter=trio.CapacityLimiter(1))

    def _serve(self) -> None:
        """The thread: one job after the other until the sentinel."""
        assert self._token is not None, "start sets the token before the thread exists"
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # this thread, and those that the model starts
        while (job := self._jobs.get()) is not None:
            try:
                job.outcomes = job.work()
            # ring boundary: model code may raise anything, SystemExit too
            except BaseException as error:  # noqa: BLE001
                job.error = _describe(error)
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(job.done.set)
            del job  # an idle instance keeps no tensors
        self._unload()

    def _unload(self) -> None:
        """Nobody waits for this any longer, so what goes wrong is for the log alone."""
        try:
            self._backend.unload()
        except BaseException:  # as above
            log.exception(
                "model instance '%s' failed to unload", self._backend.context.instance_name
            )
