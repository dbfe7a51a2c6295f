"""What tracing needs of the world outside: clocks, names, threads and an exporter, as ports.

The defaults are those of a simulation: nanoseconds since the run began, names that count, and files
written at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from protocol.trace_spans import Span


class SpanExporter(Protocol):
    """Sends spans to a collector. Both methods block, and are called in a thread."""

    def export(self, spans: Sequence[Span], offset_ns: int) -> None:
        """Send these, whose instants are nanoseconds since the epoch less `offset_ns`.

        Raises OSError, with the reason, when the collector did not take them.
        """

    def close(self) -> None:
        """Nothing more will be sent; an export that is under way gives up."""


Work = Callable[[], None]


class RunInThread(Protocol):
    """Does blocking work elsewhere; raises what it raises."""

    async def __call__(self, work: Work) -> None:
        """Whoever is cancelled leaves the work to itself: what it does no longer matters."""


MakeExporter = Callable[[Mapping[str, str]], SpanExporter]
"""Makes an exporter by the settings of the mode opentelemetry. Raises ServerError."""


async def _at_once(work: Work) -> None:
    await trio.lowlevel.checkpoint()
    work()


def _nowhere(_: Mapping[str, str]) -> SpanExporter:
    raise NotImplementedError("this world has no collector")


def _same_clock(_: float) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class TracePorts:
    """See the module's docstring; the offsets are those of an instant given as "now"."""

    in_thread: RunInThread = _at_once
    steady_offset_ns: Callable[[float], int] = _same_clock
    wall_offset_ns: Callable[[float], int] = _same_clock
    new_id: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    make_exporter: MakeExporter = _nowhere
    environment: Mapping[str, str] = field(default_factory=dict)
