"""Brings requests of sequences and instances of one model version together.

Stands where a model without sequences has its Scheduler, hears and says the same, and drives a
SequencePolicy. In addition it hears `Released`: a request is done with, or its model wants it
again. Owns, through its policy, which sequence lives in which slot; what a model sees of that, the
control tensors, it adds to copies of the requests.
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
    Released,
    RetireInstance,
    Slots,
    Submit,
    VersionKey,
)
from actors.metrics.slow_requests import SlowTeller
from actors.metrics.waiting import with_doors
from actors.policy.queueing import Waiting
from actors.policy.sequencing import (
    CorrelationId,
    DispatchSlots,
    RefuseRequest,
    SequencePolicy,
    SequenceRefusal,
    SequenceTicket,
    WarnOfConflict,
)
from actors.street.answers import Refusals, answer_error
from actors.street.instance import Instance, let_end
from protocol.status import (
    ServerError,
    cancelled,
    deadline_exceeded,
    invalid_arg,
    unavailable,
)
from repo.sequence_inputs import SequenceInputs

log = logging.getLogger(__name__)

_REASONS: Final = {
    SequenceRefusal.CANCELLED: "CANCELED",
    SequenceRefusal.EXPIRED: "REJECTED",
    SequenceRefusal.DEADLINE: "REJECTED",
}


def refusal(
    cause: SequenceRefusal, model_name: str, correlation_id: CorrelationId = 0
) -> ServerError:
    """The wire text of a refusal; the words are Triton's."""
    match cause:
        case SequenceRefusal.BATCHED:
            return invalid_arg(
                f"inference request to model '{model_name}' must specify batch-size 1 due to "
                "requirements of sequence batcher"
            )
        case SequenceRefusal.UNIDENTIFIED:
            return invalid_arg(
                f"inference request to model '{model_name}' must specify a non-zero or non-empty "
                "correlation ID"
            )
        case SequenceRefusal.STOPPING:
            return unavailable(
                "Server is stopping, scheduler for model has stopped accepting new inference "
                "requests"
            )
        case SequenceRefusal.NOT_STARTED:
            return invalid_arg(
                f"inference request for sequence {correlation_id} to model '{model_name}' must "
                "specify the START flag on the first request of the sequence"
            )
        case SequenceRefusal.EXPIRED:
            return unavailable("timeout of the corresponding sequence has been expired")
        case SequenceRefusal.CANCELLED:
            return cancelled()
        case SequenceRefusal.DEADLINE:
            return deadline_exceeded()


