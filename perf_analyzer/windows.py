"""What was measured: windows, and the numbers that are made of them.

Owns percentiles, means, deviations and their confidence intervals. Pure: it is given latencies in
seconds, in the order in which they ended.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from perf_analyzer.server_statistics import ServerDelta, merged
from perf_analyzer.telemetry import GpuFigures

Floats = npt.NDArray[np.float64]

STANDARD_PERCENTILES: Final = (50, 90, 95, 99)
NANOSECONDS: Final = 1_000_000_000
# Batch means: enough batches for a normal distribution of their mean, long enough each to hide
# that neighbours in a queue are alike.
BATCHES: Final = 20
# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; 1.96 for ever after.
T_95: Final = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23,
    2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09,
)  # fmt: skip
Z_95: Final = 1.96


@dataclass(frozen=True)
class Window:
    """One measured span of a level. Instants and durations in seconds.

    `latencies` run from the send, or, in an open loop, from the instant that the schedule wanted
    for it; `service` always from the send; `first` from the
    send to the first response, for decoupled models.
    """

    begun_at: float
    ended_at: float
    latencies: array[float]
    service: array[float]
    ends: array[float]
    first: array[float] = field(default_factory=lambda: array("d"))
    responses: int = 0
    sequences: int = 0
    sent: int = 0
    delayed: int = 0
    send_seconds: float = 0.0
    receive_seconds: float = 0.0
    busy: float = 0.0  # this program's CPU time per second of the window
    lag_seconds: float = 0.0  # how late the event loop came to a timer, 99th percentile
    server: ServerDelta | None = None
    gpus: GpuFigures = field(default_factory=GpuFigures)
    problem: str = ""  # why the window is void

    @property
    def seconds(self) -> float:
        return self.ended_at - self.begun_at

    @property
    def count(self) -> int:
        return len(self.latencies)


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def relative(self, value: float) -> float:
        """Half the width in relation to `value`."""
        return (self.high - self.low) / 2 / value if value else math.inf


def percentile(ordered: Sequence[float] | Floats, percent: float) -> float:
    """The original's: the element nearest to percent/100 of the way. 0.0 of nothing."""
    if not len(ordered):
        return 0.0
    return float(ordered[int(percent / 100 * (len(ordered) - 1) + 0.5)])


def whole_us(seconds: float) -> int:
    """Whole microseconds of whole nanoseconds, as the original prints them."""
    return round(seconds * NANOSECONDS) // 1000


def deviation(values: Floats) -> float:
    """The sample's standard deviation; 0.0 for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _of_batches(means: Floats) -> Interval:
    count = len(means)
    if count < 2:
        return Interval(-math.inf, math.inf)
    t = T_95[count - 2] if count - 2 < len(T_95) else Z_95
    middle = float(np.mean(means))
    half = t * deviation(means) / math.sqrt(count)
    return Interval(middle - half, middle + half)


def mean_interval(values: Floats) -> Interval:
    """Of the mean, by batch means, since latencies that follow one another are related."""
    batches = min(BATCHES, len(values) // 2)
    if batches < 2:
        return Interval(-math.inf, math.inf)
    size = len(values) // batches
    return _of_batches(values[: size * batches].reshape(batches, size).mean(axis=1))


def percentile_interval(ordered: Floats, percent: float) -> Interval:
    """Of a percentile, by the ranks that a binomial distribution allows."""
    count = len(ordered)
    if not count:
        return Interval(-math.inf, math.inf)
    share = percent / 100
    half = Z_95 * math.sqrt(count * share * (1 - share))
    low = max(0, math.floor(count * share - half))
    high = min(count - 1, math.ceil(count * share + half))
    return Interval(float(ordered[low]), float(ordered[high]))


@dataclass(frozen=True)
class Latencies:
    """The numbers of one kind of latency over the pooled windows, in seconds."""

    mean: float
    deviation: float
    percentiles: dict[int, float]
    mean_interval: Interval
    percentile_intervals: dict[int, Interval]

    @classmethod
    def of(cls, values: Floats, percents: Sequence[int]) -> Latencies:
        ordered = np.sort(values)
        return cls(
            mean=float(np.mean(values)) if len(values) else 0.0,
            deviation=deviation(values),
            percentiles={each: percentile(ordered, each) for each in percents},
            mean_interval=mean_interval(values),
            percentile_intervals={each: percentile_interval(ordered, each) for each in percents},
        )


@dataclass(frozen=True)
class Result:
    """The merged windows of a level."""

    windows: tuple[Window, ...]
    batch_size: int
    latency: Latencies
    service: Latencies
    first: Latencies | None  # of decoupled models
    throughput: float
    throughput_interval: Interval
    response_throughput: float
    sequence_throughput: float
    send_rate: float
    send_seconds: float  # per request
    receive_seconds: float  # per request
    busy: float
    lag_seconds: float
    server: ServerDelta | None
    gpus: GpuFigures

    @property
    def count(self) -> int:
        return sum(window.count for window in self.windows)

    @property
    def sequences(self) -> int:
        return sum(window.sequences for window in self.windows)

    @property
    def delayed_share(self) -> float:
        """Of the requests that were sent, those that went out late; 0 to 1."""
        sent = sum(window.sent for window in self.windows)
        return sum(window.delayed for window in self.windows) / sent if sent else 0.0

    def headline(self, percent: int | None) -> float:
        """The latency that the run is judged by: the mean or a percentile."""
        return self.latency.mean if percent is None else self.latency.percentiles[percent]


def throughput_interval(windows: Sequence[Window], batch_size: int) -> Interval:
    """Of the throughput, by the counts in equal parts of the windows."""
    parts = max(1, BATCHES // max(1, len(windows)))
    rates: list[float] = []
    for window in windows:
        if window.seconds <= 0:
            continue
        edges = np.linspace(window.begun_at, window.ended_at, parts + 1)
        counts, _ = np.histogram(np.asarray(window.ends), bins=edges)
        rates += [count * batch_size / (window.seconds / parts) for count in counts]
    return _of_batches(np.asarray(rates))


def merge(windows: Sequence[Window], *, batch_size: int, percents: Sequence[int]) -> Result:
    """One result of several windows: counts and durations summed, latencies pooled."""
    seconds = sum(window.seconds for window in windows)
    latencies = np.concatenate([np.asarray(window.latencies) for window in windows])
    service = np.concatenate([np.asarray(window.service) for window in windows])
    first = np.concatenate([np.asarray(window.first) for window in windows])
    count = len(latencies)
    sent = sum(window.sent for window in windows)

    def rate(total: int) -> float:
        return total / seconds if seconds > 0 else 0.0

    return Result(
        windows=tuple(windows),
        batch_size=batch_size,
        latency=Latencies.of(latencies, percents),
        service=Latencies.of(service, percents),
        first=Latencies.of(first, percents) if len(first) else None,
        throughput=rate(count * batch_size),
        throughput_interval=throughput_interval(windows, batch_size),
        response_throughput=rate(sum(window.responses for window in windows)),
        sequence_throughput=rate(sum(window.sequences for window in windows)),
        send_rate=rate(sent),
        send_seconds=sum(window.send_seconds for window in windows) / max(1, sent),
        receive_seconds=sum(window.receive_seconds for window in windows) / max(1, count),
        busy=sum(window.busy for window in windows) / len(windows),
        lag_seconds=max(window.lag_seconds for window in windows),
        server=merged([window.server for window in windows if window.server is not None]),
        gpus=GpuFigures.merged([window.gpus for window in windows]),
    )
