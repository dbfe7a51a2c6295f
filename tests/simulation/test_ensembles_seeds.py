"""Ensembles under many orders of events: crowds, impatience, and members that change."""

from __future__ import annotations

from random import Random  # only the type; the world makes the one

import pytest
import trio

from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, Outcome
from simulation.world import SimulatedModel, World
from tests.simulation.ensemble_worlds import (
    DECOUPLED,
    DIAMOND,
    EXPLICIT,
    FAN,
    MEMBER,
    asking,
    numbered,
    stream,
)

SEEDS = range(6)
CALLERS = 24
RELOADS = 6


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_is_answered_whatever_the_order(seed: int) -> None:
    limited = FAN.replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 2")
    answered: list[int] = []

    def responses(request: ExecuteRequest) -> list[tuple[float, Outcome]]:
        return [(0.125, numbered(request, n)) for n in range(request.number % 7)]

    async def ask(world: World, number: int, random: Random) -> None:
        await trio.sleep(random.randrange(32) / 8)
        patience = random.choice([0.25, 1.0, 1000.0])
        with trio.move_on_after(patience):
            try:
                if number % 2:
                    found, _ = await stream(world, asking("fan", id=str(number)))
                    assert found == [float(n) for n in range(len(found))]
                else:
                    wanted = random.choice([(), ("LEFT",), ("RIGHT",)])
                    await world.ask(asking("diamond", *wanted, id=str(number)))
            except ServerError:
                pass  # a member had gone, or gave up: the books are what is checked
        answered.append(number)

    async def reload(world: World, random: Random) -> None:
        control = world.core.control_plane
        for _ in range(RELOADS):
            await trio.sleep(random.randrange(8) / 8)
            name = random.choice(["a", "b", "c", "source", "fan"])
            if random.random() < 0.5:
                await control.unload_model("", name, unload_dependents=False)
            world.source.touch(name)
            await control.load_model("", name, {})

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload, world, world.random)
            for number in range(CALLERS):
                nursery.start_soon(ask, world, number, world.random)
        assert sorted(answered) == list(range(CALLERS))
        assert (await world.infer("diamond")).outputs

    models = {
        "diamond": SimulatedModel(DIAMOND),
        "fan": SimulatedModel(limited),
        "source": SimulatedModel(DECOUPLED, responses=responses),
        "a": SimulatedModel(MEMBER + " dynamic_batching { }", latency=lambda size: size / 8),
        "b": SimulatedModel(MEMBER, latency=lambda _: 0.25),
        "c": SimulatedModel(MEMBER + " dynamic_batching { }", latency=lambda _: 0.5),
    }
    World(models, options=EXPLICIT, submit_door=2).run(scenario, seed=seed)
