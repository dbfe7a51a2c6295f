"""What threads say reaches the event loop: all of it, in order, and with everybody's turns held."""

from __future__ import annotations

import functools

import trio

from actors.channels import Door, Mailbox
from actors.thread_answers import ThreadAnswers, current_thread_answers

ANSWERS = 2_000


async def test_all_that_threads_say_is_heard_in_the_order_of_each() -> None:
    heard: dict[str, list[int]] = {"one": [], "other": []}
    all_heard = trio.Event()

    def hear(name: str, number: int) -> None:
        heard[name].append(number)
        if sum(map(len, heard.values())) == 2 * ANSWERS:
            all_heard.set()

    def speak(name: str) -> None:
        for number in range(ANSWERS):
            answers.put(functools.partial(hear, name, number))

    answers = current_thread_answers()
    async with trio.open_nursery() as nursery:
        for name in heard:
            nursery.start_soon(trio.to_thread.run_sync, speak, name)
        await all_heard.wait()
    assert heard == {name: list(range(ANSWERS)) for name in heard}


async def test_what_has_come_together_is_heard_before_anybody_has_a_turn() -> None:
    mailbox = Mailbox()
    door: Door[int] = mailbox.door(8)
    turns: list[list[int]] = []

    def turn() -> float:
        turns.append(list(door.drain()))
        if 3 in turns[-1]:
            mailbox.leave()
        return float("inf")

    answers = current_thread_answers()
    for number in range(4):
        answers.put(functools.partial(door.send_nowait, number))
    await mailbox.serve(turn)
    mailbox.close()
    assert [each for each in turns if each] == [[0, 1, 2, 3]]


def test_nothing_is_said_to_a_loop_that_has_ended() -> None:
    async def borrow() -> ThreadAnswers:
        assert current_thread_answers() is current_thread_answers()
        return current_thread_answers()

    answers = trio.run(borrow)
    answers.put(lambda: None)  # nor is it written to a descriptor that is somebody else's by now
