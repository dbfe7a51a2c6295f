"""Where versions wait for their turn to load, in virtual time."""

from __future__ import annotations

import trio
import trio.testing

from actors.lifecycle.load_gate import LoadGate
from actors.policy.load_admission import LoadAdmission

Clock = trio.testing.MockClock
GB = 1 << 30


class Memory:
    def __init__(self, size: int) -> None:
        self.size = size

    def available(self) -> int:
        return self.size


def gate(memory: Memory, threads: int = 4) -> LoadGate:
    return LoadGate(LoadAdmission(threads, reserve_bytes=GB), memory.available)


async def test_first_come_first_served(autojump_clock: Clock) -> None:
    place = gate(Memory(100 * GB), threads=1)
    order: list[int] = []

    async def load(number: int) -> None:
        await trio.sleep(number / 8)
        async with place.turn(1):
            order.append(number)
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for number in (3, 1, 2):
            nursery.start_soon(load, number)

    assert order == [1, 2, 3]
    assert autojump_clock.current_time() == 3.125


async def test_a_load_waits_until_another_one_has_left_room(autojump_clock: Clock) -> None:
    memory = Memory(5 * GB)
    place = gate(memory)
    ends: list[float] = []

    async def load(size: int) -> None:
        async with place.turn(size):
            await trio.sleep(1.0)
        ends.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, 3 * GB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(load, 2 * GB)  # 3 + 2 would leave nothing

    assert ends == [1.0, 2.0]
    assert autojump_clock.current_time() == 2.0


async def test_whoever_gives_up_leaves_the_queue(autojump_clock: Clock) -> None:
    place = gate(Memory(100 * GB), threads=1)

    async def load(seconds: float) -> None:
        async with place.turn(1):
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, 2.0)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1.0) as scope:
            await load(1.0)
        assert scope.cancelled_caught
        await load(1.0)

    assert autojump_clock.current_time() == 3.0