class SequenceBatcher:
    """One policy, driven by its mailbox."""

    def __init__(
        self,
        *,
        key: VersionKey,
        policy: SequencePolicy,
        inputs: SequenceInputs,
        pads: bool,
        reschedules: bool,
        mailbox: Mailbox,
        control: Door[Control],
        grants: Door[Grant],
        released: Door[Released],
        door: Door[Submit],
        instances: Sequence[Instance],
        execute: Sequence[Door[Execute | Drain]],
        statistics: Door[Fact],
        ceiling: int,
        ordering: OrderingSeat | None = None,
        limiter: LimiterSeat | None = None,
        slow: SlowTeller | None = None,
    ) -> None:
        self._key = key
        self._policy = policy
        self._inputs = inputs
        self._pads = pads
        self._reschedules = reschedules
        self._mailbox = mailbox
        # Whenever a sequence goes on, the instant moves at which its silence is too long.
        self._control = control
        self._grants = grants
        self._released = released
        self._door = door
        self._instances = dict(enumerate(instances))  # those that end still run requests
        self._execute = dict(enumerate(execute))  # of those that take more
        self._refusals = Refusals(key, statistics, slow)
        self._ceiling = ceiling
        self._ordering = ordering
        self._limiter = limiter
        self._asked: set[int] = set()  # instances that the limiter knows we could use
        self._cancelled: set[int] = set()  # that may still stand in the door
        self._draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until told to drain and everything accepted has been dispatched for good.

        A sequence that has not ended does not keep it: nobody can reach it any more.
        """
        task_status.started()
        try:
            await self._mailbox.serve(self._turn)
        finally:
            self._leave(trio.current_time())

    def pending(self) -> int:
        """Requests that were submitted and are not executing yet; a gauge, read at any time."""
        return self._policy.pending + len(self._door)

    def waiting(self) -> dict[int, Waiting]:
        """The same by level, and since when; read at any time."""
        return with_doors(self._policy.waiting(), (self._door,))

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
                    self._change_instances(message, now)
        for released in self._released.drain():
            policy.released(released.number, now, rescheduled=released.rescheduled)
        for grant in self._grants.drain():
            self._take_grant(grant.instance)
        # At the ceiling the door fills and its callers wait: that is the back-pressure.
        for submit in self._door.drain(max(0, self._ceiling - policy.pending)):
            self._admit(submit, now)
        if self._draining:
            policy.drain()  # only now: who came before the order is still let in
        if not len(self._door):
            self._cancelled.clear()
        for action in policy.step(now):
            match action:
                case DispatchSlots():
                    self._dispatch(action)
                case RefuseRequest(ticket, cause):
                    self._refuse(_submit(ticket), cause, now, ticket.correlation_id)
                case WarnOfConflict(correlation_id):
                    log.warning(
                        "sequence %s of model '%s' starts anew before it has ended",
                        correlation_id,
                        self._key[0],
                    )
        for instance in policy.vacated():
            self._end(instance)
        if self._limiter is not None:
            self._balance(self._limiter)
        # While no request waits there is nothing that such news could be used for.
        quiet = not (self._draining or policy.pending or len(self._door))
        self._grants.hush(quiet and self._limiter is None)
        self._released.hush(quiet and not self._reschedules)
        self._refusals.tell()
        if self._draining and policy.is_idle:
            self._mailbox.leave()
        return policy.next_wake

    def _take_grant(self, instance: int) -> None:
        self._asked.discard(instance)
        if instance in self._execute:
            self._policy.grant(instance)
        elif self._limiter is not None:
            self._limiter.release(instance, executed=False)

    def _change_instances(
        self, message: AddInstance | RetireInstance | ForgetInstance, now: float
    ) -> None:
        match message:
            case AddInstance(index, instance, execute):
                self._instances[index] = instance
                self._execute[index] = execute
                if not message.is_passive:
                    self._policy.add(index, now)
            case RetireInstance(index):
                self._policy.retire(index)  # its sequences end first
            case ForgetInstance(index, room):
                del self._instances[index]
                self._grants.capacity -= room  # whose grants are taken out before others come

    def _end(self, index: int) -> None:
        """The last sequence of a retired instance has left it."""
        let_end(self._execute.pop(index))
        self._asked.discard(index)
        if self._limiter is not None:
            self._limiter.retire(index)

    def _balance(self, limiter: LimiterSeat) -> None:
        """Ask for the very instances that could be used, and give back those that cannot."""
        for instance in self._policy.surrender():
            limiter.release(instance, executed=False)
        for instance in self._policy.instances_wanted:
            if instance not in self._asked:
                self._asked.add(instance)
                limiter.ask_for(instance)

    def _admit(self, submit: Submit, now: float) -> None:
        if submit.number in self._cancelled:
            self._refuse(submit, SequenceRefusal.CANCELLED, now, submit.request.correlation_id)
            return
        request = submit.request
        ticket = SequenceTicket(
            id=submit.number,
            level=0,
            batch_size=submit.batch_size or 1,
            shape_key=submit.shape_key,
            work=submit,
            timeout_seconds=request.timeout_us / 1e6,
            deadline_at=submit.deadline_at,
            correlation_id=request.correlation_id,
            flags=request.sequence_flags,
        )
        refused = self._policy.submit(ticket, now)
        if refused is not None:
            error = refusal(refused.cause, self._key[0], request.correlation_id)
            answer_error(submit, error)

    def _dispatch(self, action: DispatchSlots) -> None:
        if self._ordering is not None:
            self._enter(self._ordering, action)
        submits = []
        for _, ticket, _ in action.places:
            submit = _submit(ticket)
            request = self._inputs.of(submit.request, ticket.flags, ticket.correlation_id)
            if request is not submit.request:
                submit = submit._replace(request=request)
            submits.append(submit)
        padding = None
        if self._pads and len(submits) < action.size:
            padding = self._inputs.padding(_submit(action.places[0].ticket).request)
        slots = Slots(
            [place.slot for place in action.places],
            frozenset(place.slot for place in action.places if place.begins),
            padding,
        )
        batch = Execute(submits, action.size, action.closed_by, slots)
        try:
            # The grant is the credit: the instance's door has room for every grant it gave.
            self._execute[action.instance].send_nowait(batch)
        except trio.BrokenResourceError:
            # It has crashed in this very instant, and its model with it.
            self._instances[action.instance].refuse(batch)

    def _enter(self, ordering: OrderingSeat, action: DispatchSlots) -> None:
        """Reserve the places of requests that have none yet in the order of replies."""
        new = [
            ticket
            for _, ticket, _ in action.places
            if _submit(ticket).reply is not ordering.replies
        ]
        if not new:
            return
        submits = ordering.enter([_submit(ticket) for ticket in new])
        for ticket, submit in zip(new, submits, strict=True):
            ticket.work = submit

    def _cancel(self, number: int, now: float) -> None:
        if self._policy.cancel(number, now):
            return
        for instance in self._instances.values():
            instance.cancel(number)
        if len(self._door):
            self._cancelled.add(number)

    def _refuse(
        self, submit: Submit, cause: SequenceRefusal, now: float, correlation_id: CorrelationId
    ) -> None:
        """Answer a request that had been let in; unlike one refused at the door, it is counted."""
        reason = _REASONS.get(cause, "OTHER")
        error = refusal(cause, self._key[0], correlation_id)
        self._refusals.refuse(submit, error, reason=reason, cause=cause.value, now=now)

    def _leave(self, now: float) -> None:
        """Answer whoever is still at the door or, after a crash, in a slot; let instances end."""
        for released in self._released.drain():
            self._policy.released(released.number, now, rescheduled=released.rescheduled)
        stopping = refusal(SequenceRefusal.STOPPING, self._key[0])
        for submit in self._door.drain():
            answer_error(submit, stopping)
        for ticket in self._policy.abandon():
            answer_error(_submit(ticket), stopping)
        for message in self._control.drain():
            if isinstance(message, AddInstance):
                let_end(message.execute)
        self._mailbox.close()
        for execute in self._execute.values():
            let_end(execute)


def _submit(ticket: SequenceTicket) -> Submit:
    """What this actor put into its tickets; to the policy it is opaque."""
    return cast("Submit", ticket.work)
