"""The default scheduler: one request is one execution; times are milliseconds."""

from __future__ import annotations

import math

from actors.policy.batching import DefaultScheduler, Dispatch, RefusalCause
from actors.policy.queueing import Ticket
from tests.policy.timeline import Timeline


def test_08_instances_take_requests_in_order_and_never_batch_them() -> None:
    line = Timeline(DefaultScheduler(), [100, 100])
    line.send(0, "a").send(0, "b").send(0, "c").play()
    assert line.batches == [(0, "a"), (0, "b"), (100, "c")]
    assert {ran.closed_by for ran in line.ran} == {"single"}
    assert [ran.instance for ran in line.ran] == [0, 1, 0]


def test_a_client_batch_runs_whole() -> None:
    line = Timeline(DefaultScheduler()).send(0, "a", 4).play()
    assert line.sizes == [(0, 4)]


def test_09_a_cancelled_request_does_not_execute() -> None:
    """Triton's default scheduler never looks at the flag and executes it."""
    line = Timeline(DefaultScheduler(), [100]).send(0, "x").send(1, "a").send(2, "b")
    line.cancel(10, "a").play()
    assert line.refused == [(10, "a", RefusalCause.CANCELLED)]
    assert line.batches == [(0, "x"), (100, "b")]


def test_a_callers_deadline_is_honoured() -> None:
    """Triton's default scheduler knows no deadline."""
    line = Timeline(DefaultScheduler(), [100]).send(0, "x").send(1, "a", deadline=50)
    line.send(2, "b", deadline=101).play()
    assert line.refused == [(50, "a", RefusalCause.DEADLINE)]
    assert line.batches == [(0, "x"), (100, "b")]


def test_a_request_that_is_too_late_already_is_not_queued() -> None:
    line = Timeline(DefaultScheduler()).send(5, "a", deadline=5).play()
    assert line.refused == [(5, "a", RefusalCause.DEADLINE)]


def test_the_timeout_parameter_and_the_priority_mean_nothing() -> None:
    line = Timeline(DefaultScheduler(), [100])
    line.send(0, "x").send(1, "a", timeout=1, level=5).send(2, "b", level=1).play()
    assert line.batches == [(0, "x"), (100, "a"), (200, "b")]


def test_draining_refuses_new_requests_and_completes_queued_ones() -> None:
    policy = DefaultScheduler()
    policy.submit(Ticket(1, 0, 1, None, None), 0.0)
    policy.drain()
    refused = policy.submit(Ticket(2, 0, 1, None, None), 1.0)
    assert refused is not None
    assert refused.cause is RefusalCause.STOPPING
    policy.grant(0)
    (action,) = policy.step(1.0)
    assert isinstance(action, Dispatch)
    assert action.oldest_enqueued_at == 0.0
    assert policy.pending == 0


def test_a_revoked_instance_gets_nothing_more() -> None:
    policy = DefaultScheduler()
    policy.grant(0)
    policy.grant(1)
    policy.revoke(1)
    policy.revoke(7)
    for number in range(2):
        policy.submit(Ticket(number, 0, 1, None, None), 0.0)
    (action,) = policy.step(0.0)
    assert isinstance(action, Dispatch)
    assert action.instance == 0
    assert policy.pending_by_level == {0: 1}


def test_abandoning_hands_back_every_ticket_once() -> None:
    policy = DefaultScheduler()
    tickets = [Ticket(number, 0, 1, None, None, deadline_at=9.0) for number in range(3)]
    for ticket in tickets:
        policy.submit(ticket, 0.0)
    assert policy.next_wake == 9.0
    assert policy.abandon() == tickets
    assert policy.pending_by_level == {}
    assert policy.next_wake == math.inf
    assert policy.cancel(0, 1.0) is None
