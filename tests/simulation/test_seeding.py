"""The promise everything in simulation rests on: a run is a function of its seed."""

from __future__ import annotations

import trio

from simulation.traces import Trace
from simulation.world import SimulatedModel, World

CONFIG = """
backend: "simulated" max_batch_size: 4
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { count: 2 kind: KIND_CPU }
"""


async def crowd(world: World) -> None:
    async def client(name: str) -> None:
        for turn in range(3):
            await world.infer("m", id=f"{name}{turn}")

    async with trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(client, name)


def run(seed: int) -> Trace:
    world = World({"m": SimulatedModel(CONFIG, latency=lambda _: 0.25)})
    return world.run(crowd, seed=seed)


def test_the_same_seed_gives_the_same_trace() -> None:
    assert run(7).events == run(7).events


def test_seeds_explore_different_interleavings() -> None:
    traces = {tuple(run(seed).events) for seed in range(10)}

    assert len(traces) >= 8
