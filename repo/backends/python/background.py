"""The worker's one asyncio event loop, in a thread of its own, for models with `async` methods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class BackgroundLoop:
    """Runs coroutines for threads that have no event loop; started by the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result, or whatever it raises."""
        import asyncio  # late, because it costs a worker 30 ms that most have no use for

        return asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], report: Callable[[BaseException], None]
    ) -> None:
        """Run a coroutine without waiting; `report` hears of what it raises."""
        import asyncio

        def finished(future: Any) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                report(error)

        asyncio.run_coroutine_threadsafe(coroutine, self._started()).add_done_callback(finished)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _started(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="asyncio", daemon=True).start()
            return self._loop
