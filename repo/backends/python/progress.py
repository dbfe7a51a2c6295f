"""One word that a worker shares with the server: which batch it has begun.

A message could be lost with the worker; a store into shared memory cannot. So the server knows of
every batch, whatever kills a worker, whether the model may have seen it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_BYTES = mmap.PAGESIZE


def make_progress() -> int:
    """The descriptor of a new word, zero."""
    descriptor = os.memfd_create("troupe-progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, _BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


class Progress:
    """The word, as either side sees it; the descriptor stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        # Keeps a descriptor of its own, until it is closed.
        self._mapping = mmap.mmap(descriptor, _BYTES)
        self._word = memoryview(self._mapping).cast("Q")
        self._last = 0  # what it said when it was closed
        self._is_closed = False

    @property
    def begun(self) -> int:
        """The number of the first request of the last batch that the model was given."""
        return self._last if self._is_closed else self._word[0]

    def close(self) -> None:
        """Give the mapping back; what it said last can still be asked for."""
        if not self._is_closed:
            self._last, self._is_closed = self._word[0], True
            self._word.release()
            self._mapping.close()

    def begin(self, base: int) -> None:
        """Called by the worker right before the model."""
        self._word[0] = base
