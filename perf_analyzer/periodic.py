"""Periodic concurrency: groups of streamed requests, each group started by the one before.

Owns the load that launches the next group once every request of the newest one has had so many
responses. There are no windows: its only report is the export.
"""

from __future__ import annotations

import trio

from perf_analyzer.calls import Body, Call
from perf_analyzer.clients import Client
from perf_analyzer.loads import BaseLoad
from perf_analyzer.picking import Picker
from perf_analyzer.recorder import Recorder


class _PeriodicCall(Call):
    """A call whose every response is told to its load."""

    __slots__ = ("_progress",)

    def __init__(self, load: PeriodicLoad, number: int) -> None:
        super().__init__(load, number)
        self._progress = load.progressed

    def respond(self, body: Body, now: float, *, empty: bool = False) -> None:
        super().respond(body, now, empty=empty)
        if not empty:
            self._progress(self)


class PeriodicLoad(BaseLoad):
    """`start` requests, then `step` more again and again, `end` in all: each sent once."""

    def __init__(
        self,
        *,
        client: Client,
        picker: Picker,
        recorder: Recorder,
        halt: trio.Event,
        start: int,
        end: int,
        step: int,
        period: int,
    ) -> None:
        super().__init__(client=client, picker=picker, recorder=recorder, halt=halt)
        self._start = start
        self._end = end
        self._step = step
        self._period = period
        self._launched = 0
        self._newest_first = 0  # number of the newest group's first request
        self._newest_waiting = 0  # requests of that group with fewer responses than the period

    async def run(self) -> None:
        """Launch group after group; return when every request has its final response."""
        await self.client.widen(self._end)
        self._launch(self._start)
        await self.finished(self._end)

    def _launch(self, count: int) -> None:
        count = min(count, self._end - self._launched)
        self._newest_first = self._launched
        self._newest_waiting = count
        for _ in range(count):
            call = _PeriodicCall(self, self._launched)
            self._launched += 1
            if self.may_send:
                self.send(call)
        self.client.flush()

    def progressed(self, call: Call) -> None:
        """A request has one response more."""
        if call.response_count == self._period and call.number >= self._newest_first:
            self._newest_waiting -= 1
            if not self._newest_waiting and self._launched < self._end:
                self._launch(self._step)

    def completed(self, call: Call, now: float) -> None:
        if call.response_count < self._period:
            self.failed(
                call,
                f"Request received final response before request period was reached: "
                f"{call.response_count} of {self._period} responses",
            )
            return
        self.note(call, now)
