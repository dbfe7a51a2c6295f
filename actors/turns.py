"""Turns without tasks: actors that have been rung, each called when its turn has come.

An actor whose turns never wait needs a task only to live in. Woken as a task, it would take the
event loop's turn with everything that belongs to one, and a request would take six of them on its
way; called from here, it costs the call. `Turns` owns the queue of actors that were rung and have
not had their turn. There is one per event loop, like the loop's own queue of tasks.

Whoever brings in something from outside, a reader of a socket, does so between `hold` and `settle`:
what that sets off then happens at the end of its own turn. Rings from anywhere else wake a task
that settles. Turns never nest: an actor rung in another one's turn waits until that is over, and an
actor's turn sees all that was said to it before.

Of those that were rung, whoever hands out work goes before whoever sends answers to clients: an
idle model waits for what it is given, and a batch's answers can be a millisecond's work to send.
Where a model has more to go on with, or answers in no time, it is its clients who wait, and answers
go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Protocol

import trio

from actors.fine_timer import FineTimer

# Turns between two looks at the rest of the event loop: more than one burst of requests sets off,
# and few enough that actors who ring each other without end would not stop the loop.
TURNS_AT_ONCE: Final = 256


class Line(IntEnum):
    """Where an actor that was rung waits: the first line goes first, but see `answers_first`."""

    WORK = 0  # what lies between a request and a model
    ANSWERS = 1  # what lies between a model and a client
    FACTS = 2  # who only counts


class Rung(Protocol):
    """What waits for its turn: a mailbox, for its owner."""

    def take_turn(self) -> None:
        """Call the owner; whatever it raises is its own affair."""


class Turns:
    """See the module's docstring.

    `choose(n)`, a number below n, picks who of a line's n is next, so that simulations can try
    every order; without it that is who was rung first.
    """

    __slots__ = ("_choose", "_held", "_lines", "_sleeper", "_timer", "answers_first", "refused")

    def __init__(
        self, choose: Callable[[int], int] | None = None, timer: FineTimer | None = None
    ) -> None:
        # By `Line`: those that were rung, each at most once.
        self._lines: tuple[deque[Rung], deque[Rung], deque[Rung]] = deque(), deque(), deque()
        self._choose = choose
        self._timer = timer
        self.refused = 0  # requests, so far, for want of room: who reads sees when to read less
        # An instance that has answered has more to run, or takes next to no time for it; until all
        # answers have left.
        self.answers_first = False
        self._held = False  # somebody has promised to settle
        self._sleeper: trio.lowlevel.Task | None = None  # while it waits to settle

    def add(self, actor: Rung, line: Line) -> None:
        """The actor has been rung, and was not waiting for its turn already."""
        self._lines[line].append(actor)
        if not self._held:
            self._wake()

    def hold(self) -> None:
        """Keep everybody waiting until `settle`, before which the caller must not wait."""
        assert not self._held, "whoever holds settles, before anybody else can hold"
        self._held = True

    def settle(self) -> None:
        """Let everybody who was rung have a turn, and those whom these ring, and so on."""
        work, answers, facts = self._lines
        self._held = True
        for _ in range(TURNS_AT_ONCE):
            if not answers:
                self.answers_first = False
            line = (answers if self.answers_first else work) or answers or facts
            if not line:
                break
            self._next(line)
        else:
            # There may be no end of work: it must not keep the answers from leaving.
            for _ in range(len(answers)):
                self._next(answers)
        self._held = False
        if work or answers or facts:
            self._wake()

    def _next(self, line: deque[Rung]) -> None:
        if self._choose is not None:
            line.rotate(-self._choose(len(line)))
        line.popleft().take_turn()

    def wake_at(self, at: float) -> None:
        """Somebody has asked trio to be woken at this instant: see that it is not much later."""
        if self._timer is not None:
            self._timer.wake_at(at)

    def _wake(self) -> None:
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    async def settle_when_rung(self) -> None:
        """Settle for whoever rings and does not, until cancelled."""
        while True:
            if any(self._lines):
                await trio.lowlevel.checkpoint()
            else:
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
            self.settle()

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED


_OF_LOOP: Final = trio.lowlevel.RunVar[Turns]("turns")


def current_turns() -> Turns:
    """Those of the event loop that the caller runs in."""
    try:
        return _OF_LOOP.get()
    except LookupError:
        return open_turns()


def open_turns(
    choose: Callable[[int], int] | None = None, *, timer: FineTimer | None = None
) -> Turns:
    """The loop's turns, made here: before any actor of the loop runs.

    With a `timer`, which is run here, they come at their instants by real time.
    """
    turns = Turns(choose, timer)
    if timer is not None:
        trio.lowlevel.spawn_system_task(timer.run)
    _OF_LOOP.set(turns)
    trio.lowlevel.spawn_system_task(turns.settle_when_rung)
    return turns
