"""How many versions may load at once: as many as there are threads, and as memory allows.

A load is expected to take `size` bytes, and is counted as if it had taken none of them until it
ends. It begins only if what is available then leaves the reserve alone. One load may always run, so
that nothing waits for memory that nobody is going to free; and those that wait are looked at again
when a load ends, in the order in which they came.
"""

from __future__ import annotations

from typing import Final

# What loading leaves to requests, to other processes and to the page cache.
RESERVE_BYTES: Final = 512 * 1024 * 1024


class LoadAdmission:
    """The loads under way."""

    def __init__(self, threads: int, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._threads = max(1, threads)
        self._reserve = reserve_bytes
        self._count = 0
        self._expected = 0  # bytes of all of them

    def may_begin(self, size: int, available: int | None) -> bool:
        """Whether one more load fits; `available` None says that nobody knows."""
        if self._count == 0:
            return True
        if self._count >= self._threads:
            return False
        return available is None or available - self._expected - size >= self._reserve

    def begin(self, size: int) -> None:
        self._count += 1
        self._expected += size

    def end(self, size: int) -> None:
        self._count -= 1
        self._expected -= size
