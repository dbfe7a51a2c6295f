"""Every descriptor whose news is dealt with in turns, in one wait.

A task that waits for one descriptor costs, each time, a turn of the event loop and a system call to
wait again. So whatever takes in what comes at once, without a task, is watched here: the sockets
of ports and workers, and the answers of threads. One task reads all that is ready, with everybody's
turns held meanwhile, and then settles.

As long as nobody else in the loop has anything to do, that task waits itself, in the loop's place.
A call of a model in a worker is two such waits, one after the other, and the loop's own way from
one to the next costs more than what happens in between. It gives way as soon as a task has become
runnable, a deadline is due, or anything that the loop itself waits for has come (`loop_view`).

Answers of models are read first, then sockets, as much of them as `ReadingPace` says: if more came
in than goes out meanwhile, a flood would leave models idle and fill queues in vain.

Owns who is watched, and how much is read in one turn. It never reads.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from actors.loop_view import LoopView
from actors.policy.reading import ReadingPace
from actors.turns import Turns, current_turns

# Descriptors that are asked for in one look.
DESCRIPTORS_PER_LOOK: Final = 256
# The longest that it waits in the loop's place. Nothing is known for which that would be too long.
LONGEST_WAIT_SECONDS: Final = 1.0

Reader = Callable[[], int]
"""Reads what has come, and says how many requests it was, or other things to be dealt with."""


class Readiness:
    """See the module's docstring. `close` it after `run` has ended."""

    def __init__(self) -> None:
        self._ours = select.epoll()  # what is watched
        self._all = select.epoll()  # the same, and the loop
        self._readers: dict[int, Reader] = {}  # by descriptor
        self._first: set[int] = set()  # descriptors that are read before all others
        self._answers: deque[int] = deque()  # those of them that are readable
        self._readable: dict[int, None] = {}  # the others; each is read once before any is twice
        self.pace = ReadingPace()
        self._gives_way = False  # the loop has something to do, or what is left can wait for others

    async def run(self) -> None:
        """Have descriptors read as they become readable, until cancelled."""
        loop, turns = LoopView(), current_turns()
        self._readers[loop.descriptor] = self._give_way
        self._all.register(loop.descriptor, select.EPOLLIN)
        while True:
            await trio.lowlevel.wait_readable(self._ours.fileno())
            self._note(self._ours.poll(0, DESCRIPTORS_PER_LOOK))
            self._read(turns)
            if loop.has_others():
                continue  # they were woken with this task: let them run
            while not self._gives_way and (seconds := loop.free_seconds()) > 0:
                found = self._all.poll(min(seconds, LONGEST_WAIT_SECONDS), DESCRIPTORS_PER_LOOK)
                self._note(found)
                self._read(turns)
                if not found:
                    break

    def _note(self, found: list[tuple[int, int]]) -> None:
        first, answers, readable = self._first, self._answers, self._readable
        for descriptor, _ in found:
            if descriptor in first:
                answers.append(descriptor)
            else:
                readable.setdefault(descriptor)

    def _read(self, turns: Turns) -> None:
        """Read what is ready, up to the limit of a turn, and settle."""
        answers, readable, readers = self._answers, self._readable, self._readers
        pace = self.pace
        self._gives_way = False
        heard, refused = 0, turns.refused
        turns.hold()
        while answers:
            reader = readers.get(answers.popleft())
            if reader is not None:  # it may have ended meanwhile
                reader()
        if readable and pace.is_held_back:
            # What the answers have made room for is given away before more is read, and refused.
            turns.settle()
            turns.hold()
        while readable and heard < pace.requests:
            descriptor = next(iter(readable))
            del readable[descriptor]
            reader = readers.get(descriptor)
            if reader is not None:
                heard += reader()
        turns.settle()
        pace.after(heard, turns.refused - refused)
        if readable:
            self._gives_way = True

    def _give_way(self) -> int:
        """Something has come that the loop itself waits for."""
        self._gives_way = True
        return 0

    def close(self) -> None:
        """When nothing is watched any longer."""
        self._ours.close()
        self._all.close()

    def watch(self, descriptor: int, reader: Reader) -> None:
        """Call `reader`, which must not raise, while there is something to be read."""
        self._ours.register(descriptor, select.EPOLLIN)
        self._all.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = reader

    def forget(self, descriptor: int) -> None:
        """Call no more; before the descriptor is closed. Harmless for one that is not watched."""
        if self._readers.pop(descriptor, None) is not None and not self._ours.closed:
            self._first.discard(descriptor)
            self._readable.pop(descriptor, None)
            self._ours.unregister(descriptor)
            self._all.unregister(descriptor)

    async def attend(self, descriptor: int, reader: Reader) -> None:
        """Call `reader`, before those of sockets, while there is something to be read.

        Until it raises, which this then does, or until cancelled.
        """
        ended = trio.Event()
        failure: list[BaseException] = []

        def read() -> int:
            try:
                return reader()
            except BaseException as error:  # noqa: BLE001  # raised in the task
                self.forget(descriptor)
                failure.append(error)
                ended.set()
                return 1

        self.watch(descriptor, read)
        self._first.add(descriptor)
        try:
            await ended.wait()
        finally:
            self.forget(descriptor)
        raise failure.pop()


_OF_LOOP: Final = trio.lowlevel.RunVar[Readiness]("readiness")


def current_readiness() -> Readiness:
    """That of the event loop that the caller runs in."""
    try:
        return _OF_LOOP.get()
    except LookupError:
        readiness = Readiness()
        _OF_LOOP.set(readiness)
        trio.lowlevel.spawn_system_task(_run_to_the_end, readiness)
        return readiness


async def _run_to_the_end(readiness: Readiness) -> None:
    try:
        await readiness.run()
    finally:
        readiness.close()
