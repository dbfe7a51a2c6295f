"""What random worlds found, each as the shortest scenario that shows it.

Most of these are two things that happen in the same instant, in the unlucky order. Each test runs
under several seeds, since the seed decides the order.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from actors.street.local_calls import infer
from protocol.inference import InferResponse
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest, Outcome
from simulation.ledger import Asked
from simulation.world import SimulatedModel, World, zeros

IO = """
backend: "simulated" max_batch_size: 8 instance_group { kind: KIND_CPU }
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
CRASH = RuntimeError("the device fell off the bus")
CACHE = ServerOptions(model_repository=("simulated",), cache_config=("local,size=10000",))

every_order = pytest.mark.parametrize("seed", range(8))


def status(asked: Asked) -> StatusCode:
    """How a request failed."""
    assert asked.error is not None
    return asked.error.status


def echoes(request: ExecuteRequest) -> list[tuple[float, Outcome]]:
    """Three responses, a second apart."""
    asked = request.request
    response = InferResponse(asked.model_name, "1", asked.id, list(asked.inputs))
    return [(1.0, response)] * 3


@every_order
def test_a_request_cancelled_at_once_is_not_executed(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        client.ask("m", "first")
        await trio.testing.wait_all_tasks_blocked()
        regretted = client.ask("m", "regretted")
        client.cancel(regretted)
        await world.all_answered()
        assert status(regretted) is StatusCode.CANCELLED
        assert regretted.left_at == 0.0

    world = World({"m": SimulatedModel(IO, latency=lambda _: 1.0)})
    assert len(world.run(scenario, seed=seed).batches()) == 1


@every_order
def test_a_request_is_answered_that_comes_in_the_instant_of_a_crash(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        world.executors["m_0_0"].crash(CRASH)
        for number in range(3):
            client.ask("m", f"r{number}")
            await trio.lowlevel.checkpoint()
        await world.all_answered()

    models = {"m": SimulatedModel(IO, latency=lambda _: 1.0)}
    World(models, expected_errors=("crashed",)).run(scenario, seed=seed)


@every_order
def test_whoever_gives_up_at_a_full_door_does_not_get_in(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        client.ask("m", "first")
        await trio.testing.wait_all_tasks_blocked()
        inside, outside = client.ask("m", "inside"), client.ask("m", "outside")
        client.cancel(outside)  # before its task has had a turn
        await world.all_answered()
        assert inside.ran is not None
        assert outside.ran is None

    world = World({"m": SimulatedModel(IO, latency=lambda _: 1.0)}, submit_door=1)
    world.run(scenario, seed=seed)


def test_a_crash_answers_a_decoupled_caller_that_does_not_read() -> None:
    config = IO + "model_transaction_policy { decoupled: true }"

    async def scenario(world: World) -> None:
        client = world.client(window=1)
        asked = client.ask("m", "r")
        client.stall()
        await trio.sleep(2.5)
        world.executors["m_0_0"].crash(CRASH)
        await trio.testing.wait_all_tasks_blocked()
        client.resume()
        await world.all_answered()
        assert asked.error is not None
        assert asked.error.message == "model instance 'm_0_0' has ended"

    models = {"m": SimulatedModel(config, responses=echoes)}
    World(models, expected_errors=("crashed",)).run(scenario)


def test_the_last_response_waits_for_nobody_and_so_survives_a_crash() -> None:
    config = IO + "model_transaction_policy { decoupled: true }"

    async def scenario(world: World) -> None:
        client = world.client(window=3)
        asked = client.ask("m", "r")
        client.stall()
        await trio.sleep(3.5)
        assert asked.final is not None
        assert asked.final.at == 3.0
        world.executors["m_0_0"].crash(CRASH)
        client.resume()
        await world.all_answered()
        assert len(client.responses["r"]) == 3

    models = {"m": SimulatedModel(config, responses=echoes)}
    World(models, expected_errors=("crashed",)).run(scenario)


def test_a_crash_answers_everybody_behind_a_stalled_reader_in_a_preserved_order() -> None:
    config = IO + (
        "model_transaction_policy { decoupled: true } "
        "dynamic_batching { preserve_ordering: true preferred_batch_size: [ 1 ] }"
    )

    async def scenario(world: World) -> None:
        stalled, other = world.client("stalled", window=1), world.client("other")
        first = stalled.ask("m", "first")
        second = other.ask("m", "second")
        stalled.stall()
        await trio.sleep(6.5)
        world.executors["m_0_0"].crash(CRASH)
        await trio.testing.wait_all_tasks_blocked()
        stalled.resume()
        await world.all_answered()
        assert first.final is not None
        assert second.final is not None

    models = {"m": SimulatedModel(config, responses=echoes)}
    World(models, expected_errors=("crashed",)).run(scenario)


@every_order
def test_a_cached_request_cancelled_at_once_frees_its_place(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        leader = client.ask("m", "leader", content=1.0)
        await trio.testing.wait_all_tasks_blocked()
        follower = client.ask("m", "follower", content=1.0)
        client.cancel(follower)
        await world.all_answered()
        assert leader.error is None
        assert status(follower) is StatusCode.CANCELLED
        assert follower.left_at == 0.0

    models = {"m": SimulatedModel(IO + "response_cache { enable: true }", latency=lambda _: 1.0)}
    World(models, options=CACHE).run(scenario, seed=seed)


def test_followers_that_leave_are_counted_as_failures() -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        client.ask("m", "leader", content=1.0)
        await trio.testing.wait_all_tasks_blocked()
        client.ask("m", "late", content=1.0, deadline_at=0.5)
        regretted = client.ask("m", "regretted", content=1.0)
        await trio.sleep(0.25)
        client.cancel(regretted)
        await world.all_answered()
        counters = (await world.core.reader.read())["m", 1]
        assert counters.failures["REJECTED"] == 1
        assert counters.failures["CANCELED"] == 1
        assert counters.fail.count == 2

    models = {"m": SimulatedModel(IO + "response_cache { enable: true }", latency=lambda _: 1.0)}
    World(models, options=CACHE).run(scenario)


def test_a_cached_request_that_is_too_late_already_is_not_looked_up() -> None:
    async def scenario(world: World) -> None:
        await infer(world.core.calls, zeros("m", (1, 1)))
        with pytest.raises(ServerError) as caught:
            await infer(world.core.calls, zeros("m", (1, 1)), deadline_at=trio.current_time())
        assert caught.value.status is StatusCode.DEADLINE_EXCEEDED

    models = {"m": SimulatedModel(IO + "response_cache { enable: true }")}
    world = World(models, options=CACHE)
    world.ledger.outsiders = 1
    world.run(scenario)


def test_a_crash_reaches_every_follower_however_many_there_are() -> None:
    """They inherit the lead from one another, each at once, until nobody is left."""

    async def scenario(world: World) -> None:
        client = world.client(window=1000)
        for number in range(900):
            client.ask("m", f"r{number}", content=1.0)
            if number % 50 == 0:
                await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.5)
        world.executors["m_0_0"].crash(CRASH)
        await world.all_answered()

    models = {"m": SimulatedModel(IO + "response_cache { enable: true }", latency=lambda _: 1.0)}
    World(models, options=CACHE, expected_errors=("crashed",)).run(scenario)
