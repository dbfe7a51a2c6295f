"""When a process that died is started again. Pure: it is told how long each one lived."""

from __future__ import annotations

from typing import Final

# The first delay, which doubles with every process that dies soon, and the last one: what dies at
# once every time shall not keep a core busy, and what was repaired shall not wait for long.
FIRST_SECONDS: Final = 0.1
LAST_SECONDS: Final = 10.0
# A process that has lived this long was in order: its death says nothing about the next one.
SOUND_SECONDS: Final = 10.0


class Restarts:
    """The delays of one place."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def delay(self, lived_seconds: float) -> float:
        """How long to wait after a process that lived so long."""
        if lived_seconds >= SOUND_SECONDS:
            self._next = FIRST_SECONDS
        delay = self._next
        self._next = min(2 * delay, LAST_SECONDS)
        return delay
