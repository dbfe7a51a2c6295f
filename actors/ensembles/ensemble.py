"""Runs an ensemble: takes its requests in a scheduler's place, and has its members do the work.

Owns the requests under way and the calls of their steps. Hears `Submit` and control messages like a
Scheduler, and the replies of members on doors of its own: those that answer once share one, a
decoupled call has a window of its own, which is left full while what it said is still on its way.
It says `Submit` to members, by the same admission as any caller, and `Reply` to callers. Tensors go
from one to the other by reference. What to run and to answer is `policy.dataflow`'s decision.

It never waits: who does, for room in a member's door or in a caller's window, is a task per wait.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import trio

from actors.channels import Door, Mailbox
from actors.ensembles.members import Members, staying
from actors.lifecycle.model_index import ServingVersion
from actors.messages import (
    BatchExecuted,
    CancelRequest,
    Control,
    Drain,
    Fact,
    LongestStep,
    Reply,
    RequestsRefused,
    Submit,
    VersionKey,
)
from actors.metrics.slow_requests import NO_STEP, SlowTeller
from actors.metrics.waiting import with_doors
from actors.policy.dataflow import (
    Action,
    Dataflow,
    Finish,
    Flow,
    Respond,
    SequenceSays,
    Start,
    StepCall,
    Stop,
)
from actors.policy.dataflow_graph import Graph
from actors.policy.queueing import Waiting
from actors.street.calls import Calls, Ticketed, cancel, closed, in_line, submit, submit_nowait
from actors.street.explanation import QUEUE_WAIT, add_member, wants_explanation
from protocol.inference import InferRequest, InferResponse, ParameterValue, SequenceFlag
from protocol.status import ServerError, StatusCode, deadline_exceeded, internal
from repo.backends.base import Timings

# Final replies of members that nobody has taken yet. Each is owed, so this is no limit.
REPLY_DOOR: Final = 256
# Responses that a decoupled member may be ahead of its ensemble.
MEMBER_WINDOW: Final = 8
# Cancelled requests remembered while a door is not empty. The doors hold fewer; one that is
# forgotten is merely run for nobody.
MAX_EARLY: Final = 4096


@dataclass(slots=True, eq=False)
class _Caller:
    """A request of the ensemble."""

    submit: Submit
    servings: Sequence[ServingVersion | ServerError]
    began_at: float
    timings: Timings = field(default_factory=Timings)
    unsent: deque[Reply] = field(default_factory=deque)  # while its window is full
    explanation: dict[str, ParameterValue] | None = None  # if it asked why it waits
    longest: LongestStep = NO_STEP  # if somebody looks
    flow: Flow | None = None


@dataclass(slots=True, eq=False)
class _Step:
    """A step's call, from its submission to its final reply."""

    number: int
    call: StepCall
    serving: ServingVersion
    door: Door[Reply] | None  # of a decoupled member
    began_at: float
    patience: trio.CancelScope | None = None  # of the task that waits for room in the member's door


