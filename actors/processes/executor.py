"""The executor that keeps a model.py in a worker process of its own.

Owns the succession of one instance's worker processes: starts the first, replaces one that died,
stops the last. It knows which batch died with a worker and what becomes of it; what happens inside
a worker's life is `worker`'s.

A worker's death fails the batch that its model was running, and nothing else: a batch that still
lay in the socket goes to the next worker. Who of several requests is to blame is found by running
them again in halves, unless the model must not be given a request twice. A worker that dies again
without having answered anything, or whose model no longer loads, is replaced ever more slowly;
requests fail meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.policy.bisection import DEATH_LIMIT, Bisection
from actors.policy.lead import MOST
from actors.processes.inflight import BatchEnded, Death, not_healthy
from actors.processes.ports import BlsPort, Log, MetricsPort
from actors.processes.worker import WorkerProcess
from actors.processes.zygote import FreshInterpreters, Starter
from actors.street.executor import Done
from protocol.status import ServerError, internal
from repo.backends.base import ExecuteRequest, Outcome, Timings
from repo.backends.python import wire
from repo.backends.python.launch import WorkerSpec

# The pause before a second start in a row that came to nothing; it doubles up to the last.
FIRST_BACKOFF_SECONDS: Final = 0.1
LAST_BACKOFF_SECONDS: Final = 30.0

# How long requests inside may take to finish, and then the model to finalize, before the kill.
DEFAULT_GRACE_SECONDS: Final = 30.0

# Batches in flight: the worker has its next one at hand when it answers, and never idles.
DEPTH: Final = MOST

# Workers that may die before a batch that none of them has seen is given up: all that the batch
# beside it may take while its poisoned request is looked for, and a few that die by themselves.
_MOVES: Final = DEATH_LIMIT + 3


class ProcessExecutor:
    """An Executor (`actors/street/executor.py`); see the module's docstring."""

    depth = DEPTH
    on_device = False

    def __init__(
        self,
        prepare: Callable[[], WorkerSpec],
        *,
        log: Log,
        bls: BlsPort | None = None,
        metrics: MetricsPort | None = None,
        starter: Starter | None = None,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
    ) -> None:
        """`prepare` says what to start; it may block, and is called in a thread.

        Without a `starter`, such as a Zygote, every worker is an interpreter started afresh.
        """
        self._prepare = prepare
        self._log = log
        self._bls = bls
        self._metrics = metrics
        self._starter = FreshInterpreters() if starter is None else starter
        self._grace_seconds = grace_seconds
        self._bisects = False
        self._bisecting = 0  # batches whose poisoned request is being looked for
        self._instance_name = ""
        self._nursery: trio.Nursery
        self._worker: WorkerProcess | None = None
        self._restarting = False  # a replacement is on its way, without a pause before it
        self._changed = trio.Event()  # set, and replaced, with every change of the above
        self._stopping = trio.Event()
        self.restart_count = 0

    @property
    def worker_pid(self) -> int | None:
        """The process that serves now; None while there is none."""
        return None if self._worker is None else self._worker.pid

    # --- the life of the instance ----------------------------------------------------------------

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, call `started`, serve until `stop`. The worker process never outlives this.

        Raises ServerError, before `started`, when the model does not load.
        """
        spec = await trio.to_thread.run_sync(self._prepare)
        self._instance_name = spec.load.instance_name
        self._bisects = spec.bisects_poison
        # For responses on their way to clients, which a worker's death does not stop.
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            error = await self._serve(spec, nursery, task_status)
            # What is still on its way to slow clients gets no more time than the worker had.
            grace_seconds = 0.0 if error is not None else self._grace_seconds
            nursery.cancel_scope.deadline = trio.current_time() + grace_seconds
        if error is not None:
            raise error

    async def _serve(
        self, spec: WorkerSpec, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> ServerError | None:
        """Worker after worker; an error when the very first does not load."""
        failures = 0
        first = True
        while not self._stopping.is_set():
            error, useful = await self._live(spec, nursery, task_status if first else None)
            if first and error is not None:
                return error
            first = False
            if self._stopping.is_set():
                break
            if useful:
                failures = 0
            elif not self._bisecting:  # deaths on the way to a poisoned request are counted there
                failures += 1
            self.restart_count += 1
            cause = "has died" if error is None else f"does not load: {error.message}"
            self._log("ERROR", f"the worker {cause}")
            await self._pause(failures)
        self._set(None, restarting=False)
        return None

    async def _live(
        self,
        spec: WorkerSpec,
        late: trio.Nursery,
        task_status: trio.TaskStatus[None] | None,
    ) -> tuple[ServerError | None, bool]:
        """One worker's life: why it did not load, and whether it answered anything."""
        worker = WorkerProcess(
            spec,
            nursery=late,
            starter=self._starter,
            log=self._log,
            bls=self._bls,
            metrics=self._metrics,
        )
        error: ServerError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._finalize_when_stopping, worker)
            try:
                answer = await nursery.start(worker.run)
                if isinstance(answer, wire.LoadFailed):
                    error = internal(answer.message)
            except ServerError as failure:
                error = failure
            if error is None:
                self._set(worker, restarting=False)
                if task_status is not None:
                    task_status.started()
                await worker.ended.wait()
            nursery.cancel_scope.cancel()
        return error, worker.completed_count > 0

    async def _finalize_when_stopping(self, worker: WorkerProcess) -> None:
        await self._stopping.wait()
        with trio.move_on_after(self._grace_seconds):
            await worker.finalize()
            await worker.ended.wait()
        worker.kill()

    async def _pause(self, failures: int) -> None:
        """Before a replacement: nothing, unless the last ones came to nothing."""
        self._set(None, restarting=failures <= 1)
        if failures > 1:
            seconds = min(FIRST_BACKOFF_SECONDS * 2 ** (failures - 2), LAST_BACKOFF_SECONDS)
            with trio.move_on_after(seconds):
                await self._stopping.wait()

    def stop(self) -> None:
        """End `start`: let the requests inside finish, finalize; kill after the grace period."""
        self._stopping.set()

    def _set(self, worker: WorkerProcess | None, *, restarting: bool) -> None:
        self._worker = worker
        self._restarting = restarting
        self._changed.set()
        self._changed = trio.Event()

    # --- requests --------------------------------------------------------------------------------

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        """Run one batch, in this worker or, if none has seen it when this one dies, in the next."""
        worker = self._worker
        if worker is None:
            self._nursery.start_soon(self._move, requests, timings, done, None)
            return

        def end(ended: BatchEnded) -> None:
            if not isinstance(ended, Death):
                done(ended)
            elif ended.never_started:
                self._nursery.start_soon(self._move, requests, timings, done, worker)
            else:
                self._nursery.start_soon(self._bury, requests, timings, done, ended)

        worker.begin(requests, timings, end)

    async def _move(
        self,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        done: Done,
        lost: WorkerProcess | None,
    ) -> None:
        """Run a batch that no worker has seen in the next one."""
        ended = await self._run(requests, timings, lost)
        if isinstance(ended, Death):
            await self._bury(requests, timings, done, ended)
        else:
            done(ended)

    async def _bury(
        self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done, death: Death
    ) -> None:
        """End a batch that died with its worker."""
        done(await self._after_death(requests, timings, death))

    async def _after_death(
        self, requests: Sequence[ExecuteRequest], timings: Timings, death: Death
    ) -> Sequence[Outcome | None]:
        """The outcomes of a batch that killed its worker, or died with it."""
        error = not_healthy(self._instance_name)
        outcomes: list[Outcome | None] = [
            None if place in death.failed_late else error for place in range(len(requests))
        ]
        if self._bisects and len(requests) > 1:
            self._bisecting += 1
            try:
                await self._bisect(requests, timings, outcomes)
            finally:
                self._bisecting -= 1
        return outcomes

    async def _run(
        self,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        worker: WorkerProcess | None = None,
    ) -> BatchEnded:
        """Run a batch in whichever worker there is, after `worker`, until one has seen it."""
        for _ in range(_MOVES):
            worker = await self._worker_after(worker)
            if worker is None:
                return not_healthy(self._instance_name)
            send, receive = trio.open_memory_channel[BatchEnded](1)
            worker.begin(requests, timings, send.send_nowait)
            ended = await receive.receive()
            if not isinstance(ended, Death) or not ended.never_started:
                return ended
        return Death(never_started=True)

    async def _worker_after(self, lost: WorkerProcess | None) -> WorkerProcess | None:
        """Whoever is there, or follows a worker that has died; None if nobody is coming."""
        while self._worker is lost and lost is not None:
            await self._changed.wait()  # until it is known what follows
        while self._worker is None:
            if not self._restarting or self._stopping.is_set():
                return None
            await self._changed.wait()
        return self._worker

    async def _bisect(
        self,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        outcomes: list[Outcome | None],
    ) -> None:
        """Find whom to blame: run what died, without an answer, again in halves.

        What is not cleared keeps the error that it has in `outcomes`.
        """
        bisection = Bisection(
            [
                place
                for place, outcome in enumerate(outcomes)
                if outcome is not None and not requests[place].sender.is_cancelled()
            ]
        )
        while part := bisection.next_part():
            ended = await self._run([requests[place] for place in part], timings)
            if isinstance(ended, ServerError):
                return
            if not isinstance(ended, Death):
                for place, outcome in zip(part, ended, strict=True):
                    outcomes[place] = outcome
                continue
            late = [part[index] for index in ended.failed_late]
            for place in late:
                outcomes[place] = None
            if bisection.died(late):
                name = requests[part[0]].request.id or "<id_unknown>"
                self._log("ERROR", f"request '{name}' kills the worker that is given it alone")

    def cancel(self, number: int) -> None:
        """Nobody waits for request `number`; a hint that may come too late."""
        if self._worker is not None:
            self._worker.cancel(number)

    async def is_ready(self) -> bool:
        """Whether a worker is up and its model, asked, says that it is ready."""
        if self._worker is None:
            return False
        return await self._worker.is_ready()
