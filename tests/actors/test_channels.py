"""Doors, the doorbell and the watch: what every actor relies on."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.channels import Door, Mailbox


async def test_the_bell_rings_once_for_any_number_of_messages() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(4)
    for number in range(3):
        door.send_nowait(number)

    await mailbox.wait()

    assert list(door.drain()) == [0, 1, 2]
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(0.01):
            await mailbox.wait()


async def test_a_full_door_refuses_and_then_takes_waiting_senders_in_order() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)
    with pytest.raises(trio.WouldBlock):
        door.send_nowait(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.send, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(door.send, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert len(door) == 3
        await mailbox.wait()
        taken = list(door.drain())

    assert taken == [0, 1, 2]
    assert len(door) == 0


async def test_a_sender_that_gives_up_leaves_nothing_behind() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)

    with trio.move_on_after(0.01):
        await door.send(1)

    assert len(door) == 1
    assert list(door.drain()) == [0]


async def test_a_patient_door_rings_only_for_more_than_may_wait() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(4, patience=2)
    door.send_nowait(0)
    door.send_nowait(1)
    with trio.move_on_after(0.01) as patience:
        await mailbox.wait()
    assert patience.cancelled_caught

    door.send_nowait(2)

    await mailbox.wait()
    assert list(door.drain()) == [0, 1, 2]


async def test_drain_takes_no_more_than_its_limit() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(4)
    for number in range(4):
        door.send_nowait(number)

    assert list(door.drain(3)) == [0, 1, 2]
    assert list(door.drain(0)) == []
    assert list(door.drain()) == [3]


async def test_a_closed_mailbox_tells_senders() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)
    async with trio.open_nursery() as nursery:

        async def waits_for_room() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await door.send(1)

        nursery.start_soon(waits_for_room)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.close()

    with pytest.raises(trio.BrokenResourceError):
        door.send_nowait(2)


async def test_a_message_that_is_owed_comes_last_however_full_the_door() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.send, 1)
        await trio.testing.wait_all_tasks_blocked()
        door.send_owed(2)
        assert len(door) == 3
        await mailbox.wait()
        taken = list(door.drain())

    assert taken == [0, 1, 2]
    assert len(door) == 0


async def test_a_door_can_close_before_its_mailbox() -> None:
    mailbox = Mailbox()
    brief: Door[int] = mailbox.door(1)
    other: Door[int] = mailbox.door(1)

    mailbox.remove(brief)

    with pytest.raises(trio.BrokenResourceError):
        brief.send_owed(1)
    other.send_nowait(2)
    assert list(other.drain()) == [2]
    mailbox.close()
    with pytest.raises(trio.BrokenResourceError):
        other.send_nowait(3)


async def test_a_hushed_door_lets_its_owner_sleep() -> None:
    mailbox = Mailbox()
    hushed: Door[int] = mailbox.door(2)
    loud: Door[int] = mailbox.door(2)
    hushed.hush(True)
    hushed.send_nowait(1)
    hushed.send_nowait(2)
    with trio.move_on_after(0) as scope:
        await mailbox.wait()
    assert scope.cancelled_caught
    loud.send_nowait(3)
    await mailbox.wait()
    assert [*hushed.drain(), *loud.drain()] == [1, 2, 3]
    hushed.hush(False)
    hushed.send_nowait(4)
    await mailbox.wait()
    assert list(hushed.drain()) == [4]


async def test_a_ring_survives_the_cancelling_of_a_wait() -> None:
    mailbox = Mailbox()
    with trio.move_on_after(0):
        await mailbox.wait()
    mailbox.ring()
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.wait()
    assert scope.cancelled_caught
    await mailbox.wait()


async def test_whoever_stands_in_line_keeps_its_turn_whenever_it_begins_to_wait() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)
    places = [door.stand_in_line(number) for number in range(1, 4)]

    assert list(door.drain(2)) == [0, 1]  # before anybody has begun to wait
    async with trio.open_nursery() as nursery:
        for place in reversed(places):
            nursery.start_soon(door.wait_in_line, place)
        await trio.testing.wait_all_tasks_blocked()
        assert list(door.drain()) == [2, 3]


async def test_whoever_leaves_the_line_puts_nothing_in_unless_it_was_let_in() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)
    let_in, gone = door.stand_in_line(1), door.stand_in_line(2)
    assert list(door.drain(1)) == [0]
    with trio.CancelScope() as scope:
        scope.cancel()
        await door.wait_in_line(let_in)
        await door.wait_in_line(gone)
    assert scope.cancelled_caught
    assert list(door.drain()) == [1]


async def test_a_closed_door_tells_whoever_stands_in_line() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(1)
    door.send_nowait(0)
    place = door.stand_in_line(1)
    mailbox.close()
    with pytest.raises(trio.BrokenResourceError):
        await door.wait_in_line(place)
    with pytest.raises(trio.BrokenResourceError):
        door.stand_in_line(2)


async def test_a_sender_that_never_waits_is_told_of_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mine, theirs = Mailbox(), Mailbox()
    door: Door[int] = theirs.door(1)
    door.ring_when_room(mine)
    await mine.wait()  # there is room already

    for free in (lambda: list(door.drain()), lambda: theirs.remove(door)):
        door.send_nowait(0)
        door.ring_when_room(mine)
        with trio.move_on_after(60) as patience:
            await mine.wait()
        assert patience.cancelled_caught
        free()
        await mine.wait()

    door.ring_when_room(mine)
    await mine.wait()  # closed: whoever sends is told
    assert autojump_clock.current_time() == 120


async def test_a_message_can_be_picked_out_of_its_turn() -> None:
    door: Door[int] = Mailbox().door(2)
    door.send_nowait(0)
    door.send_nowait(1)
    in_line = [door.stand_in_line(number) for number in (2, 3, 4)]

    assert door.pick(lambda number: number == 3) == 3  # from the line
    assert door.pick(lambda number: number == 0) == 0
    assert door.pick(lambda number: number == 9) is None
    await door.wait_in_line(in_line[1])
    assert list(door.drain()) == [1, 2, 4]
