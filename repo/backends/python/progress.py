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
        # Keeps a descriptor of its own, as long as the mapping.
        self._word = memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")

    @property
    def begun(self) -> int:
        """The number of the first request of the last batch that the model was given."""
        return self._word[0]

    def begin(self, base: int) -> None:
        """Called by the worker right before the model."""
        self._word[0] = base
