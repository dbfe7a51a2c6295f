"""Wakes the event loop at an instant, to the microsecond.

The loop waits in whole milliseconds, rounded up: an instant that is 100 µs away, the usual delay
of a batch, would come after more than a millisecond. A timer of the kernel is one more thing that
the loop watches. Owns the instants for which it has to wake up soon, and nothing of what is to
happen then: that is for whoever asked trio to be woken at that very instant.
"""

from __future__ import annotations

import ctypes
import heapq
import os
from typing import Final

import trio

# Further away than this, a millisecond more or less is within what deadlines promise.
SOON_SECONDS: Final = 2e-3
# A timer that is not behind the loop's clock, however their seconds are rounded.
LATE_NS: Final = 1_000

_CLOCK_MONOTONIC: Final = 1
_NS: Final = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class FineTimer:
    """One for each event loop that keeps real time; raises OSError where the kernel has none."""

    def __init__(self) -> None:
        # CPython has these from 3.13 on.
        library = ctypes.CDLL(None, use_errno=True)
        self._set_time = library.timerfd_settime
        descriptor = library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "the kernel gives no timer")
        self._descriptor: int = descriptor
        self._setting = _Itimerspec()
        self._soon: list[float] = []  # heap of instants within SOON_SECONDS, so a few

    def wake_at(self, at: float) -> None:
        """Have the loop look around at `at`; nothing if that is far away."""
        seconds = at - trio.current_time()
        if seconds < SOON_SECONDS:
            soon = self._soon
            heapq.heappush(soon, at)
            if soon[0] == at:
                self._arm(seconds)

    async def run(self) -> None:
        """Take up the next instant whenever one has come, until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._descriptor)
                os.read(self._descriptor, 8)
                now = trio.current_time()
                while self._soon and self._soon[0] <= now:
                    heapq.heappop(self._soon)
                if self._soon:
                    self._arm(self._soon[0] - now)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1  # which nobody can arm

    def _arm(self, seconds: float) -> None:
        value = self._setting.value
        value.seconds = 0  # SOON_SECONDS is less than one
        value.nanoseconds = max(0, int(seconds * _NS)) + LATE_NS
        self._set_time(self._descriptor, 0, ctypes.byref(self._setting), None)
