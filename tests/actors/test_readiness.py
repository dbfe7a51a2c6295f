"""Who waits for descriptors in the event loop's place keeps nobody else waiting."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import readiness as readiness_module
from actors.channels import Door, Mailbox
from actors.loop_view import LoopView
from actors.policy.reading import MOST_REQUESTS
from actors.readiness import Readiness, current_readiness

# Longer than any test takes, so that whoever is kept waiting fails by its own deadline.
FOR_EVER = 600.0
PATIENCE_SECONDS = 20.0


class Pipe:
    """Something that is read as it becomes readable."""

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe()
        self.heard: list[bytes] = []
        self.heard_something = trio.Event()

    def write(self, said: bytes) -> None:
        os.write(self._end, said)

    def read(self) -> int:
        self.heard.append(os.read(self.descriptor, 64))
        self.heard_something.set()
        return 1

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._end)


@contextmanager
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness_module, "LONGEST_WAIT_SECONDS", FOR_EVER)


async def heard_once(line: Pipe, watched: Readiness) -> None:
    """Bring the watched descriptors to wait in the loop's place: they do after every read."""
    watched.watch(line.descriptor, line.read)
    line.write(b"first")
    await line.heard_something.wait()


@pytest.mark.usefixtures("waits_for_ever")
async def test_what_the_loop_waits_for_is_not_kept_waiting() -> None:
    with pipe() as line, pipe() as other, trio.fail_after(PATIENCE_SECONDS):
        watched = current_readiness()
        await heard_once(line, watched)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, other.descriptor)
            # A thread speaks while the loop is not asked.
            await trio.to_thread.run_sync(other.write, b"x")

        line.heard_something = trio.Event()
        line.write(b"second")
        await line.heard_something.wait()
        assert line.heard == [b"first", b"second"]
        watched.forget(line.descriptor)


@pytest.mark.usefixtures("waits_for_ever")
async def test_deadlines_come() -> None:
    with pipe() as line:
        watched = current_readiness()
        await heard_once(line, watched)
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        watched.forget(line.descriptor)


@pytest.mark.usefixtures("waits_for_ever")
async def test_tasks_woken_by_what_was_read_run() -> None:
    mailbox = Mailbox()
    door: Door[bytes] = mailbox.door(4)
    with pipe() as line, trio.fail_after(PATIENCE_SECONDS):

        def read() -> int:
            door.send_nowait(os.read(line.descriptor, 64))
            return 1

        current_readiness().watch(line.descriptor, read)
        for said in (b"one", b"two", b"three"):
            line.write(said)
            await mailbox.wait()
            assert list(door.drain()) == [said]
        current_readiness().forget(line.descriptor)
    mailbox.close()


@pytest.mark.usefixtures("waits_for_ever")
async def test_tasks_woken_together_with_who_waits_in_their_place_run() -> None:
    """Whichever of them the loop happens to begin with."""
    woken = 0

    async def other(event: trio.Event) -> None:
        nonlocal woken
        await event.wait()
        woken += 1

    with pipe() as line, trio.fail_after(PATIENCE_SECONDS):
        watched = current_readiness()
        watched.watch(line.descriptor, line.read)
        for turn in range(1, 17):
            events = [trio.Event() for _ in range(3)]
            async with trio.open_nursery() as nursery:
                for event in events:
                    nursery.start_soon(other, event)
                await wait_all_tasks_blocked()
                line.write(b"x")
                for event in events:
                    event.set()
            assert woken == 3 * turn
        watched.forget(line.descriptor)


async def test_what_a_reader_raises_is_raised_where_it_is_attended() -> None:
    with pipe() as line:

        def read() -> int:
            raise ZeroDivisionError("a defect")

        line.write(b"x")
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await current_readiness().attend(line.descriptor, read)
        # It is watched no longer: otherwise it would be found again.
        current_readiness().watch(line.descriptor, line.read)
        await line.heard_something.wait()
        current_readiness().forget(line.descriptor)


