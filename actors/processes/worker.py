"""One life of one worker process.

Owns the process, the link to it and the requests inside it. Hears the worker's packets; says
batches, credits and cancellations. What comes after its end is not its business.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.processes.calls import OutgoingCalls
from actors.processes.child import Child
from actors.processes.inflight import BatchEnded, Death, Execution, InFlight
from actors.processes.link import Link, WorkerGoneError
from actors.processes.ports import BlsPort, Log, LogLevel, MetricsPort
from actors.processes.zygote import Starter
from actors.readiness import current_readiness
from protocol.status import internal
from repo.backends.base import ExecuteRequest, Timings
from repo.backends.python import wire
from repo.backends.python.arena import ArenaFullError
from repo.backends.python.launch import WorkerSpec
from repo.backends.python.layout import WireError

# How long a model's `is_ready` may take; Triton's number.
READY_SECONDS: Final = 5.0

# Packets read before other tasks get a turn.
_READ_BURST: Final = 32

_LOG_LEVELS: Final[tuple[LogLevel, ...]] = ("INFO", "WARNING", "ERROR", "VERBOSE")

_NS: Final = 1_000_000_000


class WorkerProcess:
    """See the module's docstring. `begin` only after `run` has called `started`.

    `nursery` holds what may outlive the process: responses that arrived before its end are still
    delivered.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        nursery: trio.Nursery,
        starter: Starter,
        log: Log,
        bls: BlsPort | None,
        metrics: MetricsPort | None,
    ) -> None:
        self._spec = spec
        self._starter = starter
        self._instance_name = spec.load.instance_name
        self._log = log
        self._link = Link(
            first_segment_bytes=spec.load.first_segment_bytes,
            segment_growth_bytes=spec.load.segment_growth_bytes,
        )
        self._inside = InFlight(
            spec.load, nursery=nursery, feedback=self, shapes=spec.output_shapes
        )
        self._calls = OutgoingCalls(
            self._link,
            nursery=nursery,
            bls=bls,
            metrics=metrics,
            limit=spec.load.bls_limit,
            trace_of=self._inside.trace_of,
        )
        self._child: Child | None = None
        # What `work` had no room for: the batches that the instance may have here, and a word.
        self._unsent: deque[bytes] = deque()
        self._nursery: trio.Nursery  # of what lives as long as the process
        self._flush_wanted = trio.Event()
        self._load_answered = trio.Event()
        self._load_answer: wire.Message | None = None
        self._has_is_ready = False
        self._ready_answered: trio.Event | None = None  # while the model is being asked
        self._ready = False
        self.ended = trio.Event()

    @property
    def completed_count(self) -> int:
        """Batches that the model has answered."""
        return self._inside.completed_count

    @property
    def pid(self) -> int:
        assert self._child is not None, "only a running worker has a process id"
        return self._child.pid

    async def run(
        self, *, task_status: trio.TaskStatus[wire.Message] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the process, load, call `started` with the answer, and return once it has ended.

        Raises ServerError when it does not start or dies while loading. When cancelled, kills it.
        """
        try:
            self._child = await self._start()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._child.run)
                nursery.start_soon(self._read)
                nursery.start_soon(self._flush)
                nursery.start_soon(self._report_load, task_status)
                await self._child.wait()
                self._read_rest()
                nursery.cancel_scope.cancel()
        finally:
            self.ended.set()
            self._inside.died(self._link.begun)
            self._calls.close()
            self._link.close()
            if self._ready_answered is not None:
                self._ready_answered.set()
        if self._load_answer is None:
            raise internal(f"Stub process '{self._instance_name}' is not healthy.")

    def kill(self) -> None:
        """End the process at once; `run` then returns."""
        if self._child is not None:
            self._child.kill()

    async def finalize(self) -> None:
        """Let the requests inside finish, then ask the model to finalize and the process to exit.

        A worker that is still loading is ended at once.
        """
        if not self._load_answered.is_set():
            self.kill()
        await self._inside.until_quiet()
        if not self.ended.is_set():
            self._tell(wire.Finalize())

    # --- requests --------------------------------------------------------------------------------

    def begin(
        self,
        requests: Sequence[ExecuteRequest],
        timings: Timings,
        end: Callable[[BatchEnded], None],
    ) -> None:
        """Run a batch; `end` hears how it ended, perhaps before this returns."""
        started_at = trio.current_time()
        if self.ended.is_set():
            end(Death(never_started=True))
            return
        execution = self._inside.open(requests, timings, end)
        try:
            packet = self._link.execute_packet(execution.base, requests)
        except (WireError, ArenaFullError, KeyError) as error:
            self._inside.withdraw(execution)
            text = (
                f"Failed to process the request(s) for model instance '{self._instance_name}', "
                f"message: {error}"
            )
            end(internal(text))
            return
        timings.input_ns = int((trio.current_time() - started_at) * _NS)
        try:
            self._post(packet)
        except WorkerGoneError:
            self._lose(execution)

    def _lose(self, execution: Execution) -> None:
        """The worker cannot be talked to: make sure that it is no more."""
        self._inside.withdraw(execution)
        self.kill()
        execution.end(Death(never_started=True))

    def cancel(self, request_number: int) -> None:
        """Nobody waits for this request any longer: let `is_cancelled` say so."""
        number = self._inside.number_of(request_number)
        if number is not None:
            self.cancelled(number)

    def cancelled(self, number: int) -> None:
        """As `cancel`, by our own number."""
        if not self.ended.is_set():
            self._say(wire.Cancel(number))

    def credit(self, number: int, room: int) -> None:
        """The client has taken responses: the model may send as many more."""
        if not self.ended.is_set():
            self._say(wire.Credit(number, room, self._link.take_releases()))

    async def is_ready(self) -> bool:
        """What the model says, if it has a say; concurrent questions share one answer."""
        if self.ended.is_set():
            return False
        if not self._has_is_ready:
            return True
        if self._ready_answered is None:
            self._ready_answered = trio.Event()
            self._say(wire.CheckReady())
        answered = self._ready_answered
        with trio.move_on_after(READY_SECONDS):
            await answered.wait()
            return self._ready and not self.ended.is_set()
        return False

    # --- the process -----------------------------------------------------------------------------

    async def _start(self) -> Child:
        try:
            return await self._starter.start(
                self._spec, self._link.worker_descriptors, log=self._log
            )
        except OSError as error:
            raise internal(
                f"Failed to start the worker of model instance '{self._instance_name}': {error}"
            ) from error
        finally:
            self._link.close_worker_ends()

    async def _report_load(self, task_status: trio.TaskStatus[wire.Message]) -> None:
        if self._spec.cores:
            # Before the model is imported, whose threads inherit it. A worker may be dead already.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self.pid, self._spec.cores)
        self._tell(self._spec.load)
        await self._load_answered.wait()
        assert self._load_answer is not None, "set before the event"
        task_status.started(self._load_answer)

    # --- sending ---------------------------------------------------------------------------------

    def _post(self, packet: bytes) -> None:
        """Send on `work`, now or as soon as there is room. Raises WorkerGoneError."""
        if self._unsent or not self._link.send_work(packet):
            self._unsent.append(packet)
            if len(self._unsent) == 1:
                self._nursery.start_soon(self._send_unsent)

    async def _send_unsent(self) -> None:
        link, unsent = self._link, self._unsent
        try:
            while unsent:
                await trio.lowlevel.wait_writable(link.work_descriptor)
                while unsent and link.send_work(unsent[0]):
                    unsent.popleft()
        except WorkerGoneError:
            self.kill()  # its end is the end of the batches inside

    def _tell(self, message: wire.Message) -> None:
        """Send a message on `work`; a worker that cannot hear it is ended."""
        try:
            self._post(self._link.packet(message))
        except WorkerGoneError:
            self.kill()

    def _say(self, message: wire.Message) -> None:
        self._link.say(message)
        if self._link.has_backlog:
            self._flush_wanted.set()

    async def _flush(self) -> None:
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted = trio.Event()
            while not self._link.flush():
                await trio.lowlevel.wait_writable(self._link.control_descriptor)

    # --- receiving -------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            await current_readiness().attend(self._link.work_descriptor, self._hear_burst)
        except WorkerGoneError:
            self.kill()  # without its socket it is of no use
        except WireError as error:
            self._log("ERROR", f"worker broke the protocol: {error}")
            self.kill()

    def _hear_burst(self) -> int:
        """Hear what the worker has said, and return how much that was."""
        for heard in range(_READ_BURST):
            packet = self._link.receive()
            if packet is None:
                return heard
            self._hear(packet)
            if packet[0] == wire.COMPLETED and not self._inside.is_executing:
                return heard + 1  # there is nothing more to come, and asking costs a call
        return _READ_BURST

    def _read_rest(self) -> None:
        """What the worker said before its end still counts."""
        try:
            while (packet := self._link.receive()) is not None:
                self._hear(packet)
        except (WorkerGoneError, WireError):
            return

    def _hear(self, packet: bytes) -> None:
        tag = packet[0]
        if tag == wire.COMPLETED:
            self._inside.completed(packet, self._link.records(packet, wire.TIMINGS.size))
        elif tag == wire.RESPONSE:
            self._inside.responded(packet, self._link.records(packet, wire.FINAL.size))
        elif tag == wire.BLS_INFER:
            self._calls.infer(packet, self._link.records(packet, wire.FINAL.size))
        else:
            self._hear_message(wire.decode(packet))

    def _hear_message(self, message: wire.Message) -> None:
        match message:
            case wire.Dropped(number=number):
                self._inside.dropped(number)
            case wire.Log(level=level, message=text):
                self._log(_LOG_LEVELS[level], text)
            case wire.Loaded() | wire.LoadFailed() | wire.AutoCompleted():
                if isinstance(message, wire.Loaded):
                    self._has_is_ready = bool(message.has_is_ready)
                self._load_answer = message
                self._load_answered.set()
            case wire.Readiness(ready=ready):
                self._ready = bool(ready)
                if self._ready_answered is not None:
                    self._ready_answered.set()
                    self._ready_answered = None
            case wire.ForgetSegment(number=number):
                self._link.forget_segment(number)
            case _ if not self._calls.hear(message):
                raise WireError(f"a worker does not say {type(message).__name__}")
        if self._link.has_backlog:
            self._flush_wanted.set()
