"""Sleeping until an instant, to some ten microseconds.

trio's timers end on whole milliseconds, since epoll counts those. Linux's timerfd does not; where
it is missing, or the clock is not the system's, trio's timers must do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final, Protocol

import trio

CLOCK_MONOTONIC: Final = 1
TFD_NONBLOCK: Final = 0o4000
NANOSECONDS: Final = 1_000_000_000
# Below this a timer is not worth its system calls.
SHORTEST_SECONDS: Final = 20e-6


class Sleeper(Protocol):
    """How an open loop waits."""

    async def sleep_until(self, at: float) -> None:
        """Return at the instant `at` of trio's clock, or at once if it is past."""

    def close(self) -> None: ...


class PlainSleeper:
    """trio's own timers: exact in virtual time."""

    async def sleep_until(self, at: float) -> None:
        await trio.sleep_until(at)

    def close(self) -> None:
        """Nothing is held."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerSleeper:
    """A timerfd. Raises OSError where there is none."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("no timerfd here")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    async def sleep_until(self, at: float) -> None:
        rest = at - trio.current_time()
        if rest < SHORTEST_SECONDS:
            await trio.lowlevel.checkpoint()
            return
        nanoseconds = int(rest * NANOSECONDS)
        setting = _Setting()
        setting.value.seconds, setting.value.nanoseconds = divmod(nanoseconds, NANOSECONDS)
        self._libc.timerfd_settime(self._fd, 0, ctypes.byref(setting), None)
        await trio.lowlevel.wait_readable(self._fd)
        os.read(self._fd, 8)

    def close(self) -> None:
        os.close(self._fd)


def best_sleeper() -> Sleeper:
    """A timerfd if the system has it."""
    try:
        return TimerSleeper()
    except (OSError, AttributeError):
        return PlainSleeper()
