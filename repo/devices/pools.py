"""Buffers that are dear to make, kept for whoever needs one next, within a limit of bytes.

Owns what it made. Who finds no room waits for others to give back; so nobody may wait while he
holds a buffer of the same pool, or the two could wait for each other. A buffer larger than the
whole pool is made for the one use.
"""

from __future__ import annotations

import threading  # noqa: TID251  # instances live in threads and share a pool
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

# Below this, buffers are all of one size: a page.
SMALLEST: Final = 4096


class Buffer(Protocol):
    @property
    def byte_size(self) -> int: ...


B = TypeVar("B", bound=Buffer)


class BufferPool(Generic[B]):
    """Buffers of sizes that are powers of two."""

    def __init__(
        self, limit: int, *, allocate: Callable[[int], B], free: Callable[[B], None]
    ) -> None:
        """At most `limit` bytes are kept or given out, but for buffers larger than that."""
        self._limit = limit
        self._allocate = allocate
        self._free = free
        self._changed = threading.Condition()
        self._idle: dict[int, list[B]] = {}
        self._held = 0  # bytes: idle ones and those in use
        self.used = 0  # bytes in use

    @property
    def limit(self) -> int:
        return self._limit

    def take(self, byte_size: int, *, wait: bool) -> B | None:
        """A buffer of at least so many bytes; None if it would have to be waited for and is not.

        Raises what making one raises.
        """
        size = max(SMALLEST, 1 << max(byte_size - 1, 0).bit_length())
        if size > self._limit:
            return self._allocate(size)
        with self._changed:
            while True:
                if idle := self._idle.get(size):
                    self.used += size
                    return idle.pop()
                if self._make_room(size):
                    break
                if not wait:
                    return None
                self._changed.wait()
            self._held += size
            self.used += size
        try:
            return self._allocate(size)
        except BaseException:
            self._forget(size)
            raise

    def give(self, buffer: B) -> None:
        """Give back what `take` gave."""
        size = buffer.byte_size
        if size > self._limit:
            self._free(buffer)
            return
        with self._changed:
            self.used -= size
            self._idle.setdefault(size, []).append(buffer)
            self._changed.notify_all()

    def _make_room(self, size: int) -> bool:
        """Let idle buffers of other sizes go until `size` more bytes fit, if that is possible."""
        while self._held + size > self._limit:
            idle = next((each for each in self._idle.values() if each), None)
            if idle is None:
                return False
            buffer = idle.pop()
            self._held -= buffer.byte_size
            self._free(buffer)
        return True

    def _forget(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self.used -= size
            self._changed.notify_all()
