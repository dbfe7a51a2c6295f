"""Lets the faults of a plan happen, whatever the plan is about."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import trio

from simulation import faults
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS, FaultPlan
from simulation.world import World


async def until(tick: int) -> None:
    """A plan's instants are absolute; one that the clock leapt over is now."""
    await trio.sleep_until(tick * TICK_SECONDS)


async def strike(world: World, clients: Sequence[Client], fault: FaultPlan) -> None:
    """One fault, at its instant, for as long as it lasts; clients are victims by their place."""
    await until(fault.at)
    lasting = _begin(world, clients, fault)
    if lasting is not None:
        await lasting


def _begin(world: World, clients: Sequence[Client], fault: FaultPlan) -> Awaitable[None] | None:
    """Do it, or return what takes its time."""
    seconds = fault.ticks * TICK_SECONDS
    match fault.name:
        case "slow_instance":
            return faults.slow_instance(world, fault.victim, factor=4.0, seconds=seconds)
        case "instance_crash":
            faults.instance_crash(world, fault.victim)
        case "worker_loss":
            faults.worker_loss(world, fault.victim)
        case "client_vanishes":
            faults.client_vanishes(clients[int(fault.victim)])
        case "stalled_reader":
            return faults.stalled_reader(clients[int(fault.victim)], seconds=seconds)
        case "unload_in_flight":
            after = seconds if fault.ticks else None
            return faults.unload_in_flight(world, fault.victim, reload_after=after)
        case "reload_in_flight":
            return faults.reload_in_flight(world, fault.victim)
        case "clock_leap":
            return faults.clock_leap(world, seconds=seconds)
        case _:
            raise AssertionError(f"no fault is called {fault.name}")
    return None
