"""Defects put into the server on purpose: a few dozen random worlds find each of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from actors.channels import Door, Mailbox
from actors.companions import response_cache
from actors.ensembles import steps
from actors.messages import Reply
from actors.metrics import statistics
from actors.policy import (
    batching,
    dataflow,
    grants,
    limiting,
    ordering,
    queueing,
    scanning,
    sequencing_table,
)
from actors.processes import other_models
from actors.street import instance, local_calls, scheduler
from actors.street.calls import submit_nowait
from protocol.inference import InferRequest, SequenceFlag
from protocol.status import ServerError, StatusCode
from repo import implicit_state
from simulation.kinds import Kind, kind_of
from simulation.report import judge

SEEDS = 120


def loses_a_grant(add: Callable[..., None]) -> Callable[..., None]:
    turns = itertools.count(1)
    return lambda self, number: add(self, number) if next(turns) % 60 else None


def mixes_answers_up(opened: Callable[..., Any]) -> Callable[..., Any]:
    def reversed_responders(self: object, batch: object, timings: object) -> object:
        responders, requests = opened(self, batch, timings)
        return list(reversed(responders)), requests

    return reversed_responders


def counts_too_few(count: Callable[..., None]) -> Callable[..., None]:
    return lambda counters, fact, at: count(counters, fact._replace(inference_count=0), at)


def forgets_the_shape(offer: Callable[..., bool]) -> Callable[..., bool]:
    def offer_anything(self: object, ticket: queueing.Ticket) -> bool:
        ticket.shape_key = None
        return offer(self, ticket)

    return offer_anything


def always(answer: object) -> Callable[[object], Callable[..., object]]:
    """Whatever it was, it is this answer now."""
    return lambda _: lambda *_args, **_more: answer


def keeps_no_order(_: object) -> Callable[..., list[object]]:
    return lambda _self, _number, response, **_more: [response]


def strikes_late(expiry: Callable[..., float]) -> Callable[..., float]:
    return lambda self, ticket, now: expiry(self, ticket, now) + 1 / 64


def forgets_one(_: object) -> Callable[[queueing.PolicyQueue], int]:
    return lambda queue: max(0, len(queue.live) + len(queue.delayed) - 1)


def queues_in_front(queue: Callable[..., None]) -> Callable[..., None]:
    def queue_in_front(
        self: object,
        ticket: sequencing_table.SequenceTicket,
        sequence: sequencing_table.OpenSequence,
        now: float,
    ) -> None:
        queue(self, ticket, sequence, now)
        waiting = sequence.backlog if sequence.slot is None else sequence.slot.queue
        waiting.rotate(1)

    return queue_in_front


def wanders(queue: Callable[..., None]) -> Callable[..., None]:
    def queue_elsewhere(
        self: sequencing_table.SlotTable,
        ticket: sequencing_table.SequenceTicket,
        sequence: sequencing_table.OpenSequence,
        now: float,
    ) -> None:
        slot = sequence.slot
        if slot is not None:
            rows = list(self.rows.values())
            row = rows[(rows.index(self.rows[slot.instance]) + 1) % len(rows)]
            sequence.slot = row[(slot.number + 1) % len(row)]
        queue(self, ticket, sequence, now)

    return queue_elsewhere


def gives_away_early(take: Callable[..., Any]) -> Callable[..., Any]:
    def take_and_release(
        self: sequencing_table.SlotTable, slot: sequencing_table.Slot
    ) -> sequencing_table.SequenceTicket:
        ticket: sequencing_table.SequenceTicket = take(self, slot)
        if self._backlog and not slot.queue and ticket.sequence and not ticket.sequence.is_ended:
            self.release(slot, ticket.enqueued_at, [])
        return ticket

    return take_and_release


def forgets_a_backlog(release: Callable[..., None]) -> Callable[..., None]:
    def release_for_nobody(self: sequencing_table.SlotTable, *more: object) -> None:
        if len(self._backlog) > 1:
            self._backlog.popitem(last=False)
        release(self, *more)

    return release_for_nobody


def keeps_the_old_state(of: Callable[..., Any]) -> Callable[..., Any]:
    def old(self: implicit_state.StateKeeper, slot: int, *_: object, **__: object) -> object:
        return of(self, slot, SequenceFlag.NONE, begins=slot not in self._slots)

    return old


def leaves_an_input_out(request: Callable[..., Any]) -> Callable[..., Any]:
    def shorter(serving: object, asked: object, call: dataflow.StepCall) -> object:
        call.inputs = call.inputs[:1]
        return request(serving, asked, call)

    return shorter


def turns_responses_round(respond: Callable[..., None]) -> Callable[..., None]:
    def respond_late(self: dataflow.Dataflow, flow: dataflow.Flow, actions: list[Any]) -> None:
        begun = len(actions)
        if flow.responded in flow.complete and len(flow.complete) < 2 and flow.calls:
            return  # until another one is there, which then goes first
        respond(self, flow, actions)
        actions[begun:] = actions[: begun - 1 : -1] if begun else actions[::-1]

    return respond_late


def knows_no_limit(begin: Callable[..., None]) -> Callable[..., None]:
    def without(self: dataflow.Dataflow, *more: object, **rest: object) -> None:
        begin(self, *more, **{**rest, "max_inflight": 0})

    return without


def hands_out_the_answer_before(
    following: Callable[..., Awaitable[object]],
) -> Callable[..., Awaitable[object]]:
    answers: list[object] = []

    async def the_one_before(self: local_calls.LocalCall) -> object:
        answers.append(await following(self))
        return answers[-2:][0]

    return the_one_before


def does_not_wait(_: object) -> Callable[..., AsyncGenerator[tuple[object, bool], None]]:
    async def infer(
        self: other_models.OtherModels, request: InferRequest, *, decoupled: bool
    ) -> AsyncGenerator[tuple[object, bool], None]:
        serving = self._calls.index.value.find(request.model_name, "")
        asked: Door[Reply] = Mailbox().door(1)
        submit_nowait(self._calls.prepare(serving, request, asked))
        yield ServerError(StatusCode.INTERNAL, "I could not wait"), not decoupled

    return infer


TABLE = sequencing_table.SlotTable
# Of worlds of their own, where each has to be found by so many.
SPECIAL_SEEDS = 30
SPECIAL: dict[str, tuple[Kind, object, str, Callable[[Any], object], str]] = {
    "a request overtakes in its sequence": (
        "sequences", TABLE, "_queue", queues_in_front, "keep their order",
    ),
    "a sequence wanders": ("sequences", TABLE, "_queue", wanders, "stay where they are"),
    "a slot is given away early": (
        "sequences", TABLE, "take_head", gives_away_early, "slots have one owner",
    ),
    "a sequence in the backlog is forgotten": (
        "sequences", TABLE, "release", forgets_a_backlog, "stuck",
    ),
    "a slot's new owner gets the old state": (
        "sequences", implicit_state.StateKeeper, "of", keeps_the_old_state, "nobody else s",
    ),
    "a state is not kept": (
        "sequences", implicit_state.SequenceState, "take", always(None), "stands on less|was told",
    ),
    "a step misses an input": (
        "ensembles", steps, "_request", leaves_an_input_out, "what their graphs say",
    ),
    "responses of an ensemble change places": (
        "ensembles", dataflow.Dataflow, "_respond", turns_responses_round, "what their graphs say",
    ),
    "a model's call is answered with another's answer": (
        "ensembles", local_calls.LocalCall, "next", hands_out_the_answer_before,
        "what their graphs say",
    ),
    "a model does not wait for what it asked": (
        "ensembles", other_models.OtherModels, "infer", does_not_wait, "did not wait",
    ),
    "steps have no limit": (
        "ensembles", dataflow.Dataflow, "__init__", knows_no_limit, "steps keep their limit",
    ),
}  # fmt: skip

MUTANTS: dict[str, tuple[object, str, Callable[[Any], object], str]] = {
    "a grant is lost now and then": (grants.Grants, "add", loses_a_grant, "idle|stuck"),
    "nothing expires": (queueing.Deadlines, "pop_due", always(None), "stuck"),
    "timeouts are late": (queueing.PolicyQueue, "expiry", strikes_late, "instants are kept"),
    "levels stand upside down": (
        queueing,
        "_level_of",
        lambda _: lambda queue: -queue.level,
        "nobody overtakes",
    ),
    "a limit is one too high": (queueing.PolicyQueue, "__len__", forgets_one, "their limits"),
    "shapes are mixed": (scanning.Scan, "offer", forgets_the_shape, "have different shapes"),
    "the delay is forgotten": (
        batching.DynamicBatcher,
        "next_wake",
        lambda _: property(lambda _: math.inf),
        "stuck|instants are kept",
    ),
    "no order is preserved": (ordering.Resequencer, "offer", keeps_no_order, "the order"),
    "resources are not scarce": (limiting.RateLimiter, "_fits", always(True), "suffice"),
    "cancellations are ignored": (scheduler.Scheduler, "_cancel", always(None), "was cancelled at"),
    "answers are mixed up": (instance.Instance, "_open", mixes_answers_up, "somebody else sent"),
    "too little is counted": (statistics, "count_execution", counts_too_few, "books add up"),
    "everything is a cache hit": (response_cache, "cache_key", always(b""), "somebody else sent"),
}


def seeds_of(kind: Kind, count: int) -> Iterator[int]:
    """The first seeds that draw a world of this kind."""
    return itertools.islice(filter(lambda seed: kind_of(seed) == kind, itertools.count()), count)


@pytest.mark.parametrize("defect", MUTANTS)
def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    where, name, mutate, words = MUTANTS[defect]
    monkeypatch.setattr(where, name, mutate(getattr(where, name)))

    problems = (judge(seed).problem for seed in seeds_of("crowd", SEEDS))
    found = next((problem for problem in problems if problem), "")

    assert any(one in found for one in words.split("|")), found


@pytest.mark.parametrize("defect", SPECIAL)
def test_a_defect_of_sequences_or_ensembles_is_found(
    monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    kind, where, name, mutate, words = SPECIAL[defect]
    monkeypatch.setattr(where, name, mutate(getattr(where, name)))

    seeds = seeds_of(kind, SPECIAL_SEEDS)
    problems = [problem for seed in seeds if (problem := judge(seed).problem)]

    assert any(one in problem for one in words.split("|") for problem in problems), problems
