"""How latencies are spread: histograms since the start, and quantiles of the last minute.

Plain data that its one owner, Statistics, changes; everyone else gets readings. A quantile is found
among counts by size, in classes that grow by 2 %: its rank is exact, its value within 1 %, and no
number of observations needs more memory than a few.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.metrics_families import PHASE_BUCKETS_SECONDS

# Quantiles are those of the observations of at most a minute, and at least 55 seconds.
WINDOW_SECONDS: Final = 60.0
SLICES: Final = 12
SLICE_SECONDS: Final = WINDOW_SECONDS / SLICES

# Each class of sizes is so much wider than the one below it. From a microsecond to a day there are
# about 1,300 classes, which bounds a slice.
_GROWTH: Final = 1.02
_LOG_GROWTH: Final = math.log(_GROWTH)
_MIDDLE: Final = 2.0 / (1.0 + _GROWTH)  # from the upper bound of a class to its middle
_NOTHING: Final = -(2**31)  # the class of zero


@dataclass(frozen=True, slots=True)
class HistogramReading:
    """`counts[i]` observations are at most `bounds[i]`; the last count is of those above all."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclass(frozen=True, slots=True)
class SummaryReading:
    """Quantiles of the last minute, NaN if it was quiet; count and total since the start."""

    quantiles: Sequence[tuple[float, float]]
    count: int
    total: float


class Histogram:
    """Observations by size, since the start."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, values: Iterable[float], *, times: int = 1) -> None:
        """Take `values`, each `times` over."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += times
            self._total += value * times

    def read(self) -> HistogramReading:
        return HistogramReading(self._bounds, tuple(self._counts), self._total)


class Summary:
    """Observations of the last minute by size."""

    __slots__ = ("_count", "_slices", "_total")

    def __init__(self) -> None:
        self._slices: deque[tuple[int, Counter[int]]] = deque(maxlen=SLICES)  # by slice number
        self._count = 0
        self._total = 0.0

    def observe(self, values: Iterable[float], now: float, *, times: int = 1) -> None:
        """Take `values`, none of them negative, each `times` over."""
        number = int(now // SLICE_SECONDS)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, Counter()))
        classes = self._slices[-1][1]
        for value in values:
            place = math.ceil(math.log(value) / _LOG_GROWTH) if value > 0 else _NOTHING
            classes[place] += times
            self._count += times
            self._total += value * times

    def read(self, quantiles: Sequence[float], now: float) -> SummaryReading:
        oldest = int(now // SLICE_SECONDS) - SLICES + 1
        merged: Counter[int] = Counter()
        for number, classes in self._slices:
            if number >= oldest:
                merged.update(classes)
        ranked = [(quantile, _value_at(quantile, merged)) for quantile in quantiles]
        return SummaryReading(ranked, self._count, self._total)


def _value_at(quantile: float, classes: Counter[int]) -> float:
    """The observation below or at which so large a share of all of them lies."""
    left = max(1, math.ceil(quantile * classes.total()))
    for place in sorted(classes):
        left -= classes[place]
        if left <= 0:
            return 0.0 if place == _NOTHING else _GROWTH**place * _MIDDLE
    return math.nan


SUMMARIES: Final = ("request", "queue", "compute_input", "compute_infer", "compute_output")
CACHE_SUMMARIES: Final = ("cache_hit", "cache_miss")
# Of what the console shows.
RECENT_QUANTILES: Final = (0.5, 0.99)


@dataclass(frozen=True, slots=True)
class LatencyReading:
    """What is known of one version.

    Milliseconds in the histogram of first responses, seconds in those of phases, microseconds in
    summaries.
    """

    first_response: HistogramReading | None = None
    summaries: dict[str, SummaryReading] = field(default_factory=dict)
    phases: dict[str, HistogramReading] = field(default_factory=dict)
    recent: SummaryReading | None = None  # whole requests of the last minute, RECENT_QUANTILES


class VersionLatencies:
    """The latencies of one model version, as far as the operator wants to know them."""

    def __init__(
        self,
        *,
        buckets_ms: Sequence[float] | None,
        summaries: bool,
        phases: bool = False,
        recent: bool = False,
    ) -> None:
        """`buckets_ms` are the upper bounds of the histogram; without them there is none."""
        self._first_response = None if buckets_ms is None else Histogram(buckets_ms)
        names = (*SUMMARIES, *CACHE_SUMMARIES) if summaries else ()
        self._summaries = {name: Summary() for name in names}
        self._phases = {name: Histogram(PHASE_BUCKETS_SECONDS) for name in SUMMARIES if phases}
        self._recent = Summary() if recent else None

    def responded(self, seconds: Iterable[float]) -> None:
        """Requests had their first responses, so long after they came."""
        if self._first_response is not None:
            self._first_response.observe(each * 1e3 for each in seconds)

    def took(self, name: str, seconds: Sequence[float], now: float, *, times: int = 1) -> None:
        """One of SUMMARIES or CACHE_SUMMARIES took so long, each `times` over."""
        if not times:
            return
        summary = self._summaries.get(name)
        if summary is not None:
            summary.observe((each * 1e6 for each in seconds), now, times=times)
        phase = self._phases.get(name)
        if phase is not None:
            phase.observe(seconds, times=times)
        if self._recent is not None and name == "request":
            self._recent.observe((each * 1e6 for each in seconds), now, times=times)

    def read(self, quantiles: Sequence[float], now: float) -> LatencyReading:
        return LatencyReading(
            None if self._first_response is None else self._first_response.read(),
            {name: each.read(quantiles, now) for name, each in self._summaries.items()},
            {name: each.read() for name, each in self._phases.items()},
            None if self._recent is None else self._recent.read(RECENT_QUANTILES, now),
        )
