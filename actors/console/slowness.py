"""The slowest requests of the last minutes, and why they waited.

Plain synchronous code that is told the time. Owns the records; what is told of, the bars of
`actors/metrics/slow_requests.py` decide, which follow from what is kept here.
"""

from __future__ import annotations

from typing import Final

from actors.messages import SlowRequest, VersionKey

# The slowest requests of each version that are kept, and for how long. With the bars this bounds
# what is told: a version that has as many is told of only when it has a slower one.
KEPT_PER_VERSION: Final = 10
WINDOW_SECONDS: Final = 300.0
# Below this share of a request's time, waiting was not what made it slow.
_MOSTLY: Final = 0.5
_HARDLY: Final = 0.1

_CLOSED_BY: Final = {
    "preferred": "it had reached a preferred size",
    "full": "it was full",
    "shape": "the inputs of the next request differed",
    "custom": "the model's batch strategy refused the next request",
    "delay": "the queue delay had passed",
    "immediate": "there is no queue delay to wait for",
}
_REFUSED_BY: Final = {
    "timeout": "until the model's queue timeout had passed",
    "expired": "until the timeout of its sequence had passed",
    "deadline": "until its caller's deadline",
    "cancelled": "until its caller left",
}


class SlowestRequests:
    """Kept by version, slowest first."""

    def __init__(self) -> None:
        self._kept: dict[VersionKey, list[SlowRequest]] = {}

    def take(self, record: SlowRequest) -> None:
        """Keep it if it belongs among the slowest of its version."""
        kept = self._kept.setdefault(record.key, [])
        kept.append(record)
        kept.sort(key=lambda each: each.submitted_at - each.finished_at)
        del kept[KEPT_PER_VERSION:]

    def forget(self, now: float) -> None:
        """Drop what ended more than a window ago."""
        for key, kept in list(self._kept.items()):
            recent = [each for each in kept if each.finished_at > now - WINDOW_SECONDS]
            if recent:
                self._kept[key] = recent
            else:
                del self._kept[key]

    def bar(self, key: VersionKey) -> float:
        """How long a request must have taken to be kept, in seconds; 0 while there is room."""
        kept = self._kept.get(key, [])
        if len(kept) < KEPT_PER_VERSION:
            return 0.0
        return kept[-1].finished_at - kept[-1].submitted_at

    def slowest(self, limit: int) -> list[SlowRequest]:
        """Of all versions together, slowest first."""
        everything = [each for kept in self._kept.values() for each in kept]
        return sorted(everything, key=lambda each: each.submitted_at - each.finished_at)[:limit]


def duration(seconds: float) -> str:
    """In the unit in which it has one to three digits before the point."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.0f} µs"


def why(record: SlowRequest, queue_delay_seconds: float) -> str:
    """One or two sentences for an operator: where the time went, and what it was waited for."""
    waited = record.started_at - record.submitted_at
    whole = record.finished_at - record.submitted_at
    if waited < _MOSTLY * whole:
        return _why_it_ran(record, waited)
    beyond = waited - queue_delay_seconds
    if record.closed_by == "ensemble":
        return f"It waited {duration(waited)} until the ensemble began its first step."
    if record.closed_by == "delay" and beyond < _MOSTLY * waited:
        cause = f"It waited {duration(waited)} for requests to share its batch"
    else:
        cause = f"It waited {duration(waited)} for a free instance"
    if record.closed_by in _REFUSED_BY:
        return f"{cause}, {_REFUSED_BY[record.closed_by]}."
    closing = _CLOSED_BY.get(record.closed_by)
    if closing is None:
        return f"{cause}."
    return f"{cause}; its batch of {record.batch_size} left because {closing}."


def _why_it_ran(record: SlowRequest, waited: float) -> str:
    whole = record.finished_at - record.started_at
    is_short = waited < _HARDLY * (waited + whole)
    opening = "It hardly waited" if is_short else f"It waited {duration(waited)} only"
    if record.closed_by == "ensemble":
        text = f"{opening}: its steps took {duration(whole)}"
        seconds, model = record.longest
        return f"{text}, the longest {duration(seconds)} in '{model}'." if model else f"{text}."
    phases = {
        "in the model": record.infer_ns / 1e9,
        "on its inputs": record.input_ns / 1e9,
        "on its outputs": record.output_ns / 1e9,
    }
    place = max(phases, key=phases.__getitem__)
    with_others = f" in a batch of {record.batch_size}" if record.request_count > 1 else ""
    text = f"{opening}: it was executed for {duration(whole)}{with_others}"
    computed = sum(phases.values())
    if computed < _MOSTLY * whole:
        rest = "the rest passed on the way there and back, as on a busy machine"
        return f"{text}, but computed for {duration(computed)}: {rest}."
    return f"{text}, {duration(phases[place])} of it {place}."
