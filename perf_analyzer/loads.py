"""Loads: who sends when.

Owns the closed loop (so many requests outstanding) and the open loop (so many requests per second,
whatever comes back). Both send through a `Client`, take data from a `Picker`, and tell a
`Recorder` what has finished. Whatever happens on a response happens at once, in the task that read
it. The first error stops a load; `problem` says what it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from perf_analyzer.calls import Call
from perf_analyzer.clients import Client
from perf_analyzer.inputs import BadInput
from perf_analyzer.picking import Picker, SequencePicker
from perf_analyzer.recorder import Recorder
from perf_analyzer.schedules import Schedule

# A request that goes out later than this after its instant was delayed.
DELAYED_SECONDS: Final = 0.001
# An open loop against a server that stands still: beyond this it waits, and counts the delay.
MAX_OUTSTANDING: Final = 16_384
# Requests that are due at once go out together, but other work gets its turn after so many.
MAX_BURST: Final = 256
# How long a load that is told to stop waits for what is under way.
DRAIN_SECONDS: Final = 30.0

Judge = Callable[[Call], str | None]
SleepUntil = Callable[[float], Awaitable[None]]


class BaseLoad:
    """What both loops have in common: outstanding calls, the end of a run, errors."""

    def __init__(
        self,
        *,
        client: Client,
        picker: Picker,
        recorder: Recorder,
        halt: trio.Event,
        judge: Judge | None = None,
    ) -> None:
        """`judge` says what is wrong with the responses of a call, if anything; `halt` is set by
        the first error."""
        self.client = client
        self.picker = picker
        self.recorder = recorder
        self.problem = ""
        self.failed_place = 0
        self.outstanding = 0
        self.sent = 0
        self.budget: int | None = None  # requests that may still be sent
        self._halt = halt
        self._judge = judge
        self._changed = trio.lowlevel.ParkingLot()
        self._stopped = False

    def send(self, call: Call) -> None:
        """Send the call's next request; it goes out at the client's next flush."""
        self.outstanding += 1
        self.sent += 1
        if self.budget is not None:
            self.budget -= 1
        try:
            self.picker.fill(call)
        except BadInput as error:
            self.failed(call, str(error))
            return
        self.client.send(call)

    @property
    def may_send(self) -> bool:
        return not self._stopped and self.budget != 0

    def failed(self, call: Call, text: str) -> None:
        """The first error is the one that is told; nothing is sent after it."""
        self.outstanding -= 1
        if not self.problem:
            self.problem = text
            self.failed_place = call.number
        self._stopped = True
        self._halt.set()
        self._changed.unpark_all()

    def note(self, call: Call, now: float) -> None:
        """A call has its last response."""
        self.outstanding -= 1
        self.recorder.record(call, now)
        if self._judge is not None and (wrong := self._judge(call)):
            self.outstanding += 1
            self.failed(call, wrong)
        elif not self.outstanding or self.recorder.completed == self._awaited:
            self._changed.unpark_all()

    _awaited = -1

    async def finished(self, count: int) -> None:
        """Wait until so many requests have ended since the recorder's start, or one has failed."""
        self._awaited = count
        while self.recorder.completed < count and not self.problem:
            await self._changed.park()

    async def drained(self) -> None:
        """Wait until nothing is outstanding."""
        with trio.move_on_after(DRAIN_SECONDS):
            while self.outstanding and not self.problem:
                await self._changed.park()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    def resume(self) -> None:
        self._stopped = False


