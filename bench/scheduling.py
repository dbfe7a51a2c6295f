"""What a request costs on the street inside the server, in microseconds of CPU time.

Run `python -m bench.scheduling`. The production wiring, from admission to the reply in its
caller's mailbox, around an instance that does nothing; no socket, no codec, no thread. "Alone" is
one request at a time; "in eights" is eight that come together and run as one batch.

A hop is the cheapest thing that two tasks can do with each other: one puts a message into a
channel, the other wakes up and takes it. Machines and their neighbours differ; the number of hops
that a request is worth differs little.

The last rows queue that many requests over 8 priority levels with mixed timeouts, deadlines and
cancellations, behind an instance that is busy, and then work the queue off: the cost of a request
must not grow with their number. Time stands still meanwhile, except where the clock is set.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio
import trio.testing

from actors.channels import Door, Mailbox
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply
from actors.processes.lending import InstanceServices
from actors.settings.options import ServerOptions
from actors.street.calls import Calls, cancel, submit_nowait
from actors.street.executor import Done, TaskExecutor
from actors.turns import Turns, current_turns
from actors.wiring import Ports, wire_core
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from simulation.source import SimulatedSource

REQUESTS = 16_000  # per measurement; a multiple of 8
HOPS = 50_000
REPEATS = 5
LEVELS = 8
BACKLOGS = (1_000, 10_000, 100_000)

IO = """
backend: "simulated" max_batch_size: 16
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 16 ] }
output { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 16 ] }
instance_group { count: 1 kind: KIND_CPU }
"""
DEFAULT = IO
DYNAMIC = IO + "dynamic_batching { }"
EIGHTS = IO + "dynamic_batching { preferred_batch_size: [ 8 ] }"


def levelled() -> str:
    """8 levels that reject and delay in turn, after a second, or sooner where a request asks."""
    policies = "\n".join(
        f"priority_queue_policy {{ key: {level} value {{ "
        f"timeout_action: {'DELAY' if level % 2 else 'REJECT'} "
        "default_timeout_microseconds: 1000000 allow_timeout_override: true } }"
        for level in range(1, LEVELS + 1)
    )
    return IO + (
        f"dynamic_batching {{ preferred_batch_size: [ 8, 16 ] priority_levels: {LEVELS} "
        f"default_priority_level: {LEVELS} {policies} }}"
    )


class Noop(TaskExecutor):
    """An instance that answers at once, or as soon as it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self._outputs = [Tensor.from_array("OUTPUT", np.zeros((1, 16), np.float32))]

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        if self.gate.is_set():
            done(self._answers(requests))
        else:
            super().begin(requests, timings, done)

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        await self.gate.wait()
        return self._answers(requests)

    def _answers(self, requests: Sequence[ExecuteRequest]) -> Sequence[Outcome | None]:
        return [InferResponse("m", "1", one.request.id, self._outputs) for one in requests]


def source(config: str) -> SimulatedSource:
    """A repository of one model."""

    def describe(name: str) -> ModelDescription:
        files = ModelFiles(Path(name), subdirectories=("1",))
        parsed = parse_config(config, f"{name}/config.pbtxt")
        return prepare(parsed, files, devices=DeviceTable(), complete=None)

    return SimulatedSource(describe, ["m"])


class WallClock:
    """Dates do not matter here."""

    def now_ms(self) -> int:
        return 0


@dataclass(frozen=True)
class Street:
    """A caller's view of the server: where requests go in, and one mailbox for all replies."""

    calls: Calls
    serving: ServingVersion
    instance: Noop
    mailbox: Mailbox
    replies: Door[Reply]
    turns: Turns

    def ask(self, request: InferRequest, deadline_at: float = float("inf")) -> int:
        """Submit one request and return its number."""
        ticketed = self.calls.prepare(self.serving, request, self.replies, deadline_at=deadline_at)
        submit_nowait(ticketed)
        return ticketed.submit.number

    def ask_together(self, asked: Sequence[InferRequest]) -> None:
        """Submit what a connection's reader finds in one read."""
        self.turns.hold()
        for request in asked:
            self.ask(request)
        self.turns.settle()

    async def answers(self, count: int) -> None:
        """Wait for so many replies."""
        while count:
            await self.mailbox.wait()
            for _ in self.replies.drain():
                count -= 1


Life = Callable[[Street], Awaitable[float]]
"""Something to do on a street; returns the CPU seconds that counted."""


