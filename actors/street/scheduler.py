"""Brings requests and instances of one model version together.

Owns the queue, through its policy, and hears four kinds of message: cancellations and the order to
drain on the control door, grants from instances (or from the rate limiter), and `Submit` on one
door per priority level. It says `Execute` to an instance that granted, and answers directly
whatever the policy refuses. When and what to dispatch is the policy's decision alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, cast

import trio

from actors.channels import Door, Mailbox
from actors.companions.rate_limiter import LimiterSeat
from actors.companions.resequencer import OrderingSeat
from actors.messages import (
    AddInstance,
    CancelRequest,
    Control,
    Drain,
    Execute,
    Fact,
    ForgetInstance,
    Grant,
    RetireInstance,
    Submit,
    VersionKey,
)
from actors.metrics.slow_requests import SlowTeller
from actors.metrics.waiting import with_doors
from actors.policy.actions import Dispatch, RefusalCause, Refuse, Report, SchedulingPolicy
from actors.policy.queueing import Ticket, Waiting
from actors.street.answers import Refusals, answer_error
from actors.street.calls import closed, queue_full
from actors.street.instance import Instance, let_end
from actors.turns import current_turns
from protocol.inference import InferRequest
from protocol.status import ServerError, cancelled, deadline_exceeded, unavailable

log = logging.getLogger(__name__)

# Cancelled requests remembered while a door is not empty. The doors together hold fewer; one that
# is forgotten is merely run for nobody.
MAX_CANCELLED_AT_DOORS: Final = 4096


def refusal(cause: RefusalCause, request: InferRequest) -> ServerError:
    """The wire text of a refusal; the words are Triton's."""
    match cause:
        case RefusalCause.QUEUE_FULL:
            return queue_full(request)
        case RefusalCause.TIMEOUT:
            return unavailable("Request timeout expired")
        case RefusalCause.CANCELLED:
            return cancelled()
        case RefusalCause.DEADLINE:
            return deadline_exceeded()
        case RefusalCause.STOPPING:
            return closed(request)


def _submit(ticket: Ticket) -> Submit:
    """What this actor put into its tickets; to the policy it is opaque."""
    return cast("Submit", ticket.work)


