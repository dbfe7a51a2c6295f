"""What random worlds found, each as the shortest scenario that shows it.

Most of these are two things that happen in the same instant, in the unlucky order. Each test runs
under several seeds, since the seed decides the order.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.options import ServerOptions
from protocol.inference import InferResponse
from protocol.status import StatusCode
from repo.backends.base import ExecuteRequest, Outcome
from simulation.ledger import Asked
from simulation.world import SimulatedModel, World

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
