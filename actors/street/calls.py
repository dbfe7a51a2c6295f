"""From a decoded request to a `Submit` in the right door: the way in that every frontend shares.

Owns the numbering of requests. A frontend asks `prepare` for a number, a model and a message, and
puts the message into the door with `submit`; it keeps whatever it needs to encode the reply under
the number. Nothing here waits.
"""

from __future__ import annotations

import itertools
import math
from typing import Final, NamedTuple

import trio

from actors.channels import Door, Parked, Watch
from actors.lifecycle.model_index import ModelIndex, ServingVersion
from actors.messages import CancelRequest, Reply, Submit
from actors.traces.tracing import FrontTrace, Received, TracedReplies, Tracing
from actors.turns import current_turns
from protocol.inference import InferRequest
from protocol.status import ServerError, deadline_exceeded, request_prefix, unavailable

# A door stays full only while a model is far behind; a caller that has waited this long is better
# served by another replica.
DOOR_PATIENCE_SECONDS: Final = 10.0


class Ticketed(NamedTuple):
    """A request on its way: who serves it, through which door, and the message itself.

    `front` is its frontend's part in its trace, if it is traced.
    """

    serving: ServingVersion
    door: Door[Submit]
    submit: Submit
    place: Parked[Submit] | None = None  # in the line before a full door
    front: FrontTrace | None = None


class Calls:
    """Prepares requests for submission and takes them back."""

    def __init__(
        self, *, index: Watch[ModelIndex], tracing: Tracing, first_number: int = 1
    ) -> None:
        self.index = index
        self.tracing = tracing
        self._numbers = itertools.count(first_number)

    def prepare(
        self,
        serving: ServingVersion,
        request: InferRequest,
        reply: Door[Reply],
        *,
        deadline_at: float = math.inf,
        received: Received | None = None,
        likeness: object = None,
    ) -> Ticketed:
        """Admit `request` to the model. Raises ServerError when the model cannot take it.

        That is also when its queue is known to be full, though whoever is traced asks the queue.

        `likeness`, unless None, is what it has in common with others (`RequestRules.admit_alike`).
        `received` says how a request came from outside, if any is traced. A request that another
        one caused carries the trace of that.
        """
        rules = serving.rules
        if likeness is not None:
            admitted = rules.admit_alike(request, likeness)
        else:
            admitted = rules.admit(request)
        level = serving.level_of(request.priority)
        door = serving.door_of(level)
        if door.is_shut and received is None and request.trace is None:
            current_turns().refused += 1
            raise queue_full(request)
        submit = Submit(
            next(self._numbers),
            request,
            admitted.batch_size,
            admitted.shape_key,
            level,
            deadline_at,
            trio.current_time(),
            reply,
        )
        if received is not None:
            submit, front = self.tracing.begin(submit, serving, received)
            return Ticketed(serving, door, submit, front=front)
        if request.trace is not None:
            submit = self.tracing.begin_child(submit, serving)
        return Ticketed(serving, door, submit)


def submit_nowait(ticketed: Ticketed) -> None:
    """Put the request into its door. Raises `trio.WouldBlock` when full, ServerError if closed."""
    try:
        ticketed.door.send_nowait(ticketed.submit)
    except trio.BrokenResourceError:
        _leave_trace(ticketed)
        raise closed(ticketed.submit.request) from None


def in_line(ticketed: Ticketed) -> Ticketed:
    """Stand in line before a door that was found full, for a task that begins to wait later.

    Tasks begin in any order; requests keep that in which they came.
    """
    return ticketed._replace(place=ticketed.door.stand_in_line(ticketed.submit))


async def submit(ticketed: Ticketed) -> None:
    """Wait for room in the door: first back-pressure, then refusal.

    Raises ServerError: DEADLINE_EXCEEDED at the caller's own deadline, UNAVAILABLE when the door
    has been full for `DOOR_PATIENCE_SECONDS` or has closed.
    """
    request = ticketed.submit.request
    patience_at = trio.current_time() + DOOR_PATIENCE_SECONDS
    deadline_at = ticketed.submit.deadline_at
    with trio.move_on_at(min(patience_at, deadline_at)) as scope:
        try:
            if ticketed.place is None:
                await ticketed.door.send(ticketed.submit)
            else:
                await ticketed.door.wait_in_line(ticketed.place)
        except trio.BrokenResourceError:
            _leave_trace(ticketed)
            raise closed(request) from None
        except trio.Cancelled:
            _leave_trace(ticketed)
            raise
    if scope.cancelled_caught:
        if deadline_at <= patience_at:
            raise deadline_exceeded()
        raise queue_full(request)


def _leave_trace(ticketed: Ticketed) -> None:
    """The request did not come into its door, so nobody will answer at the one it brings."""
    if isinstance(ticketed.submit.reply, TracedReplies):
        ticketed.submit.reply.refused()


def closed(request: InferRequest) -> ServerError:
    """What a caller hears whose model has stopped between look-up and submission."""
    return unavailable(
        f"{request_prefix(request.id)}Server is stopping, scheduler for model has stopped "
        "accepting new inference requests"
    )


def queue_full(request: InferRequest) -> ServerError:
    """What a caller hears whose model has more requests waiting than it may."""
    return unavailable(f"{request_prefix(request.id)}Exceeds maximum queue size")


def cancel(serving: ServingVersion, number: int) -> None:
    """Free the request's place at once, wherever it is; harmless when it has already ended."""
    try:
        serving.control.send_nowait(CancelRequest(number))
    except (trio.BrokenResourceError, trio.WouldBlock):
        # Closed: nothing is left to cancel. Full: the reply will be dropped instead.
        return
