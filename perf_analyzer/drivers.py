"""Loads by mode: how a level of concurrency or of requests per second is started and ended.

Owns the choice of loop, schedule and picker. The profiler asks for a level and gets it.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random  # noqa: TID251  # seeded by --seed
from typing import Protocol

import trio

from perf_analyzer.clients import Client
from perf_analyzer.loads import MAX_OUTSTANDING, BaseLoad, ClosedLoop, Judge, OpenLoop
from perf_analyzer.model import ModelInfo, SetupError
from perf_analyzer.options import RATE_SEQUENCES, Mode, Options
from perf_analyzer.picking import Picker, PlainPicker, SequencePicker
from perf_analyzer.recorder import Recorder
from perf_analyzer.requests import Payloads
from perf_analyzer.schedules import ConstantSchedule, Schedule, custom, poisson, read_intervals
from perf_analyzer.sequences import Sequences
from perf_analyzer.timer import Sleeper


def is_asynchronous(options: Options, model: ModelInfo) -> bool:
    """Sequences and streams are asynchronous unless the user says otherwise."""
    if options.synchronous:
        return False
    return options.asynchronous or options.streaming or model.is_sequence


def picker_of(options: Options, model: ModelInfo, payloads: Payloads, *, keeps: bool) -> Picker:
    """The walk through the data that the model needs."""
    with_ids = is_asynchronous(options, model)
    if not model.is_sequence:
        return PlainPicker(payloads, with_ids=with_ids, keeps=keeps)
    if with_ids and options.mode is Mode.CONCURRENCY and options.levels.end == 0:
        raise SetupError(
            "The 'end' concurrency can not be 0 for sequence models when using asynchronous API."
        )
    live = live_sequences(options)
    if options.sequences.id_count < live:
        raise SetupError(
            "sequence id range specified is smaller than the maximum possible number of "
            f"sequences: {options.sequences.id_count} ids for {live}"
        )
    random = Random(options.seed)  # noqa: S311  # lengths, not secrets
    sequences = Sequences(payloads.plan.data, options.sequences, random)
    return SequencePicker(payloads, sequences, with_ids=with_ids, keeps=keeps)


def live_sequences(options: Options) -> int:
    """How many sequences may be live at a time."""
    if options.is_open_loop:
        return options.sequence_count or RATE_SEQUENCES
    return int(max(options.levels.start, options.levels.end))


class Driver(Protocol):
    """A load that can be brought to a level."""

    @property
    def load(self) -> BaseLoad:
        """The loop itself."""

    async def warm_up(self, count: int, value: Fraction) -> None:
        """Send so many requests and forget them."""

    async def start_level(self, value: Fraction) -> None:
        """Bring the load to the level; it stays there."""

    async def end(self) -> None:
        """Send nothing more; let what is under way, and every sequence, end."""


class ClosedDriver:
    """Levels of concurrency."""

    def __init__(self, load: ClosedLoop, recorder: Recorder, *, budget: int | None) -> None:
        self.load: ClosedLoop = load
        self._recorder = recorder
        self._budget = budget

    async def warm_up(self, count: int, value: Fraction) -> None:
        self.load.budget = count
        await self.load.set_width(min(int(value), count))
        await self.load.finished(count)
        await self.load.drained()
        self._recorder.forget()

    async def start_level(self, value: Fraction) -> None:
        self.load.budget = self._budget
        await self.load.set_width(int(value))

    async def end(self) -> None:
        self.load.stop()
        await self.load.drained()
        await self.load.end_sequences()


class OpenDriver:
    """Levels of requests per second. Runs its schedule in `nursery`."""

    def __init__(
        self,
        load: OpenLoop,
        recorder: Recorder,
        nursery: trio.Nursery,
        *,
        options: Options,
        offsets: tuple[float, ...] = (),
    ) -> None:
        """`offsets` are the instants of a fixed schedule."""
        self.load = load
        self._recorder = recorder
        self._nursery = nursery
        self._options = options
        self._offsets = offsets
        self._scope = trio.CancelScope()
        self._width = 0

    async def warm_up(self, count: int, value: Fraction) -> None:
        self.load.budget = count
        await self._widen()
        await self.load.run(self._schedule(value))
        await self.load.finished(count)
        self._recorder.forget()
        if self._offsets:
            start = self._offsets[count] if count < len(self._offsets) else 0.0
            self._offsets = tuple(each - start for each in self._offsets[count:])

    async def start_level(self, value: Fraction) -> None:
        await self._pause()
        self.load.budget = self._options.request_count or None
        await self._widen()
        self.load.resume()
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run, self._schedule(value), self._scope)

    async def _widen(self) -> None:
        await self.load.client.widen(self._options.worker_limit)

    async def _run(self, schedule: Schedule, scope: trio.CancelScope) -> None:
        with scope:
            await self.load.run(schedule)

    async def _pause(self) -> None:
        self._scope.cancel()
        self.load.stop()
        if isinstance(self.load.picker, SequencePicker):
            await self.load.end_sequences()

    async def end(self) -> None:
        await self._pause()
        await self.load.drained()

    def _schedule(self, value: Fraction) -> Schedule:
        options = self._options
        if options.mode is Mode.FIXED_SCHEDULE:
            return Schedule(self._offsets)
        if options.mode is Mode.CUSTOM_INTERVALS:
            return custom(intervals(options))
        if options.poisson:
            seconds = options.max_trials * options.interval_ms / 1000
            return poisson(float(value), seconds)
        return ConstantSchedule(float(value))


def intervals(options: Options) -> list[int]:
    """The intervals file. Raises SetupError."""
    try:
        return read_intervals(Path(options.intervals_file).read_text())
    except OSError as error:
        raise SetupError(f"failed to open '{options.intervals_file}': {error.strerror}") from None
    except ValueError as error:
        raise SetupError(f"failed to read '{options.intervals_file}': {error}") from None


def driver_of(
    options: Options,
    model: ModelInfo,
    *,
    client: Client,
    picker: Picker,
    recorder: Recorder,
    judge: Judge | None,
    halt: trio.Event,
    nursery: trio.Nursery,
    sleeper: Sleeper,
    offsets: tuple[float, ...],
) -> Driver:
    """The load of the mode that was asked for."""
    if not options.is_open_loop:
        closed = ClosedLoop(client=client, picker=picker, recorder=recorder, halt=halt, judge=judge)
        return ClosedDriver(closed, recorder, budget=options.request_count or None)
    slots = live_sequences(options) if isinstance(picker, SequencePicker) else 0
    if isinstance(picker, SequencePicker):
        picker.sequences.widen(slots)
    asynchronous = is_asynchronous(options, model)
    opened = OpenLoop(
        client=client,
        picker=picker,
        recorder=recorder,
        halt=halt,
        judge=judge,
        sleep_until=sleeper.sleep_until,
        max_outstanding=MAX_OUTSTANDING if asynchronous else options.worker_limit,
        slots=slots,
        serial=options.serial_sequences and slots > 0,
    )
    return OpenDriver(opened, recorder, nursery, options=options, offsets=offsets)
