"""Where Troupe is better than Triton on purpose: each test answers a public thread, which it cites.

All of them run the whole server in virtual time, where "at once" can be told from "soon".
"""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from actors.street.explanation import explanation
from actors.street.local_calls import open_call
from protocol.inference import InferResponse, ParameterValue
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest, Outcome
from repo.model_config import BatchingSettings, QueuePolicySettings
from simulation.executor import echo
from simulation.world import SimulatedModel, World, zeros
from tests.simulation.ensemble_worlds import CHAIN, FAN, MEMBER, producer
from tests.simulation.rig import SEEDS, Schedule, model_config, seconds

LONG = 90_000  # an execution of the thread about timeouts, in milliseconds
EXPLAINED = {"troupe_batch_size", "troupe_queue_wait_us", "troupe_closed_by"}

every_order = pytest.mark.parametrize("seed", SEEDS)


def one_by_one(**policy: object) -> BatchingSettings:
    """A dynamic batcher that never batches, with this queue policy."""
    return BatchingSettings(1, (1,), default_policy=QueuePolicySettings(**policy))  # type: ignore[arg-type]  # of the fields' types


# --- a timeout fires at its time, not when the model is next free --------------------------------


@every_order
def test_a_timeout_fires_at_its_time_while_the_model_is_busy(seed: int) -> None:
    """https://github.com/triton-inference-server/server/issues/7512

    There a request with a timeout of 10 s waits 90 s behind another one before it hears of it.
    """
    settings = one_by_one(timeout_action="REJECT", default_timeout_seconds=10_000)
    schedule = Schedule(model_config(settings), duration=LONG)
    schedule.send(0, "A").send(1_000, "B").play(seed)

    assert schedule.answered == {"A": LONG, "B": 11_000}
    assert schedule.asked["B"].error is not None
    assert schedule.asked["B"].error.message == "Request timeout expired"


@every_order
def test_a_request_that_is_executed_in_time_is_not_refused(seed: int) -> None:
    """https://github.com/triton-inference-server/server/issues/5348

    There requests seem to be dropped before their timeout; here each that can begin in time does.
    """
    settings = one_by_one(timeout_action="REJECT", default_timeout_seconds=200)
    schedule = Schedule(model_config(settings), duration=100)
    for number in range(4):
        schedule.send(0, f"r{number}")
    schedule.play(seed)

    assert [at for at, _ in schedule.batches] == [0, 100]
    assert {at for at, _, _ in schedule.refused} == {200}, "the instant itself is too late"


# --- a queue limit is never exceeded nor undershot -----------------------------------------------


@every_order
@pytest.mark.parametrize("gap", [0, 1])
def test_a_queue_limit_is_exact_whether_requests_come_at_once_or_one_by_one(
    seed: int, gap: float
) -> None:
    """https://github.com/triton-inference-server/server/issues/5783 and
    https://github.com/triton-inference-server/server/issues/6796

    There `max_queue_size` does not always take effect when requests follow each other closely. Here
    one executes, as many as the limit says wait, and every further one is refused.
    """
    limit, asked = 3, 8
    schedule = Schedule(model_config(one_by_one(max_queue_size=limit)), duration=2_000)
    for number in range(asked):
        schedule.send(number * gap, f"r{number}")
    schedule.play(seed)

    served = [f"r{number}" for number in range(1 + limit)]
    assert [names for _, names in schedule.batches] == served
    refused = [f"r{number}" for number in range(1 + limit, asked)]
    assert [(at, name) for at, name, _ in schedule.refused] == [
        (int(name[1:]) * gap, name) for name in refused
    ]


@every_order
def test_what_left_the_queue_makes_room_for_as_many(seed: int) -> None:
    """https://github.com/triton-inference-server/server/issues/6796

    The other half of the promise: no request is refused while fewer wait than may.
    """
    settings = one_by_one(
        max_queue_size=2, timeout_action="REJECT", default_timeout_seconds=500,
        allow_timeout_override=True,
    )  # fmt: skip
    schedule = Schedule(model_config(settings), duration=2_000)
    schedule.send(0, "running").send(1, "cancelled").send(1, "expires", timeout=9)
    schedule.send(2, "too many")
    schedule.cancel(5, "cancelled").send(5, "second")
    schedule.send(10, "third")  # at the instant at which the other one expires
    schedule.play(seed)

    assert [(at, name) for at, name, cause in schedule.refused if cause.value == "queue full"] == [
        (2, "too many")
    ]


