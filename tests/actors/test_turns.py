"""Turns without tasks: who is called when, what ends a service, and what happens to errors."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actors.channels import Door, Mailbox
from actors.turns import TURNS_AT_ONCE, Line, current_turns, open_turns


class Actor:
    """Writes down what it was told, and does what it was made to do with each message."""

    def __init__(self, name: str, heard: list[str], line: Line = Line.WORK) -> None:
        self.line = line
        self.mailbox = Mailbox()
        self.door: Door[str] = self.mailbox.door(8)
        self.name = name
        self.heard = heard
        self.wake_at = math.inf
        self.tells: Actor | None = None

    def turn(self) -> float:
        for message in self.door.drain():
            self.heard.append(f"{self.name}:{message}")
            if message == "leave":
                self.mailbox.leave()
            elif message == "fail":
                raise RuntimeError("as told")
            elif self.tells is not None:
                self.tells.door.send_nowait(f"{message}!")
        return self.wake_at

    async def run(self) -> None:
        await self.mailbox.serve(self.turn, self.line)


@asynccontextmanager
async def serving(*actors: Actor) -> AsyncIterator[None]:
    """Every actor has had its first turn, and none of them ends by itself."""
    async with trio.open_nursery() as nursery:
        for actor in actors:
            nursery.start_soon(actor.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_what_a_ring_sets_off_happens_at_once_when_settled() -> None:
    heard: list[str] = []
    first, second = Actor("first", heard), Actor("second", heard)
    first.tells = second
    turns = current_turns()
    async with serving(first, second):
        turns.hold()
        first.door.send_nowait("a")
        first.door.send_nowait("b")
        assert heard == [], "turns wait for whoever holds them"
        turns.settle()
        assert heard == ["first:a", "first:b", "second:a!", "second:b!"]


async def test_a_ring_that_nobody_settles_is_heard_by_itself() -> None:
    heard: list[str] = []
    actor = Actor("a", heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        await trio.testing.wait_all_tasks_blocked()
        actor.door.send_nowait("x")
        assert heard == []
        await trio.testing.wait_all_tasks_blocked()
        assert heard == ["a:x"]
        actor.door.send_nowait("leave")
    assert heard == ["a:x", "a:leave"]


async def test_what_was_said_before_the_service_is_heard_in_its_first_turn() -> None:
    heard: list[str] = []
    actor = Actor("a", heard)
    actor.door.send_nowait("early")
    actor.door.send_nowait("leave")
    await actor.run()
    assert heard == ["a:early", "a:leave"]


async def test_an_error_of_a_turn_ends_its_owner_and_nobody_else() -> None:
    heard: list[str] = []
    broken, sound = Actor("broken", heard), Actor("sound", heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sound.run)
        broken.door.send_nowait("fail")
        sound.door.send_nowait("x")
        with pytest.raises(RuntimeError, match="as told"):
            await broken.run()
        broken.door.send_nowait("too late")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(heard) == ["broken:fail", "sound:x"]
        nursery.cancel_scope.cancel()


async def test_a_turn_comes_at_its_instant_though_nobody_rings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    heard: list[str] = []
    actor = Actor("a", heard)
    at: list[float] = []

    def turn() -> float:
        at.append(trio.current_time())
        if len(at) == 3:
            actor.mailbox.leave()
        return trio.current_time() + 0.25

    began = trio.current_time()
    await actor.mailbox.serve(turn)
    assert [instant - began for instant in at] == [0.0, 0.25, 0.5]


async def test_an_instant_can_be_put_off_and_brought_forward(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    actor = Actor("a", [])
    at: list[float] = []
    began = trio.current_time()
    wakes = iter((began + 1.0, math.inf, math.inf, began + 4.0, math.inf))

    def turn() -> float:
        at.append(trio.current_time() - began)
        return next(wakes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.mailbox.serve, turn)
        await trio.sleep(0.5)
        actor.mailbox.ring()
        await trio.sleep(2.5)
        actor.mailbox.ring()
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()
    assert at == [0.0, 0.5, 1.0, 3.0, 4.0], "put off, it is heard once at the old instant"


async def test_what_a_turn_at_its_instant_sets_off_may_come_back_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    heard: list[str] = []
    asking, answering = Actor("asking", heard), Actor("answering", heard)
    answering.tells = asking
    instants = iter((trio.current_time() + 1.0, math.inf))

    def turn() -> float:
        if trio.current_time() == began + 1.0 and not heard:
            answering.door.send_nowait("x")
        asking.turn()
        if len(heard) == 2:
            asking.mailbox.leave()
        return next(instants, math.inf)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answering.run)
        with trio.fail_after(5.0):
            await asking.mailbox.serve(turn)
        assert trio.current_time() == began + 1.0
        nursery.cancel_scope.cancel()
    assert heard == ["answering:x", "asking:x!"]


async def test_an_error_of_a_turn_at_its_instant_is_raised_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    actor = Actor("a", [])
    began = trio.current_time()

    def turn() -> float:
        if trio.current_time() > began:
            raise RuntimeError("late")
        return began + 1.0

    with pytest.raises(RuntimeError, match="late"):
        await actor.mailbox.serve(turn)


async def test_actors_that_ring_each_other_without_end_do_not_stop_the_loop() -> None:
    heard: list[str] = []
    ping, pong = Actor("ping", heard), Actor("pong", heard)
    ping.tells, pong.tells = pong, ping
    turns = current_turns()
    async with serving(ping, pong):
        turns.hold()
        ping.door.send_nowait("x")
        turns.settle()
        assert len(heard) == TURNS_AT_ONCE
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        assert len(heard) > TURNS_AT_ONCE, "the rest goes on in later turns of the loop"


async def test_whoever_chooses_decides_who_is_next() -> None:
    heard: list[str] = []
    actors = [Actor(name, heard) for name in "abc"]
    turns = open_turns(lambda count: count - 1)
    async with serving(*actors):
        turns.hold()
        for actor in actors:
            actor.door.send_nowait("x")
        turns.settle()
        assert heard == ["c:x", "b:x", "a:x"]


async def test_a_line_has_its_turns_when_those_before_it_are_empty() -> None:
    heard: list[str] = []
    counts, answers = Actor("f", heard, Line.FACTS), Actor("a", heard, Line.ANSWERS)
    works, sets_up = Actor("w", heard), Actor("s", heard)
    sets_up.tells = works
    turns = current_turns()
    async with serving(counts, answers, works, sets_up):
        turns.hold()
        for actor in (counts, answers, sets_up):
            actor.door.send_nowait("x")
        turns.settle()
        assert heard == ["s:x", "w:x!", "a:x", "f:x"]
        counts.door.send_nowait("y")  # and without anybody who settles
        await trio.testing.wait_all_tasks_blocked()
        assert heard[4:] == ["f:y"]


async def test_answers_go_first_while_models_have_more_to_run() -> None:
    heard: list[str] = []
    answers, works = Actor("answers", heard, Line.ANSWERS), Actor("works", heard)
    turns = current_turns()
    async with serving(answers, works):
        for answers_first in (True, False):
            turns.hold()
            turns.answers_first = answers_first
            for actor in (works, answers):
                actor.door.send_nowait("x")
            turns.settle()
            assert not turns.answers_first, "it holds until the answers have left"
        assert heard == ["answers:x", "works:x", "works:x", "answers:x"]


async def test_work_without_end_does_not_keep_answers_from_leaving() -> None:
    heard: list[str] = []
    ping, pong = Actor("ping", heard), Actor("pong", heard)
    answers = Actor("answers", heard, Line.ANSWERS)
    ping.tells, pong.tells = pong, ping
    turns = current_turns()
    async with serving(answers, ping, pong):
        turns.hold()
        answers.door.send_nowait("x")
        ping.door.send_nowait("x")
        turns.settle()
        assert heard[TURNS_AT_ONCE:] == ["answers:x"]
