"""Windows: what happened between two instants, from the client's counters and the server's.

Owns the edges of windows. Each begins where the last one ended; a window is over when its time is
up, when enough requests have ended, or when the run is halted.
"""

from __future__ import annotations

import resource
from array import array
from collections.abc import Callable
from typing import Final

import numpy as np
import trio

from perf_analyzer.control import Control, ControlError
from perf_analyzer.loads import BaseLoad
from perf_analyzer.metrics_poller import MetricsPoller
from perf_analyzer.model import ModelInfo
from perf_analyzer.recorder import Columns, Counters, Recorder
from perf_analyzer.server_statistics import (
    Counters as ServerCounters,
)
from perf_analyzer.server_statistics import ServerDelta, UnknownVersion, delta, read_counters
from perf_analyzer.telemetry import GpuFigures
from perf_analyzer.windows import Window, percentile
from perf_analyzer.wires import Wires

# The original sleeps this much longer than a window is said to be.
WINDOW_STRETCH: Final = 1.2
COUNT_POLL_SECONDS: Final = 1.0
# How often the event loop is asked how late it is.
LAG_PROBE_SECONDS: Final = 0.05
# epoll counts milliseconds, so a timer is late by up to one of them anyway.
TIMER_GRAIN_SECONDS: Final = 0.001
NO_REQUESTS: Final = (
    "No valid requests recorded within time interval. Please use a larger time window."
)


def cpu_seconds() -> float:
    """The CPU time of this program so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class LagProbe:
    """Measures how late the event loop comes to a timer."""

    def __init__(self) -> None:
        self._late: array[float] = array("d")

    async def run(self) -> None:
        while True:
            due_at = trio.current_time() + LAG_PROBE_SECONDS
            await trio.sleep_until(due_at)
            late = trio.current_time() - due_at - TIMER_GRAIN_SECONDS
            self._late.append(max(0.0, late))

    def cut(self) -> float:
        """The 99th percentile since the last cut, in seconds."""
        late, self._late = self._late, array("d")
        return percentile(np.sort(np.asarray(late)), 99)


class Meter:
    """Cuts the windows of one level. `halt` ends a window early."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        load: BaseLoad,
        recorder: Recorder,
        wires: Wires,
        control: Control,
        with_server: bool,
        poller: MetricsPoller | None,
        probe: LagProbe,
        halt: trio.Event,
        warn: Callable[[str], None],
    ) -> None:
        self._model = model
        self._load = load
        self._recorder = recorder
        self._wires = wires
        self._control = control
        self._with_server = with_server
        self._poller = poller
        self._probe = probe
        self._halt = halt
        self._warn = warn
        self._edge_at = 0.0
        self._counters = Counters()
        self._server: ServerCounters | None = None

    async def begin(self) -> None:
        """The first window of a level begins now; what ended before counts nowhere."""
        self._server = await self._look()
        self._recorder.cut()
        self._probe.cut()
        if self._poller is not None:
            self._poller.cut()
        self._counters = self._count()
        self._edge_at = trio.current_time()

    async def timed(self, seconds: float) -> Window:
        """The window that lasts 1.2 times so long."""
        with trio.move_on_at(self._edge_at + seconds * WINDOW_STRETCH):
            await self._halt.wait()
        return await self._cut()

    async def counted(self, count: int) -> Window:
        """The window that has so many requests; it lasts whole seconds."""
        wanted = self._recorder.completed + count
        while self._recorder.completed < wanted and not self._halt.is_set():
            await self._control.ready()
            with trio.move_on_after(COUNT_POLL_SECONDS):
                await self._halt.wait()
        return await self._cut()

    async def exactly(self, count: int) -> Window:
        """The window of so many requests, from the first one's start to the last one's end."""
        finished = trio.Event()

        async def wait() -> None:
            await self._load.finished(count)
            finished.set()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await self._halt.wait()
            nursery.cancel_scope.cancel()
        return await self._cut(clamp=True)

    async def _look(self) -> ServerCounters | None:
        if not self._with_server:
            return None
        # An ensemble's steps are models of their own.
        name, version = (
            ("", "") if self._model.composing else (self._model.name, self._model.version)
        )
        return read_counters(await self._control.statistics(name, version))

    def _count(self) -> Counters:
        recorder = self._recorder
        return Counters(
            self._load.sent,
            recorder.delayed,
            recorder.responses,
            recorder.sequences,
            self._wires.send_seconds,
            self._wires.receive_seconds,
            cpu_seconds(),
        )

    async def _cut(self, *, clamp: bool = False) -> Window:
        begun_at, ended_at = self._edge_at, trio.current_time()
        columns = self._recorder.cut()
        before, self._counters = self._counters, self._count()
        self._edge_at = ended_at
        moved = self._counters.minus(before)
        elapsed = ended_at - begun_at
        if clamp and columns.ends:
            begun_at, ended_at = _extent(columns)
        server, problem = await self._server_moved()
        if not problem and not columns.ends:
            problem = NO_REQUESTS
        return Window(
            begun_at=begun_at,
            ended_at=ended_at,
            latencies=columns.latencies,
            service=columns.service,
            ends=columns.ends,
            first=columns.first,
            responses=moved.responses,
            sequences=moved.sequences,
            sent=moved.sent,
            delayed=moved.delayed,
            send_seconds=moved.send_seconds,
            receive_seconds=moved.receive_seconds,
            busy=moved.cpu_seconds / elapsed if elapsed > 0 else 0.0,
            lag_seconds=self._probe.cut(),
            server=server,
            gpus=self._poller.cut() if self._poller is not None else GpuFigures(),
            problem=problem,
        )

    async def _server_moved(self) -> tuple[ServerDelta | None, str]:
        before = self._server
        try:
            self._server = await self._look()
            if before is None or self._server is None:
                return None, ""
            moved = delta(
                before,
                self._server,
                name=self._model.name,
                version=self._model.version,
                composing=self._model.composing,
                warn=self._warn,
            )
        except (ControlError, UnknownVersion) as error:
            return None, str(error)
        return moved, ""


def _extent(columns: Columns) -> tuple[float, float]:
    """From the first request's start to the last one's end."""
    ends = np.asarray(columns.ends)
    starts = ends - np.asarray(columns.service)
    return float(np.min(starts)), float(np.max(ends))
