"""Picks out the slow requests on the street, for the console: wired in only with an admin port.

Owns the bar of each model version, and the one door through which records leave. The observer
raises and lowers a bar so that only requests which belong among the slowest are told of: a batch
costs one comparison per request, and only what lies above costs a record. A full door loses
records, never time: looking must not slow down what it looks at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final
from weakref import WeakValueDictionary

import trio

from actors.channels import Door, Mailbox
from actors.messages import Execute, LongestStep, SlowRequest, Submit, VersionKey
from protocol.inference import InferResponse
from protocol.status import ServerError
from repo.backends.base import Timings

# Records that the observer has not looked at; it does at half of it, or once a second.
SLOW_DOOR: Final = 64
# Characters of what a client or a model wrote that a record keeps.
MAX_TEXT: Final = 200
# Of whatever is not an ensemble, and of an ensemble's request that began none.
NO_STEP: Final = LongestStep(0.0, "")


class SlowBar:
    """How long a request of one version must have taken to be worth a record, in seconds.

    The observer writes it, the version's instances read it.
    """

    __slots__ = ("__weakref__", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0


class SlowTeller:
    """What one version's actors say of their slow requests."""

    def __init__(self, key: VersionKey, bar: SlowBar, door: Door[SlowRequest]) -> None:
        self._key = key
        self._bar = bar
        self._door = door

    def look(
        self,
        batch: Execute,
        outcomes: Sequence[InferResponse | ServerError | None],
        timings: Timings,
        instance: str,
    ) -> None:
        """One execution has ended now."""
        limit = trio.current_time() - self._bar.seconds
        for submit, outcome in zip(batch.submits, outcomes, strict=True):
            if submit.submitted_at < limit and batch.closed_by != "warmup":
                self.tell(
                    submit,
                    outcome,
                    timings,
                    timings.began_at,
                    instance=instance,
                    batch_size=batch.batch_size,
                    request_count=len(batch.submits),
                    closed_by=batch.closed_by,
                )

    def look_at(
        self,
        submit: Submit,
        outcome: InferResponse | ServerError | None,
        timings: Timings,
        started_at: float,
        *,
        closed_by: str = "ensemble",
        longest: LongestStep = NO_STEP,
    ) -> None:
        """One request, which was executed with no other one, has ended now."""
        if submit.submitted_at < trio.current_time() - self._bar.seconds:
            self.tell(submit, outcome, timings, started_at, closed_by=closed_by, longest=longest)

    def look_at_refused(self, submit: Submit, error: ServerError, cause: str) -> None:
        """One request has ended now without being executed."""
        self.look_at(submit, error, Timings(), trio.current_time(), closed_by=cause)

    def tell(
        self,
        submit: Submit,
        outcome: InferResponse | ServerError | None,
        timings: Timings,
        started_at: float,
        *,
        instance: str = "",
        batch_size: int = 0,
        request_count: int = 1,
        closed_by: str,
        longest: LongestStep = NO_STEP,
    ) -> None:
        """Send a record, if there is room for it."""
        record = SlowRequest(
            key=self._key,
            request_id=submit.request.id[:MAX_TEXT],
            submitted_at=submit.submitted_at,
            started_at=started_at,
            finished_at=trio.current_time(),
            input_ns=timings.input_ns,
            infer_ns=timings.infer_ns,
            output_ns=timings.output_ns,
            instance=instance,
            batch_size=batch_size or submit.batch_size or 1,
            request_count=request_count,
            closed_by=closed_by,
            error=str(outcome)[:MAX_TEXT] if isinstance(outcome, ServerError) else "",
            longest=longest,
        )
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._door.send_nowait(record)


class SlowRequests:
    """The bars of all versions; the observer's mailbox, and the door into it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.door: Door[SlowRequest] = mailbox.door(SLOW_DOOR, patience=SLOW_DOOR // 2)
        # A version's actors hold its bar; it goes when they go.
        self._bars: WeakValueDictionary[VersionKey, SlowBar] = WeakValueDictionary()

    def teller(self, key: VersionKey) -> SlowTeller:
        """For the actors of one version; two generations of it share a bar."""
        return SlowTeller(key, self._bars.setdefault(key, SlowBar()), self.door)

    def set_bar(self, key: VersionKey, seconds: float) -> None:
        """Tell only of what takes longer from now on; nothing for a version that has ended."""
        bar = self._bars.get(key)
        if bar is not None:
            bar.seconds = seconds
