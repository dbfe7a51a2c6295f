"""How actors talk: doors into a mailbox, a doorbell, and a watch for what readers only look at.

A `Mailbox` belongs to one actor. Each kind of message enters through a `Door` of its own, a bounded
queue, so that one kind can neither delay nor crowd out another. Every door rings the same bell; the
actor then drains its doors in the order it prefers. It may `wait` for the bell, as a task, or have
a function of its own called at each ring (`serve`), which then is its turn.

A `Watch` is the one sanctioned way of sharing: a single writer swaps in immutable snapshots.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from actors.turns import Line, Turns, current_turns

T = TypeVar("T")


class Mailbox:
    """The receiving side: hear the bell, then drain the doors."""

    __slots__ = (
        "_doors", "_failure", "_line", "_owner", "_rung", "_scope", "_turn", "_turns", "_wake_at",
        "is_closed",
    )  # fmt: skip

    def __init__(self) -> None:
        self._rung = False  # a bell that already rings needs no second ring
        self._owner: trio.lowlevel.Task | None = None  # while it waits
        self._doors: dict[object, Door[object]] = {}
        self._turn: Callable[[], float] | None = None  # while it is served
        self._turns: Turns
        self._line: Line  # where it waits for one of them
        # Of an owner that is served:
        self._scope: trio.CancelScope  # while it waits
        self._wake_at = math.inf  # when it has a turn though nobody rings
        self._failure: BaseException | None = None  # of its last turn
        self.is_closed = False

    def door(self, capacity: int, *, patience: int = 0) -> Door[T]:
        """A new door with room for `capacity` messages (> 0) that nobody has taken yet.

        It rings when there are more than `patience` of them: so many can wait for the next time
        that the owner looks, but not for ever.
        """
        door = Door[T](self, capacity, patience)
        self._doors[door] = door  # type: ignore[assignment]  # only ever closed through this table
        return door

    def remove(self, door: Door[T]) -> None:
        """Close a door before the mailbox: one that was made for a single conversation."""
        del self._doors[door]
        door.close()

    def ring(self) -> None:
        """Wake the owner, whether or not there is a message."""
        if not self._rung:
            self._rung = True
            if self._turn is not None:
                self._turns.add(self, self._line)
            else:
                self._wake()

    async def wait(self) -> None:
        """Return once a door has rung since the last call; the owner drains its doors next."""
        assert self._owner is None, "a mailbox belongs to one task"
        if self._rung:
            await trio.lowlevel.checkpoint()
        else:
            self._owner = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        self._rung = False

    async def serve(self, turn: Callable[[], float], line: Line = Line.WORK) -> None:
        """Call `turn` once and at every ring from then on, until it calls `leave`.

        It returns the instant at which it wants to be called though nobody rings, or infinity; one
        that has moved further away is heard once at the old one, since moving it is not free. It
        may not wait. What it raises is raised here. Cancelling ends the service.
        """
        assert self._owner is None, "a mailbox belongs to one task"
        turns = self._turns = current_turns()
        self._turn = turn
        self._wake_at = math.inf
        self._rung = True
        self._line = line
        turns.add(self, line)
        try:
            while self._turn is not None:
                with trio.CancelScope(deadline=self._wake_at) as self._scope:
                    self._owner = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
                if self._scope.cancelled_caught:
                    self._wake_at = math.inf
                    turns.hold()
                    try:
                        self.take_turn()
                    finally:
                        turns.settle()
        finally:
            self._turn = None
            if self._failure is not None:
                raise self._failure

    def leave(self) -> None:
        """Called in a turn: it was the last one."""
        self._turn = None
        self._wake()

    def take_turn(self) -> None:
        """The owner's turn has come; see `Turns`."""
        if self._turn is None:
            return  # it has left
        self._rung = False
        try:
            wake_at = self._turn()
        except BaseException as error:  # noqa: BLE001  # the owner's, and raised in its task
            self._failure = error
            self.leave()
            return
        if wake_at < self._wake_at:
            self._wake_at = self._scope.deadline = wake_at
            self._turns.wake_at(wake_at)

    def _wake(self) -> None:
        if self._owner is not None:
            trio.lowlevel.reschedule(self._owner)
            self._owner = None

    @property
    def is_up_to_date(self) -> bool:
        """Whether its owner, who is served, has had its turn for everything until now."""
        return not self._rung and trio.current_time() < self._wake_at

    @property
    def doors(self) -> Iterable[Door[object]]:
        """Every door that was made and not removed."""
        return self._doors.values()

    @property
    def depth(self) -> int:
        """How many messages wait to be taken. What lies behind hushed doors does not wait."""
        return sum(len(door) for door in self._doors.values() if not door.is_hushed)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._owner = None
        return trio.lowlevel.Abort.SUCCEEDED

    def close(self) -> None:
        """Stop receiving: whoever sends from now on gets `trio.BrokenResourceError`."""
        self.is_closed = True
        for door in self._doors.values():
            door.close()


