"""Whether the event loop has anything to do: what trio knows and does not say.

The one place in `actors/` that touches trio's private names, for which trio's minor version is
pinned; `tests/actors/test_readiness.py` checks that they still mean what they are taken for.
"""

from __future__ import annotations

import math
import sys
from types import FrameType

import trio._core._run as trio_run


class LoopView:
    """A look at the event loop that the caller runs in, as long as it runs."""

    def __init__(self) -> None:
        self._runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        # Readable when something has come that one of trio's tasks waits for, a word of another
        # thread or a signal among it.
        self.descriptor: int = self._runner.io_manager._epoll.fileno()  # noqa: SLF001
        self._frame = _frame_of_loop()

    def has_others(self) -> bool:
        """Whether tasks that became runnable with the one that asks have not been run yet.

        They are the loop's for this pass, and in its queue no longer.
        """
        return bool(self._frame.f_locals["batch"])

    def free_seconds(self) -> float:
        """How long it has nothing to do but to wait for descriptors; nothing if it has already."""
        runner = self._runner
        if (
            runner.runq
            or runner.waiting_for_idle
            or runner.is_guest
            or runner.clock_autojump_threshold != math.inf
        ):
            return 0.0
        return runner.clock.deadline_to_sleep_time(runner.deadlines.next_deadline())


def _frame_of_loop() -> FrameType:
    """The one frame of trio's loop, which stays as long as it runs; it has called the caller."""
    frame = sys._getframe()  # noqa: SLF001
    while frame.f_code is not trio_run.unrolled_run.__code__:
        assert frame.f_back is not None, "whoever looks is run by the loop"
        frame = frame.f_back
    return frame