def on_street(config: str, live: Life, clock: trio.abc.Clock | None = None) -> float:
    """Run a server, do it, and drain the server."""

    async def main() -> float:
        instances: list[Noop] = []

        def make_executor(_: InstanceContext, __: InstanceServices) -> Noop:
            instances.append(Noop())
            return instances[-1]

        ports = Ports(source=source(config), make_executor=make_executor, wall_clock=WallClock())
        core = wire_core(ServerOptions(), ports, server_version="bench")
        async with trio.open_nursery() as nursery:
            await nursery.start(core.run)
            mailbox = Mailbox()
            serving = core.index.value.find("m", "")
            street = Street(
                core.calls, serving, instances[0], mailbox, mailbox.door(256), current_turns()
            )
            spent = await live(street)
            mailbox.close()
            core.repository.drain()
        return spent

    gc.collect()
    gc.disable()
    try:
        return trio.run(main, clock=clock)
    finally:
        gc.enable()


def requests(count: int) -> list[InferRequest]:
    """Requests that share a tensor, as far as admission lets them."""
    tensor = Tensor.from_array("INPUT", np.zeros((1, 16), np.float32))
    return [InferRequest("m", id="r", inputs=[tensor]) for _ in range(count)]


def bare_hop() -> float:
    """CPU seconds of one message from task to task."""

    async def main() -> float:
        there, here = trio.open_memory_channel[int](1), trio.open_memory_channel[int](1)

        async def echo() -> None:
            async for number in there[1]:
                here[0].send_nowait(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            began = time.process_time()
            for number in range(HOPS // 2):
                there[0].send_nowait(number)
                await here[1].receive()
            spent = time.process_time() - began
            there[0].close()
        return spent / HOPS

    return trio.run(main)


async def alone(street: Street) -> float:
    asked = requests(REQUESTS)
    began = time.process_time()
    for request in asked:
        street.ask_together((request,))
        await street.answers(1)
    return (time.process_time() - began) / REQUESTS


async def in_eights(street: Street) -> float:
    asked = requests(REQUESTS)
    began = time.process_time()
    for start in range(0, REQUESTS, 8):
        street.ask_together(asked[start : start + 8])
        await street.answers(8)
    return (time.process_time() - began) / REQUESTS


def backlog(count: int) -> float:
    """CPU seconds per request of a queue that grows to `count` and is worked off."""
    clock = trio.testing.MockClock()

    async def live(street: Street) -> float:
        asked = requests(count)
        for number, request in enumerate(asked):
            request.priority = 1 + number * 7 % LEVELS
            request.timeout_us = (0, 250_000, 500_000, 2_000_000)[number % 4]
        street.instance.gate = trio.Event()
        regretted: list[int] = []
        began = time.process_time()
        for number, request in enumerate(asked):
            deadline_at = 0.75 if number % 5 == 0 else float("inf")
            submitted = street.ask(request, deadline_at)
            if number % 9 == 0:
                regretted.append(submitted)
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()
        for number in regretted:
            cancel(street.serving, number)
        for _ in range(4):
            clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked()
        street.instance.gate.set()
        await street.answers(count)
        return (time.process_time() - began) / count

    return on_street(levelled(), live, clock)


def best(measure: Callable[[], float], repeats: int = REPEATS) -> float:
    return min(measure() for _ in range(repeats)) * 1e6


def report() -> None:
    hop = best(bare_hop)
    print(f"{'':<44}{'us':>8}{'hops':>8}")
    print(f"{'a bare hop from task to task':<44}{hop:8.2f}{1.0:8.2f}")
    rows: list[tuple[str, Callable[[], float]]] = [
        ("default scheduler, alone", lambda: on_street(DEFAULT, alone)),
        ("dynamic batcher, alone", lambda: on_street(DYNAMIC, alone)),
        ("dynamic batcher, in eights", lambda: on_street(EIGHTS, in_eights)),
    ]
    for name, measure in rows:
        spent = best(measure)
        print(f"{name:<44}{spent:8.2f}{spent / hop:8.2f}")
    for count in BACKLOGS:
        spent = best(lambda: backlog(count), repeats=3)  # noqa: B023  # called at once
        name = f"{LEVELS} levels, {count} waiting"
        print(f"{name:<44}{spent:8.2f}{spent / hop:8.2f}")


def profile(name: str) -> None:
    """Where the time goes, by cProfile, which makes small functions look dear."""
    config, live = {"alone": (DYNAMIC, alone), "eights": (EIGHTS, in_eights)}[name]
    profiler = cProfile.Profile()
    profiler.enable()
    on_street(config, live)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduling", description=__doc__)
    parser.add_argument("--profile", choices=("alone", "eights"))
    options = parser.parse_args()
    if options.profile:
        profile(options.profile)
    else:
        report()


if __name__ == "__main__":
    main()
