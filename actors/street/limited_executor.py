"""An executor whose instance is judged once more when it has loaded, before it serves.

Owns nothing but the order of the two. Between them the model is there, so that what it takes can be
seen; an instance that is refused ends like one that could not load.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from actors.street.executor import Executor


class LimitedExecutor:
    """Wraps the executor that does the work, whose methods it hands out as they are."""

    def __init__(self, inner: Executor, check: Callable[[], None]) -> None:
        """`check` may block, and raises ServerError to refuse."""
        self._inner = inner
        self._check = check
        self.depth = inner.depth
        self.on_device = inner.on_device
        self.begin = inner.begin
        self.cancel = inner.cancel
        self.is_ready = inner.is_ready
        self.stop = inner.stop

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._inner.start)
            try:
                await trio.to_thread.run_sync(self._check)
            except BaseException:
                self._inner.stop()
                raise
            task_status.started()
