"""The way of responses from a backend's threads into trio: many may be under way at once.

Owns what was sent and not delivered yet. A thread that waited for the event loop with every single
response would spend its time waiting; here it waits only while `LANE` of them are under way, which
is also how a slow reader slows it down.
"""

from __future__ import annotations

import logging
import threading  # noqa: TID251  # one end of the lane is in a backend's thread
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from repo.backends.base import Outcome

log = logging.getLogger(__name__)

# Enough that neither side waits for the other's next turn; more would only keep tensors longer.
LANE: Final = 32

# Held for the moment in which a request gets its lane.
OPENING: Final = threading.Lock()

Deliver = Callable[[Outcome | None, bool], Awaitable[None]]


class ResponseLane:
    """Of one request; `send` is for any thread but trio's."""

    def __init__(self, deliver: Deliver, token: trio.lowlevel.TrioToken) -> None:
        self._deliver = deliver
        self._token = token
        self._room = threading.BoundedSemaphore(LANE)
        self._sent: deque[tuple[Outcome | None, bool]] = deque()  # at most LANE
        self._is_pouring = False  # trio's alone

    def send(self, outcome: Outcome | None, final: bool) -> None:
        """Blocks while the lane is full. Raises `trio.RunFinishedError` when the server is gone."""
        self._room.acquire()
        self._sent.append((outcome, final))
        self._token.run_sync_soon(self._begin, idempotent=True)

    def _begin(self) -> None:
        if not self._is_pouring:
            self._is_pouring = True
            trio.lowlevel.spawn_system_task(self._pour)

    async def _pour(self) -> None:
        """Deliver until the lane is empty. Nobody waits for this task, so it raises nothing."""
        try:
            while self._sent:
                outcome, final = self._sent.popleft()
                try:
                    await self._deliver(outcome, final)
                finally:
                    self._room.release()
        except Exception:  # ring boundary: a response that cannot be delivered ends no server
            log.exception("a response was lost on its way to its caller")
        finally:
            self._is_pouring = False
