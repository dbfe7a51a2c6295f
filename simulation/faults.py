"""Named faults: what goes wrong in simulated worlds, each as one function.

A fault happens at the instant of its call. It tells the ledger only what checkers must know to
judge the rest: that a version was told to end, or that the clock leapt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from actors.policy.lifecycle import OUT_OF_DATE
from protocol.status import ServerError

if TYPE_CHECKING:
    from simulation.clients import Client
    from simulation.world import World


async def slow_instance(world: World, instance: str, *, factor: float, seconds: float) -> None:
    """An instance takes `factor` times as long for a while: another tenant of its device."""
    world.trace.add("slow", instance)
    executor = world.executors[instance]
    executor.slowness = factor
    await trio.sleep(seconds)
    executor.slowness = 1.0


def instance_crash(world: World, instance: str) -> None:
    """Our own code around an instance fails: the model version ends, other models live on.

    The log line that reports it has to be expected: "crashed".
    """
    world.executors[instance].crash(RuntimeError("the device fell off the bus"))


def worker_loss(world: World, instance: str) -> None:
    """A worker process is killed: its batch fails, and the instance goes on with a new one."""
    world.executors[instance].lose_worker()


def client_vanishes(client: Client) -> None:
    """A client is gone in the middle of everything."""
    client.vanish()


async def stalled_reader(client: Client, *, seconds: float) -> None:
    """A client does not read for a while; its window fills."""
    client.stall()
    await trio.sleep(seconds)
    client.resume()


async def unload_in_flight(world: World, model: str, *, reload_after: float | None) -> None:
    """A model is unloaded under load, and perhaps loaded again while the old one still drains.

    Needs `--model-control-mode=explicit`.
    """
    control_plane = world.core.control_plane
    world.trace.add("unload", model)
    world.ledger.life_of(model).end_now()
    await control_plane.unload_model("", model, unload_dependents=False)
    if reload_after is None:
        return
    await trio.sleep(reload_after)
    world.trace.add("load", model)
    world.ledger.life_of(model).end_now()  # somebody else may have loaded it meanwhile
    await _load(world, model)


async def reload_in_flight(world: World, model: str) -> None:
    """A model is loaded anew while it serves: the new version takes over, the old one drains.

    Needs `--model-control-mode=explicit`.
    """
    world.trace.add("reload", model)
    world.source.touch(model)
    world.ledger.life_of(model).end_now()
    await _load(world, model)


async def _load(world: World, model: str) -> None:
    """Load a model, unless another fault unloads it before that has begun."""
    try:
        await world.core.control_plane.load_model("", model, {})
    except ServerError as error:
        if error.message != OUT_OF_DATE:
            world.ledger.problems.append(f"{model} was not loaded again: {error}")


async def clock_leap(world: World, *, seconds: float) -> None:
    """The process was suspended: everything that was due meanwhile is due at once."""
    # Between two instants, never within one: the ledger holds an instant against everybody in it.
    await trio.testing.wait_all_tasks_blocked()
    world.trace.add("leap", "clock", 0, f"{seconds} s")
    before = trio.current_time()
    world.clock.jump(seconds)
    world.ledger.leaps.append((before, trio.current_time()))
