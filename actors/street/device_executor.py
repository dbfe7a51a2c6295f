"""A backend in a thread of its own that holds a device: batches pass it in overlapping stages.

Owns the instance's lane, opened and closed in the thread, and what is in flight on it. The thread
sleeps on one queue, into which batches come from trio and news of landed ones from the device. A
device that is lost ends the instance, and with it its model's version.
"""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from actors.street.executor import Done, Job, ThreadExecutor, describe
from protocol.status import ServerError, internal, unavailable
from repo.backends.base import Backend, ExecuteRequest, Outcome, Timings
from repo.devices.lane import Lane
from repo.devices.pipeline import IN_FLIGHT, Pipeline, is_stageable
from repo.devices.port import DeviceError, DeviceLost

# A device that is lost calls nobody back, so with batches in flight somebody looks every now and
# then. Nothing waits for it otherwise.
LOOK_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class _Batch(Job):
    """A batch, which `work` does for those whose model has no stages."""

    requests: Sequence[ExecuteRequest]
    timings: Timings


def _nobody(_: object) -> None:
    """Nobody waits for news."""


class DeviceExecutor(ThreadExecutor):
    """Runs the batches of one instance on its device."""

    def __init__(self, backend: Backend, *, open_lane: Callable[[], Lane]) -> None:
        """`open_lane` is called in the thread, before the model is loaded. Raises DeviceError."""
        super().__init__(backend)
        self._open_lane = open_lane
        self.on_device = is_stageable(backend.context.config)
        self.depth = IN_FLIGHT if self.on_device else 1
        self._lane: Lane | None = None
        self._pipeline: Pipeline[Done] | None = None
        self._landed = Job(self._land_all, _nobody)

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        self._jobs.put(
            _Batch(lambda: self._backend.execute(requests, timings), done, requests, timings)
        )

    # --- in the thread ---------------------------------------------------------------------------

    def _load_backend(self) -> None:
        context = self._backend.context
        try:
            self._lane = self._backend.lane = self._open_lane()
        except DeviceError as error:
            raise unavailable(
                f"unable to load model '{context.model_name}', instance "
                f"'{context.instance_name}' has no device: {error}"
            ) from None
        super()._load_backend()
        model = self._backend.on_device() if self.on_device else None
        if model is not None:
            self._pipeline = Pipeline(
                self._lane,
                model,
                version=str(context.version),
                max_batch_size=max(context.config.max_batch_size, 1),
                notify=lambda: self._jobs.put(self._landed),
            )

    def _next(self) -> Job | None:
        while self._pipeline:
            with contextlib.suppress(queue.Empty):
                return self._jobs.get(timeout=LOOK_SECONDS)
            self._land_all()
        return super()._next()

    def _do(self, job: Job) -> None:
        if job is self._landed:
            self._land_all()
        elif self._pipeline is not None and isinstance(job, _Batch):
            self._launch(self._pipeline, job)
        else:
            super()._do(job)

    def _launch(self, pipeline: Pipeline[Done], batch: _Batch) -> None:
        try:
            while not pipeline.begin(batch.requests, batch.timings, batch.done):
                self._land(pipeline)
        except DeviceLost as error:
            self._end(batch.done, self._lost(error))
            self._give_up(pipeline, error)
        # ring boundary: model code may raise anything, SystemExit too
        except BaseException as error:  # noqa: BLE001
            self._end(batch.done, describe(error))

    def _land_all(self) -> Sequence[Outcome | None]:
        """Answer for every batch that has come through."""
        pipeline = self._pipeline
        try:
            while pipeline and pipeline.has_landed():
                self._land(pipeline)
        except DeviceError as error:
            assert pipeline is not None, "somebody was asked"
            self._give_up(pipeline, error)
        return ()

    def _land(self, pipeline: Pipeline[Done]) -> None:
        """Answer for the oldest batch; blocks until it has come through."""
        try:
            flight, outcomes = pipeline.finish()
        except DeviceError as error:
            self._give_up(pipeline, error)
        else:
            self._end(flight.passenger, outcomes)

    def _give_up(self, pipeline: Pipeline[Done], error: DeviceError) -> None:
        for flight in pipeline.abandon():
            self._end(flight.passenger, self._lost(error))
        self._answers.put(functools.partial(self._crashed, error))

    def _lost(self, error: DeviceError) -> ServerError:
        name = self._backend.context.instance_name
        return internal(f"model instance '{name}' has lost its device: {error}")

    def _crashed(self, error: DeviceError) -> None:
        """In trio: the instance ends, and says why."""
        self._crash = self._crash or error
        self.stop()

    def _unload(self) -> None:
        while self._pipeline:
            self._land(self._pipeline)
        super()._unload()
        if self._lane is not None:
            self._lane.close()
