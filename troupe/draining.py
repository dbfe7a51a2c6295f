"""The last minute of a server's ports: who is still there, said once a second.

Owns the log lines of the drain. Closing is done by the frontends, and the deadline is the server's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final, Protocol

import trio

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
# What is idle closes at once, and needs no mention.
IDLE_SECONDS: Final = 0.125


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
