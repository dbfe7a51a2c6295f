"""How much memory a serving process keeps, and when it gives it back to the machine.

Owns the settings of the C library's allocator; it never owns a buffer. Between requests their
buffers are kept, and when a model has ended everything is given back: what a model leaves behind
refers to itself in circles here and there, and the collector, told to leave a serving heap alone,
would find it hours later.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_LIBC = ctypes.CDLL(None)

# Free memory at the end of a heap that stays with the process: what a burst of messages leaves is
# there for the next one. glibc begins with 128 KiB, so that a tensor of some hundred kilobytes
# goes back to the kernel with each request, and the next one has its pages zeroed and mapped anew.
KEPT_BYTES: Final = 64 << 20
# A buffer of this size or more is mapped for itself and unmapped when it is freed, so that a single
# huge tensor does not stay. glibc would come to the same by itself, and takes no more than this.
MAPPED_BYTES: Final = 32 << 20

# Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_buffers() -> bool:
    """Have memory of freed buffers kept for the next ones; False where the allocator cannot.

    For the whole process and for good, so it is for a program to call, not for a library.
    """
    mallopt = getattr(_LIBC, "mallopt", None)  # glibc has it, musl does not
    return mallopt is not None and all(
        mallopt(setting, nbytes) == 1
        for setting, nbytes in (
            (_M_MMAP_THRESHOLD, MAPPED_BYTES),
            (_M_TRIM_THRESHOLD, KEPT_BYTES),
        )
    )


def release_memory() -> None:
    """Collect garbage of every age, and hand free pages back where the allocator lets us ask.

    Takes some milliseconds, in which nothing else runs.
    """
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)
