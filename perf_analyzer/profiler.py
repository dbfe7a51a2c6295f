"""Levels: each measured until it is stable, or often enough, and which one comes next.

Owns the loop over windows of one level and the walk over levels. Reports what it does through
`Say`; the numbers are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Protocol

import trio

from perf_analyzer import console
from perf_analyzer.console import LevelReport
from perf_analyzer.meter import NO_REQUESTS, Meter
from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Mode, Options
from perf_analyzer.profile_export import Experiment
from perf_analyzer.recorder import Recorder
from perf_analyzer.stability import LAST_WINDOWS, Evidence, Stability, over_limit, verdict
from perf_analyzer.windows import Window, merge, whole_us

EXIT_OK: Final = 0
EXIT_UNSTABLE: Final = 2
EXIT_NO_REQUESTS: Final = 3
EXIT_ERROR: Final = 99
NOT_STABILIZING: Final = (
    "WARNING: Request latency is not stabilizing. Please try lowering the request rate."
)


class Say(Protocol):
    """Where words go."""

    def out(self, line: str) -> None:
        """A line of the report."""

    def error(self, line: str) -> None:
        """A line of diagnostics."""

    def progress(self, text: str) -> None:
        """What is going on, for a terminal; replaced by the next."""


@dataclass
class LevelOutcome:
    """What came of one level. `problem` is an error that ends the run with `code`."""

    report: LevelReport | None = None
    stable: bool = False
    met: bool = False
    problem: str = ""
    code: int = EXIT_OK


@dataclass
class RunOutcome:
    """All levels that are reported, and how the run ends."""

    reports: list[LevelReport] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)
    problem: str = ""
    code: int = EXIT_OK


# Starts the load of a level, given its value; the load goes on until the next level or the end.
StartLevel = Callable[[Fraction], Awaitable[None]]


class Profiler:
    """Measures levels with one meter, one after another."""

    def __init__(
        self,
        *,
        options: Options,
        model: ModelInfo,
        meter: Meter,
        recorder: Recorder,
        start_level: StartLevel,
        halt: trio.Event,
        problem: Callable[[], str],
        interrupted: Callable[[], bool],
        asynchronous: bool,
        say: Say,
    ) -> None:
        """`problem` says what has stopped the load, if anything has."""
        self._options = options
        self._model = model
        self._meter = meter
        self._recorder = recorder
        self._start_level = start_level
        self._halt = halt
        self._problem = problem
        self._interrupted = interrupted
        self._asynchronous = asynchronous
        self._say = say
        self._last: LevelReport | None = None

    async def run(self, levels: Generator[Fraction, bool, None]) -> RunOutcome:
        """Measure levels until the search ends, one fails, or the user has had enough."""
        outcome = RunOutcome()
        value: Fraction | None = next(levels)
        while value is not None and not self._interrupted():
            level = await self._level(value, outcome)
            if level.problem:
                outcome.problem, outcome.code = level.problem, level.code
                if outcome.reports and level.code == EXIT_UNSTABLE:
                    outcome.problem, outcome.code = "", EXIT_OK
                if level.code != EXIT_UNSTABLE:
                    return outcome
            try:
                value = levels.send(level.met)
            except StopIteration:
                value = None
        return outcome

    async def _level(self, value: Fraction, outcome: RunOutcome) -> LevelOutcome:
        say = self._say
        if title := console.level_title(self._options, value):
            say.out(title)
        if self._options.request_count:  # every request counts
            await self._meter.begin()
            await self._start_level(value)
        else:
            await self._start_level(value)
            await self._meter.begin()
        windows = await self._windows(value)
        kept = list(self._recorder.kept)
        self._recorder.kept.clear()
        edges = [(window.begun_at, window.ended_at) for window in windows]
        outcome.experiments.append(Experiment(value, kept, edges))
        if problem := self._problem():
            return LevelOutcome(problem=problem, code=EXIT_ERROR)
        level = self._judged(value, windows)
        if level.report is not None:
            self._show(level.report)
            outcome.reports.append(level.report)
            self._last = level.report
        return level

    def _show(self, report: LevelReport) -> None:
        for line in console.level_lines(self._options, self._model, report):
            self._say.out(line)
        if not self._options.in_process:  # else the server's own work would count
            for line in console.overhead_warning(report.result):
                self._say.out(line)
        self._say.out("")

    async def _windows(self, value: Fraction) -> list[Window]:
        options = self._options
        windows: list[Window] = []
        while True:
            title = console.level_title(options, value)
            self._say.progress(f"{title} window {len(windows) + 1} of at most {options.max_trials}")
            window = await self._window()
            if self._halt.is_set() and ((windows and not window.count) or self._problem()):
                break  # the user stopped it between two windows, or the load has failed
            windows.append(window)
            if options.verbose:
                self._tell(windows)
            stability = Stability.of(windows, options.percentile)
            if (
                options.request_count
                or stability.stable(options.tolerance)
                or len(windows) >= options.max_trials
                or over_limit(windows, options.latency_limit_ms, options.percentile)
                or self._halt.is_set()
            ):
                break
        self._say.progress("")
        return windows

    async def _window(self) -> Window:
        options = self._options
        if options.request_count:
            return await self._meter.exactly(options.request_count)
        if options.count_windows:
            return await self._meter.counted(options.window_count)
        return await self._meter.timed(options.interval_ms / 1000)

    def _tell(self, windows: list[Window]) -> None:
        options = self._options
        result = merge(windows[-1:], batch_size=options.batch_size, percents=options.percents)
        self._say.out(console.pass_line(options, len(windows), windows[-1], result))

    def _judged(self, value: Fraction, windows: list[Window]) -> LevelOutcome:
        """What the windows of a level come to. The last three count."""
        options, say = self._options, self._say
        last = windows[-LAST_WINDOWS:]
        void = next((window.problem for window in last if window.problem), "")
        if void:
            code = EXIT_NO_REQUESTS if void == NO_REQUESTS else EXIT_ERROR
            return LevelOutcome(problem=void, code=code)
        if not last:
            return LevelOutcome(problem=NO_REQUESTS, code=EXIT_NO_REQUESTS)
        result = merge(last, batch_size=options.batch_size, percents=options.percents)
        stability = Stability.of(windows, options.percentile)
        evidence = Evidence(
            stability,
            options.tolerance,
            wanted_rate=float(value) if options.is_open_loop else None,
            level=float(value),
            previous_level=self._previous_level,
            previous_throughput=self._last.result.throughput if self._last else None,
            shares_process=options.in_process,
        )
        report = LevelReport(value, result, verdict(result, evidence))
        limit = options.latency_limit_ms
        latency = result.headline(options.percentile)
        within = not limit or whole_us(latency) // 1000 < limit
        stable = bool(options.request_count) or self._interrupted()
        stable = stable or stability.stable(options.tolerance)
        if not stable and self._asynchronous and stability.throughput_stable(options.tolerance):
            stable = True
            say.error(NOT_STABILIZING)
        if not within:
            say.error(f"Measured latency went over the set limit of {limit} msec. ")
            return LevelOutcome(stable=stable)
        if not stable:
            say.error(console.unstable_line(options, value, len(windows)))
            self._show(report)  # it counts for nothing, but says what was seen
            if options.mode is Mode.CUSTOM_INTERVALS:
                return LevelOutcome()
            return LevelOutcome(problem="Failed to obtain stable measurement.", code=EXIT_UNSTABLE)
        return LevelOutcome(report=report, stable=True, met=True)

    @property
    def _previous_level(self) -> float | None:
        if self._last is None or self._options.is_open_loop:
            return None
        return float(self._last.value)
