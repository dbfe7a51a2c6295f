"""Every checker is shown a run that broke its promise, and one that kept it by a hair."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import pytest
import trio

from actors.channels import Mailbox
from actors.metrics.counters import BatchCounters, VersionCounters
from protocol.status import ServerError, cancelled, deadline_exceeded, internal, unavailable
from repo.instance_groups import InstanceSpec, ResourceNeed
from repo.model_config import BatchingSettings, QueuePolicySettings
from simulation.check_calls import callers_wait_for_what_they_asked
from simulation.checkers import complaints
from simulation.ledger import Answer, Asked, Ledger, Life, Ran
from simulation.world import SimulatedModel, Violation, World
from tests.simulation.rig import model_config

TIMEOUT = unavailable("Request timeout expired")
FULL = unavailable("[request id: a] Exceeds maximum queue size")
STOPPED = unavailable(
    "[request id: a] Server is stopping, scheduler for model has stopped accepting new inference "
    "requests"
)


class Story:
    """Builds a ledger by telling what happened, in order."""

    def __init__(
        self,
        *,
        policy: QueuePolicySettings | None = None,
        levels: int = 0,
        delay: float = 0.0,
        max_batch: int = 8,
        is_dynamic: bool = True,
        preserve_ordering: bool = False,
        specs: tuple[InstanceSpec, ...] = (InstanceSpec("m_0", "CPU"),),
    ) -> None:
        self.ledger = Ledger()
        self.life = Life(
            model="m",
            generation=0,
            batching=BatchingSettings(
                max_batch,
                (max_batch,),
                max_queue_delay_seconds=delay,
                preserve_ordering=preserve_ordering,
                priority_levels=levels,
                default_policy=policy or QueuePolicySettings(),
            ),
            is_dynamic=is_dynamic,
            is_decoupled=False,
            is_cached=False,
            instances=list(specs),
            spans={spec.name: (-math.inf, math.inf) for spec in specs},
        )
        self.ledger.lives.append(self.life)

    def ask(
        self,
        at: float,
        name: str,
        *,
        level: int = 0,
        batch: int = 1,
        shape: str = "",
        deadline: float = math.inf,
        timeout: float = 0.0,
    ) -> Story:
        self.ledger.ask(
            Asked(
                name,
                "client",
                "m",
                at,
                self.ledger.next_order(),
                level=level,
                batch=batch,
                shape_key=shape,
                deadline_at=deadline,
                timeout_seconds=timeout,
                life=self.life,
            )
        )
        return self

    def run(
        self,
        at: float,
        names: str,
        until: float,
        *,
        instance: str = "m_0",
        size: int | None = None,
        failed: str = "",
        answers: bool = True,
    ) -> Story:
        """An execution and, unless told otherwise, its answers."""
        members = names.split()
        size = len(members) if size is None else size
        ran = Ran(self.life, instance, tuple(members), size, at, self.ledger.next_order())
        ran.began_at, ran.ended_at = at, until
        ran.failed, ran.failures = frozenset(failed.split()), len(failed.split())
        self.ledger.run(ran)
        for name in members if answers else ():
            self.answer(until, name, internal("broken") if name in ran.failed else None)
        return self

    def answer(
        self, at: float, name: str, error: ServerError | None = None, *, final: bool = True
    ) -> Story:
        self.ledger.asked[name].answers.append(
            Answer(at, self.ledger.next_order(), error, final, is_empty=False)
        )
        return self

    def cancel(self, at: float, name: str) -> Story:
        self.ledger.asked[name].cancelled_at = at
        return self

    @property
    def complaints(self) -> list[str]:
        return list(complaints(self.ledger))


REJECT = QueuePolicySettings("REJECT", 1.0, allow_timeout_override=True)
DELAY = QueuePolicySettings("DELAY", 1.0)
TWO = (InstanceSpec("m_0", "CPU"), InstanceSpec("m_1", "CPU"))
SHARED = tuple(
    InstanceSpec(name, "CPU", resources=(ResourceNeed("r", 2, is_global=True),))
    for name in ("m_0", "m_1")
)


def limited(story: Story) -> Story:
    story.ledger.is_limited = True
    return story


@pytest.mark.parametrize(
    "story",
    [
        Story().ask(0, "a").run(0, "a", 1),
        Story(policy=REJECT).ask(0, "x").run(0, "x", 9).ask(0, "a").answer(1, "a", TIMEOUT),
        Story().ask(0, "x").run(0, "x", 9).ask(0, "a", deadline=2)
        .answer(2, "a", deadline_exceeded()),
        Story().ask(0, "x").run(0, "x", 9).ask(1, "a").cancel(2, "a").answer(2, "a", cancelled()),
        # What was delayed goes after the live ones of its level, and before lower levels.
        Story(policy=DELAY, levels=2, max_batch=1)
        .ask(0, "x", level=1).run(0, "x", 2).ask(0.5, "old", level=1).ask(1.5, "new", level=1)
        .ask(0.5, "low", level=2).run(2, "new", 3).run(3, "old", 4).run(4, "low", 5),
        # An idle instance may let a request wait for company, as long as the delay allows.
        Story(delay=2.0).ask(0, "a").run(2, "a", 3),
        Story().ask(0, "a").run(0, "a", 1, failed="a"),
    ],
)  # fmt: skip
def test_a_run_that_keeps_its_promises_is_not_blamed(story: Story) -> None:
    assert story.complaints == []


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (Story().ask(0, "a").run(0, "a", 1, answers=False), "a got 0 final replies"),
        (Story().ask(0, "a").run(0, "a", 1).answer(1, "a"), "a got 2 final replies"),
        (
            Story().ask(0, "a").run(0, "a", 1).answer(1, "a", final=False),
            "a got a reply after the final one",
        ),
        (Story().ask(0, "a").answer(0, "a"), "a was answered and never executed"),
        (
            Story().ask(0, "a").run(0, "a", 1, failed="a", answers=False).answer(1, "a"),
            "a failed and was not told so",
        ),
        (
            Story().ask(0, "a").run(0, "a", 1, answers=False).answer(1, "a", internal("no")),
            "a was told at 1: Internal: no",
        ),
        (Story().ask(0, "a").answer(0, "a", cancelled()), "a was told at 0: Cancelled: "),
        (Story().ask(0, "a").answer(0, "a", deadline_exceeded()), "a was told at 0: Deadline"),
        (Story(policy=DELAY).ask(0, "a").answer(1, "a", TIMEOUT), "a was told at 1"),
        (Story().ask(0, "a").answer(0, "a", FULL), "a was told at 0"),
        (Story().ask(0, "a").answer(0, "a", STOPPED), "a was told at 0"),
        (
            Story(max_batch=1).ask(0, "a").ask(0, "b").run(0, "a b", 1),
            "('a', 'b') are 2 together, more than the maximum",
        ),
        (
            Story(is_dynamic=False).ask(0, "a").ask(0, "b").run(0, "a b", 1),
            "('a', 'b') were batched by the default scheduler",
        ),
        (
            Story().ask(0, "a", shape="X").ask(0, "b", shape="Y").run(0, "a b", 1),
            "('a', 'b') have different shapes",
        ),
        (Story().ask(0, "a").run(0, "a", 1, size=2), "('a',) are 1 together, not 2"),
        (
            Story().ask(0, "a").ask(0, "b").run(0, "a", 2).run(1, "b", 3),
            "m_0 began ('b',) while it ran ('a',)",
        ),
        (
            Story(specs=(InstanceSpec("m_0", "CPU", passive=True),)).ask(0, "a").run(0, "a", 1),
            "the passive instance m_0 was given ('a',)",
        ),
        (
            limited(Story(specs=SHARED)).ask(0, "a").ask(0, "b")
            .run(0, "a", 2).run(1, "b", 3, instance="m_1"),
            "4 of r are in use at 1, of 2",
        ),
        (
            Story(levels=2).ask(0, "x", level=1).run(0, "x", 3).ask(1, "low", level=2)
            .ask(2, "high", level=1).run(3, "low", 4).run(4, "high", 5),
            "low ran at 3 before high",
        ),
        (
            Story().ask(0, "x").run(0, "x", 3).ask(1, "a").ask(2, "b").run(3, "b", 4)
            .run(4, "a", 5),
            "b ran at 3 before a",
        ),
        (
            Story().ask(0, "x").run(0, "x", 3).ask(1, "a").ask(2, "b").run(3, "b a", 4),
            "('b', 'a') ran at 3 in another order than they stood in",
        ),
        (
            Story(preserve_ordering=True, specs=TWO).ask(0, "a").ask(1, "b")
            .run(0, "a", 3, answers=False).run(1, "b", 2, instance="m_1").answer(3, "a"),
            "b was answered before somebody who was dispatched earlier",
        ),
        (
            Story(preserve_ordering=True).ask(0, "a").ask(0, "b")
            .run(0, "a b", 1, answers=False).answer(1, "b").answer(1, "a"),
            "b was answered before somebody ahead of it in its batch",
        ),
        (
            Story().ask(0, "x").run(0, "x", 3).ask(0, "a", deadline=2).run(3, "a", 4),
            "a was executed at 3, its deadline was 2",
        ),
        (
            Story(policy=REJECT).ask(0, "x").run(0, "x", 3).ask(0, "a", timeout=0.5)
            .answer(0.75, "a", TIMEOUT),
            "a waited until 0.75, its timeout was 0.5",
        ),
        (
            Story().ask(0, "x").run(0, "x", 3).ask(0, "a").cancel(1, "a")
            .answer(2, "a", cancelled()),
            "a was cancelled at 1, left at 2",
        ),
        (
            Story(policy=QueuePolicySettings(max_queue_size=1)).ask(0, "x").run(0, "x", 3)
            .ask(1, "a").ask(2, "b").run(3, "a b", 4),
            "2 wait at level 0 of m at 2",
        ),
        (
            Story(specs=TWO).ask(0, "x").run(0, "x", 3).ask(1, "a").run(3, "a", 4),
            "a waited until 3, m_1 was idle from -inf on",
        ),
    ],
)  # fmt: skip
def test_a_broken_promise_is_named(story: Story, words: str) -> None:
    assert any(words in complaint for complaint in story.complaints), story.complaints


def counted(change: Callable[[VersionCounters], None]) -> list[str]:
    """What is said of statistics that differ from a run of two requests, one of which fails."""
    story = Story().ask(0, "a").ask(0, "b", batch=3).run(0, "a b", 1, size=4, failed="a")
    batch = BatchCounters()
    batch.compute_infer.add(1, 0)
    counters = VersionCounters(execution_count=1, inference_count=3, batches={4: batch})
    counters.success.add(1, 1_000_000_000)
    counters.fail.add(1, 1_000_000_000)
    counters.failures["BACKEND"] = 1
    change(counters)
    story.ledger.counters = {("m", 1): counters}
    return story.complaints


def test_statistics_that_add_up_are_not_blamed() -> None:
    assert counted(lambda _: None) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: setattr(one, "execution_count", 2), "executions 2 instead of 1"),
        (lambda one: setattr(one, "inference_count", 4), "inferences 4 instead of 3"),
        (lambda one: one.success.add(1, 0), "successes 2 instead of 1"),
        (lambda one: one.success.add(0, 500_000_000), "1500000000 ns of success, not 1"),
        (lambda one: one.fail.add(1, 0), "failures 2 instead of 1"),
        (lambda one: one.failures.update(BACKEND=0), "backend failures 0 instead of 1"),
        (lambda one: one.failures.update(CANCELED=1), "cancellations 1 instead of 0"),
        (lambda one: one.failures.update(REJECTED=1), "rejections 1 instead of 0"),
        (lambda one: one.batches.update({8: BatchCounters()}), "batches {4: 1, 8: 0} instead of"),
    ],
)
def test_statistics_that_do_not_are(change: Callable[[VersionCounters], None], words: str) -> None:
    assert any(words in complaint for complaint in counted(change)), counted(change)


def test_a_gauge_that_does_not_come_back_to_zero_is_named() -> None:
    story = Story().ask(0, "a").run(0, "a", 1)
    story.ledger.pending = {"m": 1}
    assert story.complaints == ["nothing is pending: 1 requests of m are said to be pending"]


def test_a_leap_of_the_clock_excuses_what_was_due_within_it() -> None:
    story = Story(policy=REJECT).ask(0, "x").run(0, "x", 9).ask(0, "a").answer(5, "a", TIMEOUT)
    assert story.complaints == ["instants are kept: a waited until 5, its timeout was 1.0"]
    story.ledger.leaps.append((0.5, 5.0))
    assert story.complaints == []


def test_a_model_waits_for_the_one_that_it_has_asked() -> None:
    story = Story(max_batch=1)
    order = story.ledger.next_order

    def ran(model: str, name: str) -> Ran:
        life = dataclasses.replace(story.life, model=model)
        ran = Ran(life, f"{model}_0", (f"{name} in {model}",), 1, 0.0, order())
        story.ledger.ran.append(ran)
        return ran

    story.ledger.callers["asked"] = "asking"
    outer, inner = ran("asking", "a"), ran("asked", "a")
    inner.ended_order, outer.ended_order = order(), order()
    assert list(callers_wait_for_what_they_asked(story.ledger)) == []

    outer.ended_order, inner.ended_order = inner.ended_order, outer.ended_order
    (complaint,) = callers_wait_for_what_they_asked(story.ledger)
    assert complaint.startswith("a in asked ran from 0.0 to ")
    assert complaint.endswith(", and asking did not wait")

    inner.names = ("b in asked",)
    inner.ended_order = outer.order
    assert len(list(callers_wait_for_what_they_asked(story.ledger))) == 1, "of nobody's request"


def test_an_error_in_the_log_fails_a_run_unless_it_was_expected() -> None:
    async def scenario(_: World) -> None:
        logging.getLogger("anybody").error("the %s is on fire", "rack")

    with pytest.raises(Violation, match="not expected: the rack is on fire"):
        World({"m": SimulatedModel(model_config(None))}).run(scenario)
    World({"m": SimulatedModel(model_config(None))}, expected_errors=("on fire",)).run(scenario)


def test_a_door_that_nobody_closes_fails_a_run() -> None:
    async def scenario(_: World) -> None:
        Mailbox().door(1)

    with pytest.raises(Violation, match=r"nothing is left: mailbox \d+ of \d+ has 1 open door"):
        World({"m": SimulatedModel(model_config(None))}).run(scenario)


def test_a_run_that_waits_for_ever_ends_and_says_who_has_no_answer() -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        client.ask("m", "forgotten")
        client.stall()

    with pytest.raises(Violation, match="the run got stuck"):
        World({"m": SimulatedModel(model_config(None))}).run(scenario)


def test_a_run_that_goes_round_in_circles_ends_too() -> None:
    async def scenario(_: World) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(Violation, match="the run got stuck"):
        World({"m": SimulatedModel(model_config(None))}).run(scenario)
