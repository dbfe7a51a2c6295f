"""Where versions wait for their turn to load.

Owns the queue; who may go is `policy/load_admission`'s decision. A turn is held while instances
load and warm up, not while they serve.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

import trio

from actors.policy.load_admission import LoadAdmission

AvailableMemory = Callable[[], int | None]
"""Bytes that could be used without taking them from anybody; None where nobody can tell."""


class LoadGate:
    """First come, first served."""

    def __init__(self, admission: LoadAdmission, available: AvailableMemory) -> None:
        self._admission = admission
        self._available = available
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Hold a turn for a load of about `size` bytes."""
        place = (size, trio.Event())
        self._waiting.append(place)
        self._let_in()
        try:
            await place[1].wait()
        except trio.Cancelled:
            if not place[1].is_set():
                self._waiting.remove(place)
                raise
            self._admission.end(size)
            self._let_in()
            raise
        try:
            yield
        finally:
            self._admission.end(size)
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, event = self._waiting[0]
            if not self._admission.may_begin(size, self._available()):
                return
            self._waiting.popleft()
            self._admission.begin(size)
            event.set()
