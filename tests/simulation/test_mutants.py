"""Defects put into the server on purpose: a few dozen random worlds find each of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from actors import instance, response_cache, scheduler, statistics
from actors.policy import batching, grants, limiting, ordering, queueing, scanning
from simulation.report import judge

SEEDS = 60


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
        "stuck",
    ),
    "no order is preserved": (ordering.Resequencer, "offer", keeps_no_order, "the order"),
    "resources are not scarce": (limiting.RateLimiter, "_fits", always(True), "suffice"),
    "cancellations are ignored": (scheduler.Scheduler, "_cancel", always(None), "was cancelled at"),
    "answers are mixed up": (instance.Instance, "_open", mixes_answers_up, "somebody else sent"),
    "too little is counted": (statistics, "count_execution", counts_too_few, "books add up"),
    "everything is a cache hit": (response_cache, "cache_key", always(b""), "somebody else sent"),
}


@pytest.mark.parametrize("defect", MUTANTS)
def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    where, name, mutate, words = MUTANTS[defect]
    monkeypatch.setattr(where, name, mutate(getattr(where, name)))

    problems = (judge(seed).problem for seed in range(SEEDS))
    found = next((problem for problem in problems if problem), "")

    assert any(one in found for one in words.split("|")), found
