"""Gives memory back to the machine.

Owns nothing; called when a model has ended. What a model leaves behind refers to itself in circles
here and there, and the collector, told to leave a serving heap alone, would find it hours later.
"""

from __future__ import annotations

import ctypes
import gc

_LIBC = ctypes.CDLL(None)


def release_memory() -> None:
    """Collect garbage of every age, and hand free pages back where the allocator lets us ask.

    Takes some milliseconds, in which nothing else runs.
    """
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)