@dataclass(slots=True, eq=False)
class Parked(Generic[T]):
    """A sender that waits for room, and what it wants to put in."""

    message: T
    task: trio.lowlevel.Task | None = None  # once it really waits
    was_let_in: bool | None = None  # False: the door was closed instead

    def settle(self, was_let_in: bool) -> None:
        """Its wait is over."""
        self.was_let_in = was_let_in
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)


class Door(Generic[T]):
    """One kind of message into one mailbox. Senders hold the door; only the owner closes it.

    It behaves like a trio memory channel, at a third of the cost: it wakes nobody but by its
    mailbox's bell, and a message is an append and a pop.
    """

    __slots__ = (
        "_high_water",
        "_mailbox",
        "_messages",
        "_owed",
        "_parked",
        "_shut",
        "_wisher",
        "capacity",
        "is_closed",
    )

    def __init__(self, mailbox: Mailbox, capacity: int, patience: int) -> None:
        self._mailbox = mailbox
        self._messages: deque[T] = deque()  # at most `capacity`
        self._parked: dict[Parked[T], None] = {}  # in order; not empty only while it is full
        self._owed: deque[T] = deque()  # one or none, as a rule
        self._wisher: Mailbox | None = None  # whom to tell of room
        self._high_water = patience
        self.capacity = capacity
        self.is_closed = False
        self._shut = False

    def hush(self, hushed: bool) -> None:
        """Whether messages shall wait until something else wakes the owner, who alone says so."""
        self._high_water = self.capacity if hushed else 0

    @property
    def is_hushed(self) -> bool:
        return self._high_water >= self.capacity

    def shut(self, shut: bool) -> None:
        """Whether the owner, who alone says so, would turn away whatever comes now."""
        self._shut = shut

    @property
    def is_shut(self) -> bool:
        """Whether a sender may as well turn around; what it puts in nevertheless is taken as ever.

        Never while the owner has not heard of everything that might have made it open.
        """
        return self._shut and self._mailbox.is_up_to_date

    def send_nowait(self, message: T) -> None:
        """Put a message in. Raises `trio.WouldBlock` when full, BrokenResourceError when closed."""
        if self.is_closed:
            raise trio.BrokenResourceError
        messages = self._messages
        if len(messages) >= self.capacity:
            raise trio.WouldBlock
        messages.append(message)
        if len(messages) > self._high_water:
            self._mailbox.ring()

    async def send(self, message: T) -> None:
        """Put a message in, waiting for room: this wait is the back-pressure.

        Whoever has been cancelled puts nothing in, though there be room.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # The owner already has a ring for what fills the door.
        await self.wait_in_line(self.stand_in_line(message))

    def stand_in_line(self, message: T) -> Parked[T]:
        """Take the next place before a full door; `wait_in_line` then waits, when its task begins.

        So whoever cannot wait itself still keeps its turn. Raises BrokenResourceError when closed.
        """
        parked = Parked(message)
        try:
            self.send_nowait(message)
        except trio.WouldBlock:
            self._parked[parked] = None
        else:
            parked.was_let_in = True
        return parked

    async def wait_in_line(self, parked: Parked[T]) -> None:
        """Wait until the owner has made room. Raises BrokenResourceError if it closes instead.

        Whoever gives up puts nothing in, unless it has been let in already.
        """
        if parked.was_let_in is None:
            parked.task = trio.lowlevel.current_task()

            def give_up(_: object) -> trio.lowlevel.Abort:
                del self._parked[parked]
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
        if not parked.was_let_in:
            raise trio.BrokenResourceError

    def ring_when_room(self, wisher: Mailbox) -> None:
        """Ring the bell of a sender that never waits, once, when there is room or the door closes.

        A door knows one such sender: who stands before it decides for all who pass.
        """
        if self.is_closed or len(self) < self.capacity:
            wisher.ring()
        else:
            self._wisher = wisher

    def send_owed(self, message: T) -> None:
        """Put a last message in, full or not: whoever opened the door was promised this one.

        A sender may do so once, which is the bound. Raises BrokenResourceError when closed.
        """
        try:
            self.send_nowait(message)
        except trio.WouldBlock:
            self._owed.append(message)  # after what is inside and whoever waits to put more in
            self._mailbox.ring()

    def drain(self, limit: int | None = None) -> Iterable[T]:
        """Every message that is here now, oldest first, `limit` at most.

        Each leaves the door when it is its turn: whoever stops early leaves the rest inside.
        """
        messages = self._messages
        if not (self._parked or self._owed or self._wisher):
            # As nearly always there is one message or none, which needs no generator.
            if not messages or limit == 0:
                return ()
            if len(messages) == 1:
                return (messages.popleft(),)
        return self._take_out(limit)

    def _take_out(self, limit: int | None) -> Iterator[T]:
        messages = self._messages
        taken = 0
        while limit is None or taken < limit:
            if messages:
                message = messages.popleft()
                if self._parked:
                    self._let_in()
                elif self._wisher is not None:
                    self._grant_wish()
            elif self._owed:
                message = self._owed.popleft()
                if self._wisher is not None:
                    self._grant_wish()
            else:
                return
            taken += 1
            yield message

    def pick(self, is_it: Callable[[T], bool]) -> T | None:
        """Take the first message of which this is true out of its turn, the line included."""
        for place, message in enumerate(self._messages):
            if is_it(message):
                del self._messages[place]
                if self._parked:
                    self._let_in()
                elif self._wisher is not None:
                    self._grant_wish()
                return message
        for parked in self._parked:
            if is_it(parked.message):
                del self._parked[parked]
                parked.settle(was_let_in=True)
                return parked.message
        return None

    def __len__(self) -> int:
        """How many messages nobody has taken, those of senders that wait for room included."""
        return len(self._messages) + len(self._parked) + len(self._owed)

    @property
    def head(self) -> T | None:
        """The message that has been here longest; it stays where it is. None without one."""
        return self._messages[0] if self._messages else None

    def close(self) -> None:
        """Refuse further messages; those inside are dropped. Only the mailbox's owner calls it."""
        self.is_closed = True
        self._shut = False
        self._messages.clear()
        self._owed.clear()
        for parked in self._parked:
            parked.settle(was_let_in=False)
        self._parked.clear()
        if self._wisher is not None:
            self._grant_wish()

    def _let_in(self) -> None:
        """There is room for the sender that has waited longest."""
        parked = next(iter(self._parked))
        del self._parked[parked]
        self._messages.append(parked.message)
        parked.settle(was_let_in=True)

    def _grant_wish(self) -> None:
        assert self._wisher is not None, "somebody asked"
        self._wisher.ring()
        self._wisher = None


class Watch(Generic[T]):
    """A cell with one writer and any number of readers; the value is immutable."""

    __slots__ = ("_listeners", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self._listeners: dict[Mailbox, None] = {}

    def publish(self, value: T) -> None:
        """Swap a snapshot in, and ring for those who cannot wait until they look."""
        self.value = value
        for mailbox in self._listeners:
            mailbox.ring()

    def listen(self, mailbox: Mailbox) -> None:
        """Ring this bell whenever a value is published, until it is ignored."""
        self._listeners[mailbox] = None

    def ignore(self, mailbox: Mailbox) -> None:
        self._listeners.pop(mailbox, None)
