"""Every finished request of a level, in columns, in the order in which they ended.

Owns the columns and the cuts between windows. A record costs 24 bytes; what a window has taken is
dropped. Keeps whole responses only for an export, up to a limit.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from perf_analyzer.calls import NOT_SCHEDULED, Body, Call
from perf_analyzer.requests import Payload

# Responses of an export are kept until the end; beyond this many bytes only their instants are.
MAX_KEPT_BYTES: Final = 1 << 30


@dataclass(slots=True)
class Kept:
    """One request of the export. Instants in seconds of the run's clock."""

    begun_at: float
    ended_at: float
    sequence_id: int
    payload: Payload
    response_times: list[float]
    bodies: list[Body] | None  # None: too many bytes were kept already


@dataclass(slots=True)
class Counters:
    """What a window needs the difference of. Seconds are sums over requests."""

    sent: int = 0
    delayed: int = 0
    responses: int = 0
    sequences: int = 0
    send_seconds: float = 0.0
    receive_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def minus(self, other: Counters) -> Counters:
        return Counters(
            self.sent - other.sent,
            self.delayed - other.delayed,
            self.responses - other.responses,
            self.sequences - other.sequences,
            self.send_seconds - other.send_seconds,
            self.receive_seconds - other.receive_seconds,
            self.cpu_seconds - other.cpu_seconds,
        )


@dataclass(slots=True)
class Columns:
    """Finished requests: from the instant they were due (or sent), from the send, their end.

    `first` runs from the send to the first response; kept for decoupled models only.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    service: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    first: array[float] = field(default_factory=lambda: array("d"))


class Recorder:
    """Takes finished calls; gives out what has finished since it was last asked."""

    __slots__ = (
        "_decoupled",
        "_kept_bytes",
        "columns",
        "completed",
        "delayed",
        "keeps",
        "kept",
        "responses",
        "sequences",
    )

    def __init__(self, *, keeps: bool, decoupled: bool = False) -> None:
        """`keeps` is for an export: whole requests are remembered."""
        self.keeps = keeps
        self._decoupled = decoupled
        self.columns = Columns()
        self.completed = 0  # calls that ended, with or without a response
        self.responses = 0
        self.sequences = 0
        self.delayed = 0
        self.kept: list[Kept] = []
        self._kept_bytes = 0

    def record(self, call: Call, now: float) -> None:
        """A call has ended well. One without a single response has no latency."""
        self.completed += 1
        self.responses += call.response_count
        if call.ends_sequence:
            self.sequences += 1
        if call.response_count:
            columns = self.columns
            columns.ends.append(call.last_at)
            service = call.last_at - call.begun_at
            columns.service.append(service)
            due = call.due_at
            if self._decoupled:
                columns.first.append(call.first_at - call.begun_at)
            columns.latencies.append(service if due == NOT_SCHEDULED else call.last_at - due)
        if self.keeps:
            self._keep(call, now)

    def _keep(self, call: Call, now: float) -> None:
        assert call.payload is not None
        bodies = call.bodies
        if bodies is not None:
            self._kept_bytes += sum(len(body) for _, body in bodies)
            if self._kept_bytes > MAX_KEPT_BYTES:
                bodies = None
        self.kept.append(
            Kept(
                call.begun_at,
                call.last_at if call.response_count else now,
                call.sequence_id,
                call.payload,
                call.response_times or [],
                bodies,
            )
        )

    def cut(self) -> Columns:
        """What has finished since the last cut."""
        columns, self.columns = self.columns, Columns()
        return columns

    def forget(self) -> None:
        """Nothing of what was before counts: the warm-up is over."""
        self.columns = Columns()
        self.kept.clear()
        self.completed = self.responses = self.sequences = self.delayed = 0
