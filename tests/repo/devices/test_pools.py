"""Pools of buffers: their limit, their reuse, and who waits for whom."""

from __future__ import annotations

import threading

import pytest

from repo.devices.cpu import host_memory
from repo.devices.pools import SMALLEST, BufferPool
from repo.devices.port import HostMemory, OutOfDeviceMemory


class Rig:
    def __init__(self, limit: int) -> None:
        self.made: list[int] = []
        self.freed: list[int] = []
        self.fails = False
        self.pool = BufferPool(limit, allocate=self._allocate, free=self._free)

    def _allocate(self, byte_size: int) -> HostMemory:
        if self.fails:
            raise OutOfDeviceMemory("no room")
        self.made.append(byte_size)
        return host_memory(byte_size)

    def _free(self, buffer: HostMemory) -> None:
        self.freed.append(buffer.byte_size)

    def take(self, byte_size: int) -> HostMemory:
        buffer = self.pool.take(byte_size, wait=False)
        assert buffer is not None
        return buffer


def test_buffers_are_used_again() -> None:
    rig = Rig(4 * SMALLEST)
    first = rig.take(1)
    assert first.byte_size == SMALLEST
    rig.pool.give(first)
    assert rig.take(SMALLEST) is first
    assert rig.take(SMALLEST + 1).byte_size == 2 * SMALLEST
    assert rig.made == [SMALLEST, 2 * SMALLEST]
    assert rig.pool.used == 3 * SMALLEST


def test_idle_buffers_make_room_for_others() -> None:
    rig = Rig(2 * SMALLEST)
    small = [rig.take(1), rig.take(1)]
    assert rig.pool.take(1, wait=False) is None
    for buffer in small:
        rig.pool.give(buffer)
    assert rig.take(2 * SMALLEST).byte_size == 2 * SMALLEST
    assert rig.freed == [SMALLEST, SMALLEST]
    assert rig.pool.used == rig.pool.limit


def test_what_is_larger_than_the_pool_is_made_for_once() -> None:
    rig = Rig(SMALLEST)
    large = rig.take(SMALLEST + 1)
    assert rig.pool.used == 0
    rig.pool.give(large)
    assert rig.freed == [2 * SMALLEST]


def test_a_failed_allocation_leaves_the_room_to_others() -> None:
    rig = Rig(SMALLEST)
    rig.fails = True
    with pytest.raises(OutOfDeviceMemory):
        rig.take(1)
    rig.fails = False
    rig.take(1)


def test_whoever_waits_gets_what_is_given_back() -> None:
    rig = Rig(SMALLEST)
    held = rig.take(1)
    got: list[HostMemory | None] = []
    waiter = threading.Thread(target=lambda: got.append(rig.pool.take(1, wait=True)))
    waiter.start()
    rig.pool.give(held)
    waiter.join()
    assert got == [held]