class ClosedLoop(BaseLoad):
    """`width` requests outstanding: each completion sends the next."""

    def __init__(
        self,
        *,
        client: Client,
        picker: Picker,
        recorder: Recorder,
        halt: trio.Event,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(client=client, picker=picker, recorder=recorder, halt=halt, judge=judge)
        self._calls: list[Call] = []
        self._idle: deque[Call] = deque()  # calls that have nothing under way
        self._width = 0

    async def set_width(self, width: int) -> None:
        """Change the level. Plain requests in flight run on; sequences are ended first."""
        sequences = self._sequences
        if sequences is not None:
            await self.end_sequences()
            sequences.sequences.widen(width)
        await self.client.widen(width)
        while len(self._calls) < width:
            call = Call(self, len(self._calls))
            call.sequence_slot = call.number
            self._calls.append(call)
            self._idle.append(call)
        self._width = width
        self._fill_up()

    @property
    def _sequences(self) -> SequencePicker | None:
        return self.picker if isinstance(self.picker, SequencePicker) else None

    def _fill_up(self) -> None:
        for _ in range(len(self._idle)):
            call = self._idle.popleft()
            if call.number < self._width and self.may_send:
                self.send(call)
            else:
                self._idle.append(call)
        self.client.flush()

    def resume(self) -> None:
        """Send again, after `stop` or with a new budget."""
        super().resume()
        self._fill_up()

    def completed(self, call: Call, now: float) -> None:
        self.note(call, now)
        if call.number < self._width and self.may_send:
            self.send(call)
        else:
            self._idle.append(call)

    async def end_sequences(self) -> None:
        """Let what is under way finish, then end every live sequence with a last request."""
        picker = self._sequences
        if picker is None:
            return
        width, self._width = self._width, 0
        await self.drained()
        for call in self._calls:
            if picker.sequences.live(call.sequence_slot) and not self.problem:
                self._idle.remove(call)
                self.outstanding += 1
                self.sent += 1
                picker.fill_last(call)
                self.client.send(call)
        self.client.flush()
        await self.drained()
        self._width = width


class OpenLoop(BaseLoad):
    """Requests at the instants of a schedule, however many are outstanding."""

    def __init__(
        self,
        *,
        client: Client,
        picker: Picker,
        recorder: Recorder,
        halt: trio.Event,
        judge: Judge | None = None,
        sleep_until: SleepUntil,
        max_outstanding: int = MAX_OUTSTANDING,
        slots: int = 0,
        serial: bool = False,
    ) -> None:
        """`slots` is the number of live sequences; `serial` keeps one request per sequence."""
        super().__init__(client=client, picker=picker, recorder=recorder, halt=halt, judge=judge)
        self._sleep_until = sleep_until
        self._max_outstanding = max_outstanding
        self._calls = 0
        self._idle: list[Call] = []
        self._slots = slots
        self._serial = serial
        self._free_slots: deque[int] = deque(range(slots))
        self._free = trio.lowlevel.ParkingLot()
        self._taken = 0

    async def run(self, schedule: Schedule) -> None:
        """Send by `schedule` until stopped, the budget is spent or a request fails."""
        begun_at = trio.current_time()
        number = 0
        while self.may_send:
            due_at = begun_at + schedule.due(number)
            now = trio.current_time()
            if due_at > now:
                await self._sleep_until(due_at)
                now = trio.current_time()
            burst = 0
            while due_at <= now and burst < MAX_BURST and self.may_send:
                if not self._has_room():
                    self.client.flush()
                    await self._room()
                    now = trio.current_time()
                self._send_due(due_at, now)
                burst += 1
                number += 1
                due_at = begun_at + schedule.due(number)
            self.client.flush()
            if burst == MAX_BURST:
                await trio.lowlevel.checkpoint()

    def _has_room(self) -> bool:
        if self._serial:
            return bool(self._free_slots)
        return self.outstanding < self._max_outstanding

    async def _room(self) -> None:
        while not self._has_room() and self.may_send:
            await self._free.park()

    def _send_due(self, due_at: float, now: float) -> None:
        if not self.may_send:
            return
        if self._idle:
            call = self._idle.pop()
        else:
            call = Call(self, self._calls)
            self._calls += 1
        call.due_at = due_at
        if self._slots:
            if self._serial:
                call.sequence_slot = self._free_slots.popleft()
            else:
                call.sequence_slot = self._taken % self._slots
                self._taken += 1
        if now - due_at > DELAYED_SECONDS:
            self.recorder.delayed += 1
        self.send(call)

    def completed(self, call: Call, now: float) -> None:
        self.note(call, now)
        self._idle.append(call)
        if self._serial:
            self._free_slots.append(call.sequence_slot)
        self._free.unpark()

    def failed(self, call: Call, text: str) -> None:
        super().failed(call, text)
        self._free.unpark_all()

    async def end_sequences(self) -> None:
        """Once the schedule has stopped: end every live sequence with a last request."""
        picker = self.picker
        if not isinstance(picker, SequencePicker):
            return
        await self.drained()
        for slot in range(self._slots):
            if picker.sequences.live(slot) and not self.problem and self._idle:
                call = self._idle.pop()
                call.sequence_slot = slot
                self.outstanding += 1
                self.sent += 1
                picker.fill_last(call)
                self.client.send(call)
                self.client.flush()
                await self.drained()
