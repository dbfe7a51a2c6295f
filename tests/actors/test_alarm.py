"""Alarms ring at their instant, and only ever earlier than asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.alarm import Alarm
from actors.channels import Mailbox


@asynccontextmanager
async def alarmed() -> AsyncIterator[tuple[Alarm, Mailbox]]:
    mailbox = Mailbox()
    alarm = Alarm(mailbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        yield alarm, mailbox
        nursery.cancel_scope.cancel()


async def test_it_rings_at_its_instant(autojump_clock: MockClock) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    async with alarmed() as (alarm, mailbox):
        for at in (1.0, 1.5, 9.0):
            alarm.set(at)
            await mailbox.wait()
            assert trio.current_time() == at


async def test_an_earlier_instant_replaces_a_later_one(autojump_clock: MockClock) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    async with alarmed() as (alarm, mailbox):
        await wait_all_tasks_blocked()
        alarm.set(9.0)
        alarm.set(2.0)
        await mailbox.wait()
        assert trio.current_time() == 2.0
        with trio.move_on_after(100.0) as patience:
            await mailbox.wait()
        assert patience.cancelled_caught, "the later instant was not asked for again"


async def test_a_later_instant_is_asked_for_when_the_old_one_has_come(
    autojump_clock: MockClock,
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    async with alarmed() as (alarm, mailbox):
        alarm.set(2.0)
        alarm.set(9.0)
        await mailbox.wait()
        assert trio.current_time() == 2.0
        alarm.set(9.0)
        await mailbox.wait()
        assert trio.current_time() == 9.0


async def test_an_instant_that_has_passed_rings_at_once(autojump_clock: MockClock) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    async with alarmed() as (alarm, mailbox):
        await trio.sleep(5.0)
        alarm.set(3.0)
        await mailbox.wait()
        assert trio.current_time() == 5.0
