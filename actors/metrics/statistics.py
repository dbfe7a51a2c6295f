"""Counts what was asked and what it cost, per model version.

Owns every counter. Hears facts about executions and failures, answers `GetStatistics` with a
snapshot; one door keeps them in order, so an answer counts whatever was said before it. Facts are
not urgent: their door is patient, the actor has a turn for a question or a few of them at a time,
and then after whoever else has been rung.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, assert_never

import trio

from actors.channels import Door, Mailbox
from actors.messages import (
    BatchExecuted,
    CacheHit,
    CacheMissed,
    Fact,
    GetStatistics,
    RequestsRefused,
    Responded,
    VersionKey,
    VersionLoaded,
    VersionUnloaded,
)
from actors.metrics.counters import (
    MAX_COUNTED_RESPONSES,
    BatchCounters,
    ResponseCounters,
    VersionCounters,
)
from actors.metrics.latencies import VersionLatencies
from actors.settings.metrics_settings import MetricsSettings
from actors.turns import Line
from protocol.metrics_families import FIRST_RESPONSE_BUCKETS_MS

_NS = 1_000_000_000
_DEFAULTS = MetricsSettings()


class WallClock(Protocol):
    """The time of day; a simulation brings its own."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""


class Statistics:
    """The actor: one patient door in, snapshots out."""

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        facts: Door[Fact],
        wall_clock: WallClock,
        settings: MetricsSettings = _DEFAULTS,
    ) -> None:
        self._mailbox = mailbox
        self._facts = facts
        self._wall_clock = wall_clock
        self._settings = settings
        self._versions: dict[VersionKey, VersionCounters] = {}
        # Of the versions above that are loaded; none unless the operator wants them.
        self._latencies: dict[VersionKey, VersionLatencies] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Count until cancelled."""
        task_status.started()
        try:
            await self._mailbox.serve(self._turn, Line.FACTS)
        finally:
            self._mailbox.close()

    def _turn(self) -> float:
        wall_clock_ms = self._wall_clock.now_ms()
        for fact in self._facts.drain():
            self._take(fact, wall_clock_ms)
            if self._latencies:
                self._time(fact, trio.current_time())
        return math.inf

    def _take(self, fact: Fact, wall_clock_ms: int) -> None:
        match fact:
            case BatchExecuted():
                counters = self._versions.get(fact.key)
                if counters is None:  # a warm-up is executed before its version is loaded
                    counters = self._versions[fact.key] = VersionCounters()
                count_execution(counters, fact, wall_clock_ms)
            case RequestsRefused():
                counters = self._versions.get(fact.key)
                if counters is not None:
                    refused = len(fact.total_seconds)
                    counters.fail.add(refused, int(sum(fact.total_seconds) * _NS))
                    counters.failures[fact.reason] += refused
            case CacheHit():
                counters = self._versions.get(fact.key)
                if counters is not None:
                    counters.success.add(1, int(fact.total_seconds * _NS))
                    counters.queue.add(1, int(fact.queue_seconds * _NS))
                    counters.cache_hit.add(1, int(fact.lookup_seconds * _NS))
            case CacheMissed():
                counters = self._versions.get(fact.key)
                if counters is not None:
                    counters.cache_miss.add(1, int(fact.seconds * _NS))
                    counters.success.ns += int(fact.seconds * _NS)
            case VersionLoaded():
                loaded = self._versions.get(fact.key)
                if loaded is None or loaded.load_seconds:
                    loaded = self._versions[fact.key] = VersionCounters()
                loaded.load_seconds = fact.load_seconds
                self._begin_timing(fact)
            case VersionUnloaded():
                self._versions.pop(fact.key, None)
                self._latencies.pop(fact.key, None)
            case GetStatistics():
                # Room for the one answer is part of the question.
                fact.reply.send_nowait(self._read(trio.current_time()))
            case Responded():
                counters = self._versions.get(fact.key)
                if counters is not None:
                    count_response(counters, fact)
            case _:
                assert_never(fact)

    def _begin_timing(self, fact: VersionLoaded) -> None:
        settings = self._settings
        if not settings.times_executions:
            return
        buckets = fact.first_response_buckets or FIRST_RESPONSE_BUCKETS_MS
        self._latencies[fact.key] = VersionLatencies(
            buckets_ms=buckets if settings.histogram_latencies else None,
            summaries=settings.summary_latencies,
            phases=settings.phase_histograms,
            recent=settings.recent_latencies,
        )

    def _time(self, fact: Fact, now: float) -> None:
        """How long it took, beside how often."""
        if isinstance(fact, VersionLoaded | VersionUnloaded | RequestsRefused | GetStatistics):
            return
        latencies = self._latencies.get(fact.key)
        if latencies is None:
            return  # a warm-up, or a straggler
        match fact:
            case BatchExecuted():
                _time_execution(latencies, fact, now)
            case Responded():
                if fact.first_seconds is not None:
                    latencies.responded([fact.first_seconds])
            case CacheHit():
                latencies.responded([fact.total_seconds])
                latencies.took("request", [fact.total_seconds], now)
                latencies.took("queue", [fact.queue_seconds], now)
                latencies.took("cache_hit", [fact.lookup_seconds], now)
            case CacheMissed():
                latencies.took("cache_miss", [fact.seconds], now)
            case _:
                assert_never(fact)

    def _read(self, now: float) -> Mapping[VersionKey, VersionCounters]:
        found = {key: counters.copy() for key, counters in self._versions.items()}
        for key, latencies in self._latencies.items():
            found[key].latencies = latencies.read(self._settings.quantiles, now)
        return found


def _time_execution(latencies: VersionLatencies, fact: BatchExecuted, now: float) -> None:
    """As with the counters, every member of a batch took as long as the whole batch."""
    first = fact.first_response_seconds
    latencies.responded([*fact.total_seconds, *fact.failed_seconds] if first is None else first)
    times, timings = len(fact.total_seconds), fact.timings
    latencies.took("request", fact.total_seconds, now)
    latencies.took("queue", fact.queue_seconds, now)
    latencies.took("compute_input", [timings.input_ns / _NS], now, times=times)
    latencies.took("compute_infer", [timings.infer_ns / _NS], now, times=times)
    latencies.took("compute_output", [timings.output_ns / _NS], now, times=times)


def count_execution(counters: VersionCounters, fact: BatchExecuted, wall_clock_ms: int) -> None:
    """Add one execution; every member of a batch adds the whole batch's durations."""
    succeeded = len(fact.total_seconds)
    timings = fact.timings
    input_ns, infer_ns, output_ns = timings.input_ns, timings.infer_ns, timings.output_ns
    counters.execution_count += 1
    counters.inference_count += fact.inference_count
    counters.last_inference_ms = max(counters.last_inference_ms, wall_clock_ms)
    counters.success.add(succeeded, int(sum(fact.total_seconds) * _NS))
    counters.queue.add(succeeded, int(sum(fact.queue_seconds) * _NS))
    counters.compute_input.add(succeeded, input_ns * succeeded)
    counters.compute_infer.add(succeeded, infer_ns * succeeded)
    counters.compute_output.add(succeeded, output_ns * succeeded)
    if fact.failed_seconds:
        counters.fail.add(len(fact.failed_seconds), int(sum(fact.failed_seconds) * _NS))
        counters.failures["BACKEND"] += len(fact.failed_seconds)
    batch = counters.batches.get(fact.batch_size)
    if batch is None:
        batch = counters.batches[fact.batch_size] = BatchCounters()
    batch.compute_input.add(1, input_ns)
    batch.compute_infer.add(1, infer_ns)
    batch.compute_output.add(1, output_ns)
    if fact.by_backend:
        _count_batch_responses(counters, fact)


