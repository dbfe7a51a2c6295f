"""The last minute of a server's ports: who is still there, said once a second.

Owns the log lines of the drain. Closing is done by the frontends, and the deadline is the server's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
# What is idle closes at once, and needs no mention.
IDLE_SECONDS: Final = 0.125


class Version(Protocol):
    """A model version that has not ended."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def in_flight(self) -> int: ...


class Draining(Protocol):
    """A port that accepts no more."""

    @property
    def connection_count(self) -> int: ...


async def report_connections(ports: Sequence[tuple[str, Draining]], life: trio.CancelScope) -> None:
    """Say how many connections each port waits for, until none does. `ports` have their words.

    The deadline of `life` is that of the stop.
    """
    await trio.sleep(IDLE_SECONDS)
    while True:
        left = max(0, math.ceil(life.deadline - trio.current_time()))
        busy = [(words, port.connection_count) for words, port in ports if port.connection_count]
        for words, count in busy:
            log.info("Timeout %s: Found %s %s", left, count, words)
        if not busy:
            return
        await trio.sleep(REPORT_SECONDS)


async def report_models(alive: Callable[[], Sequence[Version]], deadline_at: float) -> None:
    """Say which model versions still work, and then how many have not ended; until all have."""
    while versions := alive():
        left = max(0, math.ceil(deadline_at - trio.current_time()))
        busy = [version for version in versions if version.in_flight]
        log.info(
            "Timeout %s: Found %s model versions that have in-flight inferences", left, len(busy)
        )
        for version in busy:
            log.info(
                "Model '%s' (version %s) has %s in-flight inferences",
                version.name,
                version.version,
                version.in_flight,
            )
        if not busy:
            log.info(
                "Timeout %s: Found %s live models and 0 in-flight non-inference requests",
                left,
                len(versions),  # ports have closed, so that nothing else can be under way
            )
        await trio.sleep(REPORT_SECONDS)
