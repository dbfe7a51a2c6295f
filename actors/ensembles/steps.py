"""The steps of an ensemble that are under way: requests to its members, and their replies.

Owns the doors on which members answer. Those that answer once share one; a decoupled call has a
window of its own, which is left full while what it said is still on its way through the ensemble.
Requests go to members by the same admission as any caller's; tensors go by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import trio

from actors.channels import Door, Mailbox
from actors.ensembles.callers import Caller
from actors.ensembles.members import staying
from actors.ensembles.waits import Waits
from actors.lifecycle.model_index import ServingVersion
from actors.messages import LongestStep, Reply
from actors.policy.dataflow import SequenceSays, StepCall
from actors.street.calls import Calls, cancel, submit_nowait
from actors.street.explanation import add_member
from protocol.inference import InferRequest, InferResponse, SequenceFlag
from protocol.status import ServerError


@dataclass(slots=True, eq=False)
class _Sent:
    """A step's request, from its submission to its final reply."""

    number: int
    call: StepCall
    serving: ServingVersion
    submitted_at: float
    door: Door[Reply] | None  # of a decoupled member
    patience: trio.CancelScope | None = None  # while it waits for room in the member's door


HasRoom = Callable[[StepCall, int], bool]
"""Whether a decoupled call's next response may be taken, its caller having so many to read."""


class Steps:
    """See the module's docstring. A step's `work` is its request, its flow's is a Caller."""

    def __init__(
        self,
        calls: Calls,
        *,
        mailbox: Mailbox,
        replies: Door[Reply],
        waits: Waits,
        window: int,
        notes_longest: bool,
    ) -> None:
        """`window` is how many responses a decoupled member may be ahead of its ensemble."""
        self._calls = calls
        self._mailbox = mailbox
        self._replies = replies
        self._waits = waits
        self._window = window
        self._notes_longest = notes_longest
        self._sent: dict[int, _Sent] = {}
        self._streams: dict[int, _Sent] = {}  # those of decoupled members

    def start(self, call: StepCall) -> ServerError | None:
        """Submit a step's request to its member; the error if that refuses it at once."""
        caller = cast("Caller", call.flow.work)
        serving = caller.servings[call.step]
        assert not isinstance(serving, ServerError), "every step of the plan was looked at before"
        door: Door[Reply] | None = self._mailbox.door(self._window) if serving.decoupled else None
        patience = None
        try:
            ticketed = self._calls.prepare(
                serving,
                _request(serving, caller, call),
                self._replies if door is None else door,
                deadline_at=caller.submit.deadline_at,
            )
            try:
                submit_nowait(ticketed)
            except trio.WouldBlock:
                patience = self._waits.for_member(ticketed)
        except ServerError as error:
            if door is not None:
                self._mailbox.remove(door)
            return error
        message = ticketed.submit
        call.batch_size = message.batch_size
        sent = _Sent(message.number, call, serving, message.submitted_at, door, patience)
        call.work = self._sent[message.number] = sent
        if door is not None:
            self._streams[message.number] = sent
        return None

    def stop(self, call: StepCall) -> None:
        """Tell the member that nobody waits for a step any longer."""
        sent = cast("_Sent | None", call.work)
        if sent is None:
            return  # it will not be started
        if sent.patience is not None:
            sent.patience.cancel()
        cancel(sent.serving, sent.number)

    @property
    def has_streams(self) -> bool:
        """Whether any decoupled call is under way."""
        return bool(self._streams)

    def streamed(self, has_room: HasRoom) -> Iterator[Reply]:
        """What decoupled members have said, as far as there is room for it further on.

        Each reply is to be taken at once; what is done with it may make room for the next.
        """
        has_moved = True
        while has_moved:
            has_moved = False
            for sent in list(self._streams.values()):
                caller, door = cast("Caller", sent.call.flow.work), sent.door
                assert door is not None, "only decoupled members have streams"
                while len(door) and has_room(sent.call, len(caller.unsent)):
                    has_moved = True
                    yield from door.drain(1)

    def take(self, reply: Reply) -> StepCall:
        """The step that was answered, which has ended if the reply is the final one."""
        sent = self._sent[reply.number]
        call = sent.call
        caller = cast("Caller", call.flow.work)
        if caller.explanation is not None and isinstance(reply.outcome, InferResponse):
            add_member(caller.explanation, sent.serving.name, reply.outcome)
        if reply.final:
            del self._sent[reply.number]
            call.work = None  # a circle, which would be left to the garbage collector
            if sent.door is not None:
                del self._streams[reply.number]
                self._mailbox.remove(sent.door)
            if reply.timings is not None:
                caller.add(reply.timings)
            if self._notes_longest:
                took = trio.current_time() - sent.submitted_at
                caller.longest = max(caller.longest, LongestStep(took, sent.serving.name))
        return call

    def cancel_all(self) -> None:
        """The ensemble has ended: nobody waits for any step."""
        for sent in self._sent.values():
            cancel(sent.serving, sent.number)


def _request(serving: ServingVersion, caller: Caller, call: StepCall) -> InferRequest:
    """What a member is asked: the caller's request, with the step's own tensors."""
    asked, flow, step = caller.submit.request, call.flow, call.step
    wanted = flow.plan.requested[step]
    if len(wanted) == flow.members[step].output_count:
        wanted = ()  # all of them, which nobody needs to look up
    request = InferRequest(
        serving.name,
        "",
        asked.id,
        call.inputs,
        wanted,
        dict(asked.parameters),
        asked.correlation_id,
        asked.sequence_flags,
        asked.priority,
        asked.timeout_us,
        trace=asked.trace,
    )
    if serving.takes_device_tensors:
        request.on_device = staying(flow.plan, step, caller.servings)
    if call.sequence:
        _override(request, call.sequence)
    return request


def _override(request: InferRequest, says: SequenceSays) -> None:
    """Let a member's word on sequences replace the caller's."""
    number = says.get("sequence_id")
    if isinstance(number, int | str):
        request.correlation_id = number
    for name, flag in (("sequence_start", SequenceFlag.START), ("sequence_end", SequenceFlag.END)):
        if name in says:
            request.sequence_flags &= ~flag
            if says[name]:
                request.sequence_flags |= flag