# --- priority and timeout survive every hop ------------------------------------------------------


LEVELS = """ dynamic_batching {
  priority_levels: 2 default_priority_level: 2 preferred_batch_size: 1
  default_queue_policy { default_timeout_microseconds: 9000000 allow_timeout_override: true }
}"""


class Hops:
    """Models that note the priority and the timeout with which each request reaches them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, request: ExecuteRequest) -> Outcome:
        asked = request.request
        self.seen.append((asked.model_name, asked.priority, asked.timeout_us))
        return echo(request)

    def models(self, *, first: float, second: float) -> dict[str, SimulatedModel]:
        """The ensemble `e` of `a` and then `b`, which has levels and takes one at a time."""
        config = MEMBER.replace("size: 8", "size: 1") + LEVELS
        return {
            "e": SimulatedModel(CHAIN.replace("size: 8", "size: 1")),
            "a": SimulatedModel(MEMBER, latency=lambda _: first, behaviour=self),
            "b": SimulatedModel(config, latency=lambda _: second, behaviour=self),
        }


@every_order
def test_the_priority_of_a_request_reaches_every_member_of_an_ensemble(seed: int) -> None:
    """https://github.com/triton-inference-server/server/issues/6055

    There a member behind the first step of an ensemble does not see the priority.
    """
    hops = Hops()

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("b", id="busy"))  # until 1.0
            await trio.testing.wait_all_tasks_blocked()
            for name in ("low1", "low2"):
                nursery.start_soon(partial(world.infer, "e", id=name, priority=2))
            await trio.sleep(0.5)
            nursery.start_soon(partial(world.infer, "e", id="high", priority=1))
        order = [event.detail for event in world.trace.of("execute") if event.who.startswith("b_")]
        assert order[:2] == ["busy", "high"]
        assert {seen for seen in hops.seen if seen[1] == 1} == {("a", 1, 0), ("b", 1, 0)}

    World(hops.models(first=0.0, second=1.0)).run(scenario, seed=seed)


@every_order
def test_the_timeout_of_a_request_counts_in_every_member_of_an_ensemble(seed: int) -> None:
    """https://github.com/triton-inference-server/server/pull/2789

    There it was once decided that a request's timeout has no effect on members, then otherwise.
    Here it strikes at its instant in the queue of a member, and the error says in which ensemble.
    """
    hops = Hops()

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("b"))  # until 4.0
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ServerError) as caught:
                await world.infer("e", timeout_us=500_000)
            assert caught.value.message == "in ensemble 'e', Request timeout expired"
            assert trio.current_time() == 0.25 + 0.5
        assert ("a", 0, 500_000) in hops.seen

    World(hops.models(first=0.25, second=4.0)).run(scenario, seed=seed)


# --- a request cancelled or past its deadline frees its place at once ----------------------------


@pytest.mark.parametrize("batching", [None, BatchingSettings(8, (8,))])
@every_order
def test_a_cancelled_request_frees_its_place_at_once(
    seed: int, batching: BatchingSettings | None
) -> None:
    """https://github.com/triton-inference-server/server/issues/4618 and
    https://github.com/triton-inference-server/server/issues/4818

    There a request cannot be cancelled once it is in the queue. Here it leaves at that instant,
    from every scheduler's queue, and is never executed.
    """
    schedule = Schedule(model_config(batching), duration=1_000)
    schedule.send(0, "running", 8).send(1, "regretted").cancel(2, "regretted").play(seed)

    assert schedule.answered == {"running": 1_000, "regretted": 2}
    assert [names for _, names in schedule.batches] == ["running"]
    assert schedule.counters.failures["CANCELED"] == 1


@pytest.mark.parametrize("batching", [None, BatchingSettings(8, (8,))])
@every_order
def test_a_request_past_its_deadline_frees_its_place_at_once(
    seed: int, batching: BatchingSettings | None
) -> None:
    """https://github.com/triton-inference-server/server/issues/6920

    There it is asked whether a request is still executed whose gRPC deadline has passed; a timeout,
    goes the answer, needs a dynamic batcher. Here the caller's deadline holds in every queue.
    """
    schedule = Schedule(model_config(batching), duration=1_000)
    schedule.send(0, "running", 8).send(1, "late", deadline=300).play(seed)

    assert schedule.answered == {"running": 1_000, "late": 300}
    assert schedule.asked["late"].error is not None
    assert schedule.asked["late"].error.status is StatusCode.DEADLINE_EXCEEDED
    assert [names for _, names in schedule.batches] == ["running"]


def test_the_place_of_a_cancelled_request_is_somebody_else_s_at_once() -> None:
    """https://github.com/triton-inference-server/server/issues/4618

    A queue of one: who comes at the instant of the cancellation is let in.
    """
    schedule = Schedule(model_config(one_by_one(max_queue_size=1)), duration=1_000)
    schedule.send(0, "running").send(1, "regretted")
    schedule.cancel(2, "regretted").send(2, "next").play()

    assert [names for _, names in schedule.batches] == ["running", "next"]


# --- every response can say why it waited --------------------------------------------------------


def explained(response: InferResponse) -> dict[str, ParameterValue]:
    return {name: response.parameters[name] for name in EXPLAINED}


def test_a_response_says_how_long_it_waited_and_for_what() -> None:
    """https://github.com/triton-inference-server/server/issues/5252

    There somebody wants to know the timing of one request from metadata of its own, since metrics
    give sums only. A request that asks is told by its response.
    """
    schedule = Schedule(
        model_config(BatchingSettings(4, (4,), max_queue_delay_seconds=100)), duration=10
    )
    for name, at in (("a", 0), ("b", 5), ("lone", 500)):
        schedule.send(at, name, 2 if name != "lone" else 1)
    schedule.play()

    told = {name: explained(found[0]) for name, found in schedule.client.responses.items()}
    assert told == {
        "a": explanation(4, seconds(5), "preferred"),
        "b": explanation(4, 0.0, "preferred"),
        "lone": explanation(1, seconds(100), "delay"),
    }


def test_responses_of_decoupled_models_ensembles_and_the_cache_say_it_too() -> None:
    """https://github.com/triton-inference-server/server/issues/2467

    There a client tries to find the time of its one request as a difference of sums, which the
    requests of others spoil. No kind of response is without its own account here.
    """
    cached = ServerOptions(model_repository=("simulated",), cache_config=("local,size=10000",))

    async def scenario(world: World) -> None:
        for name in ("e", "fan", "source", "cached", "cached"):
            world.ledger.outsiders += 1
            request = zeros(name, (1, 1))
            request.parameters["troupe_explain"] = True
            responses = []
            async with open_call(world.core.calls, request) as call:
                while (response := await call.next()) is not None:
                    responses.append(response)
            assert responses
            found.setdefault(name, []).extend(dict(one.parameters) for one in responses)

    found: dict[str, list[dict[str, ParameterValue]]] = {}
    waits = MEMBER + " dynamic_batching { max_queue_delay_microseconds: 250000 }"
    models = {
        "e": SimulatedModel(CHAIN),
        "a": SimulatedModel(waits),
        "b": SimulatedModel(waits),
        "fan": SimulatedModel(FAN),
        "source": producer(2),
        "cached": SimulatedModel(MEMBER + " response_cache { enable: true }"),
    }
    World(models, options=cached).run(scenario)

    assert found["e"] == [
        {
            "troupe_queue_wait_us": 500_000,
            "troupe_queue_wait_us.a": 250_000,
            "troupe_queue_wait_us.b": 250_000,
            "troupe_closed_by.a": "delay",
            "troupe_closed_by.b": "delay",
            "troupe_batch_size.a": 1,
            "troupe_batch_size.b": 1,
        }
    ]
    assert [one["troupe_closed_by"] for one in found["source"]] == ["single"] * 2
    assert [one["troupe_closed_by.source"] for one in found["fan"]] == ["single"] * 2
    assert [one["troupe_queue_wait_us.b"] for one in found["fan"]] == [250_000] * 2
    assert [one["troupe_closed_by"] for one in found["cached"]] == ["single", "cache"]
