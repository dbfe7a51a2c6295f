"""How what a thread has to say comes into the event loop.

trio's own way for that, `run_sync_soon`, wakes the loop through a pair of sockets that it reads
until nothing is left: two system calls and an exception for each wake-up, besides a lock and two
calls. An eventfd is read once, and everything that has come by then is heard together, with the
turns of others held meanwhile.

Owns the eventfd and the line of what has come. It does not know what is said, and starts no thread.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from actors.readiness import current_readiness

# By ctypes it is called with the interpreter lock held. os.eventfd_write would give that away, to
# the loop that it has just woken, so that the thread could not begin its next batch before the loop
# had dealt with this answer. It never blocks.
_eventfd_write: Final = ctypes.PyDLL(None).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class ThreadAnswers:
    """One for each event loop that threads answer to. Raises OSError where the kernel has none.

    The line is bounded by those who answer: a thread is given no more work before it has been heard
    than its executor takes at once.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._line: deque[Callable[[], None]] = deque()
        self._is_signalled = False  # the loop will look, and has not begun to

    def put(self, hear: Callable[[], None]) -> None:
        """For any thread: have `hear`, which must not raise, called in the event loop.

        Afterwards nothing happens: nobody is left to hear.
        """
        self._line.append(hear)
        # The loop takes the signal back before it looks: what came before it is found, and what
        # comes later sees that there is no signal. A signal too many wakes the loop for nothing.
        if not self._is_signalled and self._descriptor >= 0:
            self._is_signalled = True
            _eventfd_write(self._descriptor, 1)

    async def run(self) -> None:
        """Hear whatever comes, until cancelled."""
        try:
            await current_readiness().attend(self._descriptor, self._hear)
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _hear(self) -> int:
        os.eventfd_read(self._descriptor)
        self._is_signalled = False
        line = self._line
        heard = len(line)
        for _ in range(heard):  # what comes meanwhile signals again
            line.popleft()()
        return heard


_OF_LOOP: Final = trio.lowlevel.RunVar[ThreadAnswers]("thread_answers")


def current_thread_answers() -> ThreadAnswers:
    """Those of the event loop that the caller runs in."""
    try:
        return _OF_LOOP.get()
    except LookupError:
        answers = ThreadAnswers()
        trio.lowlevel.spawn_system_task(answers.run)
        _OF_LOOP.set(answers)
        return answers
