"""The responses of one request that come on their own, on their way to a slow client.

Owns at most a window of responses. The worker may send no more until it is given credit, so a slow
client holds up the thread that produces for it and nothing else.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, cast

import trio

from actors.processes.ports import LateSender
from repo.backends.base import ExecuteRequest, Outcome
from repo.backends.python.layout import WireError
from repo.backends.python.wire import RESPONSE_WINDOW


class Feedback(Protocol):
    """Whom a LateRequest tells what its client does."""

    def credit(self, number: int, room: int) -> None: ...

    def cancelled(self, number: int) -> None: ...


class LateRequest:
    """See the module's docstring; `number` is the worker's name for the request."""

    def __init__(
        self,
        number: int,
        request: ExecuteRequest,
        feedback: Feedback,
        nursery: trio.Nursery,
    ) -> None:
        self.number = number
        self.request = request
        self.closed = False  # a final outcome was pushed
        self.answered = False  # a response was pushed
        self._sender = cast("LateSender", request.sender)
        self._feedback = feedback
        self._nursery = nursery
        # Bounded by the worker's window, and one more for a final outcome of our own.
        self._queue: deque[tuple[Outcome | None, bool]] = deque()
        self._pumping = False
        self._delivered = 0
        self._cancelled = False
        self._drained: trio.Event | None = None

    def push(self, outcome: Outcome | None, *, final: bool) -> None:
        """Deliver in the background, in order.

        Raises WireError for what the worker may not send: anything after a final response, or more
        than it has credit for.
        """
        if self.closed:
            raise WireError(f"request {self.number} has its final response already")
        if len(self._queue) >= RESPONSE_WINDOW + 1:
            raise WireError(f"request {self.number} has more responses than credit")
        self.closed = final
        self.answered = self.answered or outcome is not None
        self._queue.append((outcome, final))
        if not self._pumping:
            self._pumping = True
            self._nursery.start_soon(self._pump)

    async def drained(self) -> None:
        """Return once everything that was pushed is with the client."""
        if self._pumping:
            self._drained = trio.Event()
            await self._drained.wait()

    async def _pump(self) -> None:
        queue = self._queue
        while queue:
            outcome, final = queue.popleft()
            await self._sender.deliver(outcome, final)
            if final:
                break
            if not self._cancelled and self._sender.is_cancelled():
                self._cancelled = True
                self._feedback.cancelled(self.number)
            self._delivered += 1
            # Half a window at a time: the worker never runs dry, and is woken half as often.
            if self._delivered % (RESPONSE_WINDOW // 2) == 0:
                self._feedback.credit(self.number, RESPONSE_WINDOW // 2)
        self._pumping = False
        if self._drained is not None:
            self._drained.set()
