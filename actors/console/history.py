"""What the last minutes looked like: throughput, latency and batch sizes, second by second.

Plain synchronous code. Owns a bounded ring of points per model version, which it makes from the
difference of two readings of Statistics. A second in which nothing happened has no point.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from actors.metrics.counters import Duration, VersionCounters

# Points that are kept of a version: as many seconds as the console's charts are wide.
HISTORY_POINTS: Final = 120
# Batch sizes are counted over the last minute.
BATCH_TICKS: Final = 60

_PHASES: Final = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, slots=True)
class Point:
    """What happened between two looks. Durations are means in microseconds."""

    tick: int
    seconds: float  # that it covers
    requests: int
    failures: int
    inferences: int
    executions: int
    request_us: float
    phases_us: Mapping[str, float]

    def row(self) -> Mapping[str, object]:
        """As JSON."""
        return {
            "tick": self.tick,
            "seconds": self.seconds,
            "requests": self.requests,
            "failures": self.failures,
            "inferences": self.inferences,
            "executions": self.executions,
            "request_us": self.request_us,
            **{f"{name}_us": value for name, value in self.phases_us.items()},
        }


class VersionHistory:
    """One version's points."""

    def __init__(self) -> None:
        self._last = VersionCounters()
        self._batches: deque[tuple[int, Mapping[int, int]]] = deque(maxlen=BATCH_TICKS)
        self.points: deque[Point] = deque(maxlen=HISTORY_POINTS)

    def look(self, counters: VersionCounters, tick: int, seconds: float) -> Point | None:
        """What happened in the `seconds` since the last look; None when nothing did.

        Counters that went down belong to a version that was loaded anew.
        """
        last, self._last = self._last, counters
        if (
            counters.success.count < last.success.count
            or counters.execution_count < last.execution_count
            or counters.fail.count < last.fail.count
        ):
            last = VersionCounters()
        requests = counters.success.count - last.success.count
        failures = counters.fail.count - last.fail.count
        executions = counters.execution_count - last.execution_count
        if not (requests or failures or executions):
            return None
        point = Point(
            tick,
            round(seconds, 3),
            requests,
            failures,
            counters.inference_count - last.inference_count,
            executions,
            _mean_us(counters.success, last.success),
            {name: _mean_us(getattr(counters, name), getattr(last, name)) for name in _PHASES},
        )
        self.points.append(point)
        sizes = _sizes(counters)
        sizes.subtract(_sizes(last))
        self._batches.append((tick, +sizes))
        return point

    def batches(self, tick: int) -> list[tuple[int, int]]:
        """(batch size, executions) of the last minute, by size."""
        total: Counter[int] = Counter()
        for when, sizes in self._batches:
            if when > tick - BATCH_TICKS:
                total.update(sizes)
        return sorted(total.items())


def _sizes(counters: VersionCounters) -> Counter[int]:
    return Counter({size: batch.compute_infer.count for size, batch in counters.batches.items()})


def _mean_us(now: Duration, before: Duration) -> float:
    count = now.count - before.count
    return round((now.ns - before.ns) / count / 1e3, 1) if count else 0.0
