"""What is counted for one model version, in the units of Triton's statistics extension.

Plain data: `actors/metrics/statistics.py` owns and changes it, everyone else gets copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from actors.metrics.latencies import LatencyReading

FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

# Responses of one request that are counted by their place. A stream may go on for ever, and every
# look at the statistics copies all counters; further ones are counted nowhere.
MAX_COUNTED_RESPONSES: Final = 1024


@dataclass(slots=True)
class Duration:
    """A number of events and the nanoseconds they took together."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        self.count += count
        self.ns += ns

    def copy(self) -> Duration:
        return Duration(self.count, self.ns)


@dataclass(slots=True)
class BatchCounters:
    """Executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ResponseCounters:
    """The responses that have the same place among those of their requests."""

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty_response: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)

    def copy(self) -> ResponseCounters:
        return ResponseCounters(
            self.compute_infer.copy(),
            self.compute_output.copy(),
            self.success.copy(),
            self.fail.copy(),
            self.empty_response.copy(),
            self.cancel.copy(),
        )


@dataclass(slots=True)
class VersionCounters:
    """Everything counted for one model version, in the units of Triton's statistics extension."""

    load_seconds: float = 0.0
    last_inference_ms: int = 0  # wall clock, milliseconds since the epoch
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURE_REASONS, 0))
    batches: dict[int, BatchCounters] = field(default_factory=dict)
    # By place among the responses of a request; at most MAX_COUNTED_RESPONSES.
    responses: dict[int, ResponseCounters] = field(default_factory=dict)
    latencies: LatencyReading | None = None  # only in answers, and only if they are measured

    def copy(self) -> VersionCounters:
        """A snapshot that later counting does not change."""
        twin = VersionCounters(
            load_seconds=self.load_seconds,
            last_inference_ms=self.last_inference_ms,
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            failures=dict(self.failures),
            batches={
                size: BatchCounters(
                    counters.compute_input.copy(),
                    counters.compute_infer.copy(),
                    counters.compute_output.copy(),
                )
                for size, counters in self.batches.items()
            },
            responses={index: one.copy() for index, one in self.responses.items()},
        )
        for name in _DURATIONS:
            setattr(twin, name, getattr(self, name).copy())
        return twin


_DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