async def test_nobody_is_read_after_the_task_that_attended_was_cancelled() -> None:
    with pipe() as line:
        with trio.move_on_after(0.01):
            await current_readiness().attend(line.descriptor, line.read)
        line.write(b"x")
        await trio.lowlevel.checkpoint()
        assert line.heard == []


def test_a_loop_has_one_readiness_and_takes_it_along() -> None:
    async def borrow() -> Readiness:
        assert current_readiness() is current_readiness()
        return current_readiness()

    ended = trio.run(borrow)
    assert ended is not trio.run(borrow)
    ended.forget(0)  # nobody watches it


async def test_the_loop_says_how_long_it_is_free() -> None:
    loop = LoopView()
    free: list[float] = []

    async def look() -> None:
        free.append(loop.free_seconds())

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 100
        assert 99 < loop.free_seconds() <= 100
        nursery.start_soon(look)
        assert loop.free_seconds() == 0  # a task is to run
    assert 99 < free[0] <= 100


def test_a_loop_whose_clock_jumps_is_never_free() -> None:
    async def look() -> float:
        return LoopView().free_seconds()

    assert trio.run(look, clock=MockClock(autojump_threshold=0)) == 0


async def test_a_loop_that_somebody_waits_to_see_idle_is_not_free() -> None:
    seen: list[float] = []
    with pipe() as line:

        def read() -> int:
            seen.append(LoopView().free_seconds())
            return line.read()

        current_readiness().watch(line.descriptor, read)
        line.write(b"x")
        with trio.fail_after(PATIENCE_SECONDS):
            await wait_all_tasks_blocked(cushion=0.01)
        assert seen == [0]
        current_readiness().forget(line.descriptor)


async def test_answers_are_read_before_what_a_flood_still_has_to_say() -> None:
    order: list[str] = []
    with pipe() as one, pipe() as other, pipe() as answers, trio.fail_after(PATIENCE_SECONDS):
        watched = current_readiness()
        everything = trio.Event()

        def floods(name: str, line: Pipe) -> Callable[[], int]:
            def read() -> int:
                line.read()
                answers.write(b"x")
                order.append(name)
                return MOST_REQUESTS

            return read

        def answer() -> int:
            answers.read()
            order.append("answer")
            if order.count("answer") == 3:
                everything.set()
            return 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.attend, answers.descriptor, answer)
            await wait_all_tasks_blocked()
            for line in (one, other, answers):
                line.write(b"x")
            watched.watch(one.descriptor, floods("one", one))
            watched.watch(other.descriptor, floods("other", other))
            await everything.wait()
            nursery.cancel_scope.cancel()
        for line in (one, other):
            watched.forget(line.descriptor)

    assert order == ["answer", "one", "answer", "other", "answer"]


@pytest.mark.parametrize("is_held_back", [False, True])
async def test_room_that_answers_make_is_given_away_before_what_was_held_back_is_read(
    is_held_back: bool,
) -> None:
    order: list[str] = []
    mailbox = Mailbox()
    grants: Door[bytes] = mailbox.door(1)

    def give_away() -> float:
        order.extend("given away" for _ in grants.drain())
        return math.inf

    with pipe() as client, pipe() as answers, trio.fail_after(PATIENCE_SECONDS):
        watched = current_readiness()
        if is_held_back:
            watched.pace.after(MOST_REQUESTS, MOST_REQUESTS)

        def read() -> int:
            order.append("read")
            return client.read()

        def answer() -> int:
            grants.send_nowait(os.read(answers.descriptor, 64))
            return 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.serve, give_away)
            nursery.start_soon(watched.attend, answers.descriptor, answer)
            await wait_all_tasks_blocked()
            for line in (client, answers):
                line.write(b"x")
            watched.watch(client.descriptor, read)
            await client.heard_something.wait()
            nursery.cancel_scope.cancel()
        watched.forget(client.descriptor)
    mailbox.close()

    assert order == (["given away", "read"] if is_held_back else ["read", "given away"])