def _count_batch_responses(counters: VersionCounters, fact: BatchExecuted) -> None:
    """Those that came with their batch are the first, and the only, ones of their requests."""
    failed = len(fact.failed_seconds)
    first = fact.first_response_seconds
    answered = (len(fact.total_seconds) + failed if first is None else len(first)) - failed
    if not (answered or failed):
        return
    infer_ns, output_ns = fact.timings.infer_ns, fact.timings.output_ns
    response = counters.responses.get(0)
    if response is None:
        response = counters.responses[0] = ResponseCounters()
    response.success.add(answered, (infer_ns + output_ns) * answered)
    completed = answered + failed - fact.cancelled
    response.compute_infer.add(completed, infer_ns * completed)
    response.compute_output.add(answered, output_ns * answered)
    if failed:
        response.cancel.add(fact.cancelled, infer_ns * fact.cancelled)
        response.fail.add(failed - fact.cancelled, infer_ns * (failed - fact.cancelled))


def count_response(counters: VersionCounters, fact: Responded) -> None:
    """Add one that came on its own. It was ready when it was sent: nothing is left to be written.

    A cancelled one touches nothing else, and only one with tensors has output.
    """
    response = counters.responses.get(fact.place)
    if response is None:
        if fact.place >= MAX_COUNTED_RESPONSES:
            return
        response = counters.responses[fact.place] = ResponseCounters()
    ns = int(fact.seconds * _NS)
    match fact.kind:
        case "success":
            response.success.add(1, ns)
            response.compute_output.add(1, 0)
        case "fail":
            response.fail.add(1, ns)
        case "empty_response":
            response.empty_response.add(1, ns)
        case _:
            response.cancel.add(1, ns)
            return
    response.compute_infer.add(1, ns)


class StatisticsReader:
    """Asks the actor, for frontends and metrics."""

    def __init__(self, *, mailbox: Mailbox, facts: Door[Fact]) -> None:
        self._mailbox = mailbox
        self._facts = facts

    async def read(self) -> Mapping[VersionKey, VersionCounters]:
        """Every version's counters as they are once all earlier facts are counted."""
        send, receive = trio.open_memory_channel[Mapping[VersionKey, VersionCounters]](1)
        await self._facts.send(GetStatistics(send))
        self._mailbox.ring()
        return await receive.receive()
