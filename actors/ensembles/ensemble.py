"""Runs an ensemble: takes its requests in a scheduler's place, and has its members do the work.

Owns the requests under way, and drives `policy.dataflow`, which decides what to run and to answer.
Hears `Submit` and control messages like a Scheduler, and the replies of members (`steps`); says
`Submit` to members and `Reply` to callers (`callers`). It is served in turns, and so never waits:
who does, for room in a member's door or in a caller's window, is a task of its own (`waits`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

import trio

from actors.channels import Door, Mailbox
from actors.ensembles.callers import Caller, Callers
from actors.ensembles.members import Members
from actors.ensembles.steps import Steps
from actors.ensembles.waits import Waits
from actors.messages import CancelRequest, Control, Drain, Fact, Reply, Submit, VersionKey
from actors.metrics.slow_requests import SlowTeller
from actors.metrics.waiting import with_doors
from actors.policy.alarms import Alarms
from actors.policy.dataflow import Action, Dataflow, Finish, Flow, Respond, Start, StepCall, Stop
from actors.policy.dataflow_graph import Graph
from actors.policy.queueing import Waiting
from actors.street.answers import answer_error
from actors.street.calls import Calls, closed
from actors.street.explanation import QUEUE_WAIT, wants_explanation
from protocol.status import ServerError, deadline_exceeded, internal

# Final replies of members that nobody has taken yet. Each is owed, so this is no limit.
REPLY_DOOR: Final = 256
# Responses that a decoupled member may be ahead of its ensemble.
MEMBER_WINDOW: Final = 8
# Cancelled requests remembered while a door is not empty. The doors hold fewer; one that is
# forgotten is merely run for nobody.
MAX_EARLY: Final = 4096


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
        """`window` is how many responses a decoupled member may be ahead; `slow` hears if asked."""
        self._key = key
        self._graph = graph
        self._policy = policy
        self._members = members
        self._mailbox = mailbox
        self._control = control
        self._doors = doors
        self._ceiling = ceiling
        self._replies: Door[Reply] = mailbox.door(REPLY_DOOR)
        self._waits = Waits(mailbox, control, self._replies)
        self._callers = Callers(key, waits=self._waits, statistics=statistics, slow=slow)
        self._steps = Steps(
            calls,
            mailbox=mailbox,
            replies=self._replies,
            waits=self._waits,
            window=window,
            notes_longest=slow is not None,
        )
        self._under_way: dict[int, Flow] = {}  # by request number; each one's work is its Caller
        self._alarms = Alarms(self._under_way)
        self._early: list[int] = []  # cancellations of requests that may still be in a door
        self._draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until told to drain and everything accepted has been answered."""
        task_status.started()
        try:
            async with trio.open_nursery() as self._waits.nursery:
                await self._mailbox.serve(self._turn)
        finally:
            self._leave()

    def pending(self) -> int:
        """Requests that were submitted and are not under way yet; a gauge, read at any time."""
        return sum(map(len, self._doors))

    def under_way(self) -> int:
        """Requests that have begun and have not been answered."""
        return len(self._under_way)

    def waiting(self) -> dict[int, Waiting]:
        """The same, and since when; an ensemble has no levels."""
        return with_doors({}, self._doors)

    def _turn(self) -> float:
        """Take in what has been said, do what follows; until when nothing else does."""
        now = trio.current_time()
        shall_drain = self._obey() if len(self._control) else False
        for reply in self._replies.drain():
            self._on_reply(reply)
        for door in self._doors:
            if len(door):
                self._admit(door, now)
        if shall_drain:
            self._draining = True  # only now: who came before the order is still let in
        if self._early:
            # Control is heard before the doors, so what matches nothing now may still be in one.
            missing = [number for number in self._early if not self._cancel(number)]
            self._early = missing[-MAX_EARLY:] if any(map(len, self._doors)) else []
        if self._alarms.next_at <= now:
            for number in self._alarms.due(now):
                self._cancel(number, deadline_exceeded())
        if self._steps.has_streams:
            for reply in self._steps.streamed(self._policy.has_room):
                self._on_reply(reply)
        if self._draining and not self._under_way:
            self._mailbox.leave()
        return self._alarms.next_at

    def _obey(self) -> bool:
        """Do what was ordered; whether that is to drain."""
        shall_drain = False
        for message in self._control.drain():
            match message:
                case CancelRequest(number):
                    if not self._cancel(number):
                        self._early.append(number)
                case Drain():
                    shall_drain = True
        return shall_drain

    # --- requests --------------------------------------------------------------------------------

    def _admit(self, door: Door[Submit], now: float) -> None:
        for message in door.drain(max(0, self._ceiling - len(self._under_way))):
            if self._draining:
                answer_error(message, closed(message.request))
            else:
                self._begin(message, now)

    def _begin(self, message: Submit, now: float) -> None:
        request = message.request
        found = self._members.now()
        caller = Caller(message, found.servings, now)
        if request.parameters and wants_explanation(request):
            caller.explanation = {QUEUE_WAIT: round((now - message.submitted_at) * 1e6)}
        if found.is_missing_some:
            for step in self._graph.plan(request.requested_outputs).steps:
                missing = found.servings[step]
                if isinstance(missing, ServerError):
                    self._callers.end(caller, self._policy.wrapped(missing))
                    return
        flow, actions = self._policy.begin(
            request.id,
            request.inputs,
            batch_size=message.batch_size,
            wanted=request.requested_outputs,
            members=found.members,
        )
        flow.work = caller
        self._under_way[message.number] = flow
        if message.deadline_at != math.inf:
            self._alarms.set(message.deadline_at, message.number)
        self._act(actions)

    def _cancel(self, number: int, error: ServerError | None = None) -> bool:
        """Whether the request was under way."""
        flow = self._under_way.get(number)
        if flow is None:
            return False
        self._act(self._policy.cancel(flow, error))
        return True

    def _end(self, flow: Flow) -> Caller:
        """The last that is to be told of this request comes now."""
        caller = cast("Caller", flow.work)
        del self._under_way[caller.submit.number]
        return caller

    # --- steps -----------------------------------------------------------------------------------

    def _on_reply(self, reply: Reply) -> None:
        call, outcome = self._steps.take(reply), reply.outcome
        if isinstance(outcome, ServerError):
            self._act(self._policy.fail(call, outcome, reply.final))
        else:
            self._act(self._policy.respond(call, outcome, reply.final))

    def _act(self, actions: list[Action]) -> None:
        """Do what the policy says, and then what follows from members that refuse at once."""
        for action in actions:  # which grows meanwhile
            match action:
                case Start():
                    self._start(action.call, actions)
                case Respond(flow, outputs, sequence, final):
                    caller = self._end(flow) if final else cast("Caller", flow.work)
                    self._callers.respond(caller, outputs, sequence, final=final)
                case Finish(flow, error):
                    self._callers.end(self._end(flow), error)
                case Stop(call):
                    self._steps.stop(call)

    def _start(self, call: StepCall, actions: list[Action]) -> None:
        """Begin a step; if that comes to nothing, add what follows."""
        if call.flow.error is not None:
            actions += self._policy.respond(call, None, final=True)  # a sibling was refused
            return
        refused = self._steps.start(call)
        if refused is not None:
            actions += self._policy.fail(call, refused, final=True)

    # --- the end ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Answer whoever is still at a door or, after a crash, under way."""
        for door in self._doors:
            for message in door.drain():
                answer_error(message, closed(message.request))
        self._steps.cancel_all()
        for flow in self._under_way.values():
            error = internal(f"ensemble '{self._key[0]}' has ended")
            answer_error(cast("Caller", flow.work).submit, error)
        self._mailbox.close()