class Scheduler:
    """One policy, driven by its mailbox."""

    def __init__(
        self,
        *,
        key: VersionKey,
        policy: SchedulingPolicy,
        mailbox: Mailbox,
        control: Door[Control],
        grants: Door[Grant],
        doors: Sequence[Door[Submit]],
        instances: Sequence[Instance],
        execute: Sequence[Door[Execute | Drain]],
        statistics: Door[Fact],
        levels: int,
        ceiling: int,
        ordering: OrderingSeat | None = None,
        limiter: LimiterSeat | None = None,
        slow: SlowTeller | None = None,
    ) -> None:
        self._policy = policy
        self._mailbox = mailbox
        self._control = control
        self._grants = grants
        self._doors = doors
        self._instances = dict(enumerate(instances))  # those that end still run requests
        self._execute = dict(enumerate(execute))  # of those that take more
        self._refusals = Refusals(key, statistics, slow)
        self._levels = levels  # of priority; 0: none
        self._ceiling = ceiling
        self._ordering = ordering
        self._limiter = limiter
        self._asked = 0  # grants that the limiter knows we could use, and has not given
        self._draining = False
        self._shut: dict[Door[Submit], int] = {}  # with the level whose queue is full behind it
        # Cancelled requests that may still stand in a door; at most MAX_CANCELLED_AT_DOORS.
        self._cancelled: dict[int, None] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until told to drain and everything accepted has been dispatched."""
        task_status.started()
        try:
            await self._mailbox.serve(self._turn)
        finally:
            self._leave(trio.current_time())

    def pending(self) -> int:
        """Requests that were submitted and are not executing yet; a gauge, read at any time."""
        return self._policy.pending + sum(len(door) for door in self._doors)

    def waiting(self) -> dict[int, Waiting]:
        """The same by level, and since when; read at any time."""
        return with_doors(self._policy.waiting(), self._doors)

    def _turn(self) -> float:
        """Take in what has been said, do what follows; until when nothing else does."""
        now = trio.current_time()
        policy = self._policy
        for message in self._control.drain():
            match message:
                case CancelRequest(number):
                    self._cancel(number, now)
                case Drain():
                    self._draining = True
                case _:
                    self._change_instances(message)
        for grant in self._grants.drain():
            self._take_grant(grant.instance)
        is_behind = False
        for door in self._doors:
            waiting = len(door)
            if waiting:
                room = self._room(door, waiting)
                self._admit(door, room, now)
                is_behind = is_behind or room < waiting
        if self._draining:
            policy.drain()  # only now: who came before the order is still let in
        if self._cancelled and not is_behind:
            self._cancelled.clear()
        for action in policy.step(now):
            match action:
                case Dispatch():
                    self._dispatch(action)
                case Refuse():
                    self._refuse(_submit(action.ticket), action.cause, now)
                case Report(text):
                    log.error("%s", text)
        if self._limiter is not None:
            self._balance(self._limiter)
        else:
            # Without a request there is nothing that a grant could be used for.
            self._grants.hush(not is_behind and not policy.pending)
        if self._shut:
            self._open_doors()
        self._refusals.tell()
        if self._draining and not policy.pending:
            self._mailbox.leave()
        return policy.next_wake

    def _take_grant(self, instance: int) -> None:
        self._asked -= 1
        if instance in self._execute:
            self._policy.grant(instance)
        elif self._limiter is not None:
            self._limiter.release(instance, executed=False)

    def _change_instances(self, message: AddInstance | RetireInstance | ForgetInstance) -> None:
        match message:
            case AddInstance(index, instance, execute):
                self._instances[index] = instance
                self._execute[index] = execute
            case RetireInstance(index):
                self._policy.revoke(index)
                let_end(self._execute.pop(index))
                if self._limiter is not None:
                    self._limiter.retire(index)
            case ForgetInstance(index, room):
                del self._instances[index]
                self._grants.capacity -= room  # whose grants are taken out before others come

    def _balance(self, limiter: LimiterSeat) -> None:
        """Ask for the executions that could be used, and give back those that cannot.

        A grant holds resources that other models wait for, so none is kept in reserve.
        """
        for instance in self._policy.surrender():
            limiter.release(instance, executed=False)
        wanted = self._policy.grants_wanted
        if wanted > self._asked:
            limiter.ask(wanted - self._asked)
            self._asked = wanted

    def _admit(self, door: Door[Submit], room: int, now: float) -> None:
        """Queue what waits at one level's door, the most urgent level first.

        A level at the ceiling is not drained: its door fills and its callers wait, which is the
        back-pressure, and a flood on one level can neither delay nor refuse another.
        """
        for submit in door.drain(room):
            if submit.number in self._cancelled:
                self._refuse(submit, RefusalCause.CANCELLED, now)
                continue
            number, request, batch_size, shape_key, level, deadline_at, _, _ = submit
            ticket = Ticket(
                number,
                level,
                batch_size or 1,
                shape_key,
                submit,
                request.timeout_us / 1e6,
                deadline_at,
            )
            refused = self._policy.submit(ticket, now)
            if refused is not None:
                current_turns().refused += 1
                answer_error(submit, refusal(refused.cause, request))
                if refused.cause is RefusalCause.QUEUE_FULL:
                    self._shut_door(door, ticket.level)

    def _shut_door(self, door: Door[Submit], level: int) -> None:
        """Have callers refuse what comes to a full queue, which costs them less than an answer."""
        is_shared = door is self._doors[-1] and self._levels > len(self._doors)
        if not is_shared:
            door.shut(True)
            self._shut[door] = level

    def _open_doors(self) -> None:
        for door, level in list(self._shut.items()):
            if self._policy.has_room(level):
                door.shut(False)
                del self._shut[door]

    def _room(self, door: Door[Submit], waiting: int) -> int:
        """How many of those that wait at a door can be queued, or more."""
        if self._policy.pending + waiting <= self._ceiling:
            return waiting  # the usual case, without asking how the queue is made up
        number = self._doors.index(door)
        level = number + 1 if self._levels else 0
        return max(0, self._ceiling - self._policy.pending_by_level.get(level, 0))

    def _dispatch(self, action: Dispatch) -> None:
        submits = [_submit(ticket) for ticket in action.tickets]
        if self._ordering is not None:
            submits = self._ordering.enter(submits)
        batch = Execute(submits, action.batch_size, action.closed_by)
        try:
            # The grant is the credit: the instance's door has room for every grant it gave.
            self._execute[action.instance].send_nowait(batch)
        except trio.BrokenResourceError:
            # It has crashed in this very instant, and its model with it.
            self._instances[action.instance].refuse(batch)

    def _cancel(self, number: int, now: float) -> None:
        refused = self._policy.cancel(number, now)
        if refused is not None:
            self._refuse(_submit(refused.ticket), refused.cause, now)
            return
        if any(map(len, self._doors)):
            self._cancelled[number] = None
            if len(self._cancelled) > MAX_CANCELLED_AT_DOORS:
                del self._cancelled[next(iter(self._cancelled))]
        for instance in self._instances.values():
            instance.cancel(number)

    def _refuse(self, submit: Submit, cause: RefusalCause, now: float) -> None:
        """Answer a request that was queued; unlike one refused at the door, it is counted."""
        reason = "CANCELED" if cause is RefusalCause.CANCELLED else "REJECTED"
        error = refusal(cause, submit.request)
        self._refusals.refuse(submit, error, reason=reason, cause=cause.value, now=now)

    def _leave(self, now: float) -> None:
        """Answer whoever is still at a door or, after a crash, in the queue; let instances end."""
        for door in self._doors:
            for submit in door.drain():
                answer_error(submit, closed(submit.request))
        for ticket in self._policy.abandon():
            submit = _submit(ticket)
            answer_error(submit, closed(submit.request))
        for message in self._control.drain():
            if isinstance(message, AddInstance):
                let_end(message.execute)
        self._mailbox.close()
        for execute in self._execute.values():
            let_end(execute)
