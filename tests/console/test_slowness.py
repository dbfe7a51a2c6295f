"""Which requests count as slow, and the words that say why."""

from __future__ import annotations

import pytest

from actors.console.slowness import (
    KEPT_PER_VERSION,
    WINDOW_SECONDS,
    SlowestRequests,
    duration,
    why,
)
from actors.messages import LongestStep, SlowRequest
from actors.metrics.slow_requests import NO_STEP


def record(
    *,
    queue: float = 0.0,
    run: float = 0.0,
    at: float = 0.0,
    model: str = "m",
    closed_by: str = "single",
    infer: float = 0.0,
    together: int = 1,
    longest: LongestStep = NO_STEP,
) -> SlowRequest:
    return SlowRequest(
        (model, 1), "id", at, at + queue, at + queue + run, 0, int(infer * 1e9), 0, "m_0", 4,
        together, closed_by, "", longest,
    )  # fmt: skip


def test_the_slowest_of_each_version_are_kept() -> None:
    slowest = SlowestRequests()
    for number in range(3 * KEPT_PER_VERSION):
        slowest.take(record(run=float(number % 20)))
    slowest.take(record(run=0.5, model="other"))
    assert slowest.bar(("m", 1)) == 10.0
    assert slowest.bar(("other", 1)) == 0.0
    shown = [each.finished_at for each in slowest.slowest(3)]
    assert shown == [19.0, 18.0, 17.0]
    assert len(slowest.slowest(1000)) == KEPT_PER_VERSION + 1


def test_what_is_old_makes_room() -> None:
    slowest = SlowestRequests()
    for number in range(KEPT_PER_VERSION):
        slowest.take(record(run=1.0, at=float(number)))
    assert slowest.bar(("m", 1)) == 1.0
    slowest.forget(WINDOW_SECONDS + 1.0)
    assert len(slowest.slowest(1000)) == KEPT_PER_VERSION - 1
    assert slowest.bar(("m", 1)) == 0.0
    slowest.forget(10 * WINDOW_SECONDS)
    assert slowest.slowest(1000) == []
    assert not slowest._kept


@pytest.mark.parametrize(
    ("slow", "delay", "words"),
    [
        (
            record(queue=0.25, run=0.001, closed_by="delay"), 0.25,
            ("It waited 250.0 ms for requests to share its batch; its batch of 4 left because the "
            "queue delay had passed."),
        ),
        (
            record(queue=2.5, run=0.001, closed_by="full"), 0.25,
            "It waited 2.50 s for a free instance; its batch of 4 left because it was full.",
        ),
        (
            record(queue=2.5, run=0.001, closed_by="delay"), 0.25,
            ("It waited 2.50 s for a free instance; its batch of 4 left because the queue delay "
            "had passed."),
        ),
        (
            record(queue=0.5, closed_by="timeout"), 0.25,
            "It waited 500.0 ms for a free instance, until the model's queue timeout had passed.",
        ),
        (
            record(queue=0.5, closed_by="cancelled"), 0.0,
            "It waited 500.0 ms for a free instance, until its caller left.",
        ),
        (record(queue=0.5, run=0.25), 0.0, "It waited 500.0 ms for a free instance."),
        (
            record(queue=0.5, run=0.25, closed_by="ensemble"), 0.0,
            "It waited 500.0 ms until the ensemble began its first step.",
        ),
        (
            record(run=0.25, closed_by="ensemble", longest=LongestStep(0.2, "digits")), 0.0,
            "It hardly waited: its steps took 250.0 ms, the longest 200.0 ms in 'digits'.",
        ),
        (
            record(run=0.25, closed_by="ensemble"), 0.0,
            "It hardly waited: its steps took 250.0 ms.",
        ),
        (
            record(run=0.25, infer=0.2, together=3), 0.0,
            ("It hardly waited: it was executed for 250.0 ms in a batch of 4, 200.0 ms of it in "
            "the model."),
        ),
        (
            record(queue=0.125, run=0.25, infer=0.2), 0.0,
            ("It waited 125.0 ms only: it was executed for 250.0 ms, 200.0 ms of it in the model."),
        ),
        (
            record(run=0.25, infer=0.001), 0.0,
            ("It hardly waited: it was executed for 250.0 ms, but computed for 1.0 ms: the rest "
            "passed on the way there and back, as on a busy machine."),
        ),
    ],
)  # fmt: skip
def test_the_reason_names_what_took_the_time(slow: SlowRequest, delay: float, words: str) -> None:
    assert why(slow, delay) == words


def test_durations_have_a_fitting_unit() -> None:
    texts = [duration(each) for each in (75.0, 0.25, 0.0025, 0.0000125)]
    assert texts == ["75.00 s", "250.0 ms", "2.5 ms", "12 µs"]
