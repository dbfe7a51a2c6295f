"""Who is handed which reply, and what becomes of those that nobody waits for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.http.reply_desk import MAX_REPLIES_PER_TURN, REPLY_DOOR, ReplyDesk
from actors.messages import Reply


class Taker:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def take_reply(self, reply: Reply) -> None:
        self.numbers.append(reply.number)


def reply(number: int) -> Reply:
    return Reply(number, None, final=True)


async def test_replies_go_to_those_who_wait_for_them_and_others_are_dropped() -> None:
    desk, first, second = ReplyDesk(), Taker(), Taker()
    desk.expect(1, first)
    desk.expect(2, second)
    desk.expect(3, second)
    desk.forget(3)
    desk.forget(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        for number in (3, 2, 4, 1):
            desk.replies.send_nowait(reply(number))
        await wait_all_tasks_blocked()
        assert (first.numbers, second.numbers) == ([1], [2])
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        desk.replies.send_nowait(reply(1))


async def test_a_turn_has_a_limit_and_a_last_reply_always_has_room() -> None:
    desk, taker = ReplyDesk(), Taker()
    count = REPLY_DOOR + 3
    for number in range(count):
        desk.expect(number, taker)
        desk.replies.send_owed(reply(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        while not taker.numbers:
            await trio.lowlevel.checkpoint()
        assert len(taker.numbers) <= 2 * MAX_REPLIES_PER_TURN, "others have a turn in between"
        await wait_all_tasks_blocked()
        assert taker.numbers == list(range(count))
        nursery.cancel_scope.cancel()