class Ensemble:
    """One ensemble version."""

    def __init__(
        self,
        *,
        key: VersionKey,
        graph: Graph,
        policy: Dataflow,
        members: Members,
        calls: Calls,
        mailbox: Mailbox,
        control: Door[Control],
        doors: Sequence[Door[Submit]],
        statistics: Door[Fact],
        ceiling: int,
        window: int = MEMBER_WINDOW,
        slow: SlowTeller | None = None,
    ) -> None:
        self._key = key
        self._version_text = str(key[1])
        self._graph = graph
        self._policy = policy
        self._members = members
        self._calls = calls
        self._mailbox = mailbox
        self._control = control
        self._doors = doors
        self._statistics = statistics
        self._ceiling = ceiling
        self._window = window
        self._slow = slow  # None: nobody looks
        self._replies: Door[Reply] = mailbox.door(REPLY_DOOR)
        self._callers: dict[int, _Caller] = {}
        self._steps: dict[int, _Step] = {}
        self._streams: dict[int, _Step] = {}  # those of decoupled members
        self._deadlines: list[tuple[float, int]] = []  # heap of (instant, request number)
        self._facts: deque[Fact] = deque()  # one per answer, until the next turn
        self._early: list[int] = []  # cancellations of requests that may still be in a door
        self._shall_drain = False
        self._draining = False
        self._nursery: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until told to drain and everything accepted has been answered."""
        task_status.started()
        try:
            async with trio.open_nursery() as self._nursery:
                while not (self._draining and not self._callers and not self._facts):
                    wake_at = self._deadlines[0][0] if self._deadlines else math.inf
                    if wake_at == math.inf:
                        await self._mailbox.wait()
                    else:
                        with trio.move_on_at(wake_at):
                            await self._mailbox.wait()
                    self._turn(trio.current_time())
        finally:
            self._leave()

    def pending(self) -> int:
        """Requests that were submitted and are not under way yet; a gauge, read at any time."""
        return sum(map(len, self._doors))

    def under_way(self) -> int:
        """Requests that have begun and have not been answered."""
        return len(self._callers)

    def waiting(self) -> dict[int, Waiting]:
        """The same, and since when; an ensemble has no levels."""
        return with_doors({}, self._doors)

    def _turn(self, now: float) -> None:
        if len(self._control):
            self._obey()
        for reply in self._replies.drain():
            self._on_reply(reply)
        for door in self._doors:
            if len(door):
                self._admit(door, now)
        self._draining = self._shall_drain  # only now: who came before the order is still let in
        if self._streams:
            self._read_streams()
        if self._early:
            # Control is heard before the doors, so what matches nothing now may still be in one.
            missing = [number for number in self._early if not self._cancel(number)]
            self._early = missing[-MAX_EARLY:] if any(map(len, self._doors)) else []
        while self._deadlines and self._deadlines[0][0] <= now:
            self._expire(heapq.heappop(self._deadlines)[1])
        self._tell_statistics()

    def _obey(self) -> None:
        for message in self._control.drain():
            match message:
                case CancelRequest(number):
                    if not self._cancel(number):
                        self._early.append(number)
                case Drain():
                    self._shall_drain = True

    # --- callers ---------------------------------------------------------------------------------

    def _admit(self, door: Door[Submit], now: float) -> None:
        for message in door.drain(max(0, self._ceiling - len(self._callers))):
            if self._draining:
                _answer(message, Reply(message.number, closed(message.request), final=True))
            else:
                self._begin(message, now)

    def _begin(self, message: Submit, now: float) -> None:
        request = message.request
        found = self._members.now()
        caller = _Caller(message, found.servings, now)
        if request.parameters and wants_explanation(request):
            caller.explanation = {QUEUE_WAIT: round((now - message.submitted_at) * 1e6)}
        self._callers[message.number] = caller
        if found.is_missing_some:
            for step in self._graph.plan(request.requested_outputs).steps:
                missing = found.servings[step]
                if isinstance(missing, ServerError):
                    self._close(caller, self._policy.wrapped(missing))
                    return
        if message.deadline_at != math.inf:
            heapq.heappush(self._deadlines, (message.deadline_at, message.number))
        caller.flow, actions = self._policy.begin(
            request.id,
            request.inputs,
            batch_size=message.batch_size,
            wanted=request.requested_outputs,
            members=found.members,
        )
        caller.flow.work = caller
        self._act(actions)

    def _cancel(self, number: int) -> bool:
        caller = self._callers.get(number)
        if caller is None or caller.flow is None:
            return False
        self._act(self._policy.cancel(caller.flow))
        return True

    def _expire(self, number: int) -> None:
        caller = self._callers.get(number)
        if caller is not None and caller.flow is not None:
            self._act(self._policy.cancel(caller.flow, deadline_exceeded()))

    def _respond(self, action: Respond) -> None:
        caller = cast("_Caller", action.flow.work)
        request = caller.submit.request
        response = InferResponse(
            self._key[0], self._version_text, request.id, action.outputs, dict(action.sequence)
        )
        if caller.explanation is not None:
            response.parameters |= caller.explanation
        if action.final:
            self._close(caller, response)
        else:
            self._send(caller, Reply(caller.submit.number, response, final=False))

    def _close(self, caller: _Caller, outcome: InferResponse | ServerError | None) -> None:
        """Count the request, then give its final reply: who asks after it finds it counted."""
        message = caller.submit
        if self._callers.pop(message.number, None) is None:
            return  # it was found to have gone while it was answered
        now = trio.current_time()
        lasted = now - message.submitted_at
        if isinstance(outcome, ServerError):
            reason = "CANCELED" if outcome.status is StatusCode.CANCELLED else "OTHER"
            self._facts.append(RequestsRefused(self._key, reason, [lasted]))
        else:
            size = message.batch_size or 1
            queued = caller.began_at - message.submitted_at
            self._facts.append(
                BatchExecuted(
                    self._key,
                    size,
                    size,
                    [queued],
                    [lasted],
                    caller.timings,
                    (),
                    by_backend=False,
                )
            )
        if self._slow is not None:
            self._slow.look_at(
                message, outcome, caller.timings, caller.began_at, longest=caller.longest
            )
        self._tell_statistics()
        self._send(caller, Reply(message.number, outcome, True, caller.timings))

    def _send(self, caller: _Caller, reply: Reply) -> None:
        if caller.unsent:
            caller.unsent.append(reply)  # bounded: `has_room` counts what lies here
            return
        if reply.final:
            _answer(caller.submit, reply)
            return
        try:
            caller.submit.reply.send_nowait(reply)
        except trio.WouldBlock:
            caller.unsent.append(reply)
            self._nursery.start_soon(self._send_patiently, caller)
        except trio.BrokenResourceError:
            self._cancel(reply.number)  # the caller has gone

    async def _send_patiently(self, caller: _Caller) -> None:
        """Give a slow caller its responses, one as there is room for it."""
        door, unsent = caller.submit.reply, caller.unsent
        try:
            while unsent:
                if unsent[0].final:
                    door.send_owed(unsent[0])
                else:
                    await door.send(unsent[0])
                unsent.popleft()
                self._mailbox.ring()  # members may go on
        except trio.BrokenResourceError:
            unsent.clear()
            self._cancel(caller.submit.number)
            self._mailbox.ring()

    # --- steps -----------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        """Do what the policy says, and then what follows from members that refuse at once."""
        while actions:
            further: list[Action] = []
            for action in actions:
                match action:
                    case Start():
                        further += self._start(action.call)
                    case Respond():
                        self._respond(action)
                    case Finish():
                        self._close(cast("_Caller", action.flow.work), action.error)
                    case Stop():
                        self._stop(action.call)
            actions = further

    def _start(self, call: StepCall) -> list[Action]:
        """Submit a step's request to its member; what follows at once if that refuses it."""
        if call.flow.error is not None:
            return self._policy.respond(call, None, final=True)  # a sibling was refused just now
        caller = cast("_Caller", call.flow.work)
        serving = caller.servings[call.step]
        assert not isinstance(serving, ServerError), "`_begin` looks at every step of the plan"
        door: Door[Reply] | None = self._mailbox.door(self._window) if serving.decoupled else None
        try:
            ticketed = self._calls.prepare(
                serving,
                _request(serving, caller, call),
                self._replies if door is None else door,
                deadline_at=caller.submit.deadline_at,
            )
            message = ticketed.submit
            step = _Step(message.number, call, serving, door, message.submitted_at)
            call.work = step
            call.batch_size = ticketed.submit.batch_size
            try:
                submit_nowait(ticketed)
            except trio.WouldBlock:
                step.patience = trio.CancelScope()
                self._nursery.start_soon(self._submit_patiently, in_line(ticketed), step.patience)
        except ServerError as error:
            if door is not None:
                self._mailbox.remove(door)
            return self._policy.fail(call, error, final=True)
        self._steps[step.number] = step
        if door is not None:
            self._streams[step.number] = step
        return []

    async def _submit_patiently(self, ticketed: Ticketed, patience: trio.CancelScope) -> None:
        """Wait for room in a member's door; one that never comes counts as its reply."""
        refused: ServerError | None = None
        with patience:
            try:
                await submit(ticketed)
            except ServerError as error:
                refused = error
        if patience.cancelled_caught:
            refused = ServerError(StatusCode.CANCELLED, "")
        if refused is not None:
            self._replies.send_owed(Reply(ticketed.submit.number, refused, final=True))

    def _stop(self, call: StepCall) -> None:
        step = cast("_Step | None", call.work)
        if step is None:
            return  # it will not be started
        if step.patience is not None:
            step.patience.cancel()
        cancel(step.serving, step.number)

    def _read_streams(self) -> None:
        """Take what decoupled members have said, as far as there is room for it further on."""
        has_moved = True
        while has_moved:
            has_moved = False
            for step in list(self._streams.values()):
                caller = cast("_Caller", step.call.flow.work)
                door = step.door
                assert door is not None, "only decoupled members have streams"
                while (
                    len(door)
                    and step.number in self._streams
                    and self._policy.has_room(step.call, len(caller.unsent))
                ):
                    has_moved = True
                    for reply in door.drain(1):
                        self._on_reply(reply)

    def _on_reply(self, reply: Reply) -> None:
        step = self._steps[reply.number]
        call = step.call
        if reply.final:
            del self._steps[reply.number]
            if step.door is not None:
                del self._streams[reply.number]
                self._mailbox.remove(step.door)
            caller = cast("_Caller", call.flow.work)
            if reply.timings is not None:
                _add(caller.timings, reply.timings)
            if self._slow is not None:
                took = trio.current_time() - step.began_at
                caller.longest = max(caller.longest, LongestStep(took, step.serving.name))
        if isinstance(reply.outcome, ServerError):
            self._act(self._policy.fail(call, reply.outcome, reply.final))
        else:
            told = cast("_Caller", call.flow.work).explanation
            if told is not None and reply.outcome is not None:
                add_member(told, step.serving.name, reply.outcome)
            self._act(self._policy.respond(call, reply.outcome, reply.final))

    # --- the end ---------------------------------------------------------------------------------

    def _tell_statistics(self) -> None:
        while self._facts:
            try:
                self._statistics.send_nowait(self._facts[0])
            except trio.WouldBlock:
                # A full door drains itself; look again in the next turn, which comes at once.
                self._mailbox.ring()
                return
            self._facts.popleft()

    def _leave(self) -> None:
        """Answer whoever is still at a door or, after a crash, under way."""
        for door in self._doors:
            for message in door.drain():
                _answer(message, Reply(message.number, closed(message.request), final=True))
        for step in self._steps.values():
            cancel(step.serving, step.number)
        for caller in self._callers.values():
            error = internal(f"ensemble '{self._key[0]}' has ended")
            _answer(caller.submit, Reply(caller.submit.number, error, final=True))
        self._mailbox.close()


def _answer(message: Submit, reply: Reply) -> None:
    try:
        message.reply.send_owed(reply)
    except trio.BrokenResourceError:
        return  # the caller has gone


def _request(serving: ServingVersion, caller: _Caller, call: StepCall) -> InferRequest:
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


def _add(total: Timings, more: Timings) -> None:
    total.input_ns += more.input_ns
    total.infer_ns += more.infer_ns
    total.output_ns += more.output_ns
