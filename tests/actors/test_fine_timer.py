"""Instants that come sooner than the event loop's clock ticks."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from actors.channels import Mailbox
from actors.fine_timer import SOON_SECONDS, FineTimer
from actors.turns import open_turns


class Watched(FineTimer):
    """Notes for how long it was armed."""

    def __init__(self) -> None:
        super().__init__()
        self.armed: list[float] = []

    @property
    def is_idle(self) -> bool:
        return not self._soon

    def _arm(self, seconds: float) -> None:
        self.armed.append(seconds)
        super()._arm(seconds)


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    timer = Watched()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        yield timer
        with trio.fail_after(10):
            while not timer.is_idle:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_the_nearest_instant_is_armed_and_then_the_next() -> None:
    async with watched() as timer:
        now = trio.current_time()
        for seconds in (0.001, 0.0005, 0.0015):
            timer.wake_at(now + seconds)
        assert len(timer.armed) == 2, "a later one waits until then"
    assert all(seconds < SOON_SECONDS for seconds in timer.armed)


async def test_what_is_far_away_or_never_is_left_to_the_loop() -> None:
    async with watched() as timer:
        timer.wake_at(trio.current_time() + 1.0)
        timer.wake_at(math.inf)
        assert timer.armed == []


async def test_an_instant_that_has_passed_wakes_at_once() -> None:
    async with watched() as timer:
        timer.wake_at(trio.current_time() - 1.0)
        assert len(timer.armed) == 1


async def test_the_turns_of_an_actor_ask_for_their_instants() -> None:
    timer = Watched()
    open_turns(timer=timer)
    mailbox = Mailbox()
    at: list[float] = []

    def turn() -> float:
        at.append(trio.current_time())
        if len(at) == 3:
            mailbox.leave()
            return math.inf
        return at[-1] + 100e-6

    with trio.fail_after(10):
        await mailbox.serve(turn)
    assert len(timer.armed) == 2
    assert all(after - before >= 100e-6 for before, after in itertools.pairwise(at))
