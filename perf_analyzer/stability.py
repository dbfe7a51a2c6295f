"""When a level has been measured long enough, and what to think of the result.

Owns the original's rule of three windows, and the verdict that says more than "failed to
stabilise". Pure: windows and numbers in, words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perf_analyzer.windows import Result, Window, percentile

LAST_WINDOWS: Final = 3
# The client's own use of a core from which its limits, not the server's, are being measured.
CLIENT_BUSY: Final = 0.9
# A loop that comes this much of a latency too late has put that into the latencies.
CLIENT_LAG_SHARE: Final = 0.25
# An open loop that answers fewer requests than that of those it should send has a backlog.
KEPT_UP_SHARE: Final = 0.95
# More concurrency that brings less than this much more throughput only makes queues longer.
GAIN_SHARE: Final = 0.05


def window_latency(window: Window, percent: int | None) -> float:
    """The latency that stability is judged by: from the send on, in seconds."""
    if not window.count:
        return 0.0
    values = np.asarray(window.service)
    return float(np.mean(values)) if percent is None else percentile(np.sort(values), percent)


def limit_latency(window: Window, percent: int | None) -> float:
    """The latency that a limit is judged by: in an open loop, from the scheduled instant on."""
    if not window.count:
        return 0.0
    values = np.asarray(window.latencies)
    return float(np.mean(values)) if percent is None else percentile(np.sort(values), percent)


def spread(values: Sequence[float]) -> float:
    """By how much the largest is above the smallest, as a share of it; 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    low = min(values)
    return max(values) / low - 1 if low > 0 else float("inf")


@dataclass(frozen=True)
class Stability:
    """How much the last windows of a level differ."""

    enough: bool  # three windows without an error or a standstill
    throughput_spread: float
    latency_spread: float

    @classmethod
    def of(cls, windows: Sequence[Window], percent: int | None) -> Stability:
        last = windows[-LAST_WINDOWS:]
        rates = [each.count / each.seconds if each.seconds > 0 else 0.0 for each in last]
        enough = len(last) == LAST_WINDOWS and not any(each.problem for each in last)
        return cls(
            enough=enough and all(rates),
            throughput_spread=spread(rates),
            latency_spread=spread([window_latency(each, percent) for each in last]),
        )

    def throughput_stable(self, tolerance: float) -> bool:
        return self.enough and self.throughput_spread <= tolerance

    def stable(self, tolerance: float) -> bool:
        return self.throughput_stable(tolerance) and self.latency_spread <= tolerance


def over_limit(windows: Sequence[Window], limit_ms: int, percent: int | None) -> bool:
    """Whether any of the last three windows is at or over the limit; needs three."""
    last = windows[-LAST_WINDOWS:]
    if not limit_ms or len(last) < LAST_WINDOWS:
        return False
    return any(limit_latency(each, percent) * 1000 >= limit_ms for each in last)


@dataclass(frozen=True)
class Evidence:
    """What a verdict is based on besides the result itself."""

    stability: Stability
    tolerance: float
    wanted_rate: float | None = None  # of an open loop
    level: float = 1.0
    previous_level: float | None = None  # the level before, of a closed loop,
    previous_throughput: float | None = None  # and what it reached
    shares_process: bool = False  # the server's CPU time is the client's, too


@dataclass(frozen=True)
class Verdict:
    """One of four words about a level, and why."""

    word: str  # "stable", "noisy by x %", "server saturated", "client saturated"
    reason: str = ""

    @property
    def is_client(self) -> bool:
        return self.word == CLIENT_SATURATED

    def __str__(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


STABLE: Final = "stable"
SERVER_SATURATED: Final = "server saturated"
CLIENT_SATURATED: Final = "client saturated"


def verdict(result: Result, evidence: Evidence) -> Verdict:
    """What to think of `result`."""
    behind = _behind(result, evidence)
    if result.busy >= CLIENT_BUSY and not evidence.shares_process:
        return Verdict(CLIENT_SATURATED, f"this program used {result.busy:.0%} of a core")
    if behind and result.lag_seconds > CLIENT_LAG_SHARE * max(result.service.mean, 1e-9):
        lag = f"{result.lag_seconds * 1000:.1f} ms"
        return Verdict(CLIENT_SATURATED, f"its event loop was up to {lag} late")
    if behind:
        return Verdict(SERVER_SATURATED, behind)
    noise = max(evidence.stability.throughput_spread, evidence.stability.latency_spread)
    if evidence.stability.enough and noise > evidence.tolerance:
        what = (
            "throughput"
            if evidence.stability.throughput_spread >= evidence.stability.latency_spread
            else "latency"
        )
        return Verdict(f"noisy by {noise:.0%}", f"{what} between windows")
    if gain := _no_gain(result, evidence):
        return Verdict(SERVER_SATURATED, gain)
    return Verdict(STABLE)


def _behind(result: Result, evidence: Evidence) -> str:
    """Why an open loop fell behind its schedule, "" where it did not."""
    wanted = evidence.wanted_rate
    if wanted is None:
        return ""
    achieved = result.throughput / result.batch_size
    if achieved >= KEPT_UP_SHARE * wanted:
        return ""
    return f"{achieved:.6g} of {wanted:.6g} requests/sec were answered"


def _no_gain(result: Result, evidence: Evidence) -> str:
    """Why more concurrency was of no use, "" where it was or nothing is known."""
    before = evidence.previous_throughput
    if not before or evidence.previous_level is None:
        return ""
    more = evidence.level / evidence.previous_level
    gain = result.throughput / before - 1
    if more <= 1 or gain >= GAIN_SHARE * min(1.0, more - 1):
        return ""
    return f"{more:.3g} times the concurrency brought {gain:+.1%} throughput"
