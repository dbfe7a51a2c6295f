"""CVE-2025-23322 and CVE-2026-24266: a request given up at any moment is freed once, and only once.

Ten thousand requests are cancelled at ten thousand moments between submission and answer, before a
scheduler that batches, queues and executes. The world itself looks for what is left behind.
"""

from __future__ import annotations

import trio
import trio.testing

from actors.street.local_calls import open_call
from simulation.world import SimulatedModel, World, zeros

CANCELLATIONS = 10_000
AT_ONCE = 50
CONFIG = """
    backend: "simulated" max_batch_size: 4
    input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
    output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
    dynamic_batching { max_queue_delay_microseconds: 250000 }
"""


def test_cve_2025_23322_ten_thousand_requests_are_cancelled_at_every_state() -> None:
    answered = 0

    async def give_up(world: World, number: int) -> None:
        nonlocal answered
        world.ledger.outsiders += 1
        with trio.move_on_after((number % 97) / 64):
            async with open_call(world.core.calls, zeros("m", (1, 1))) as call:
                assert await call.next() is not None
                answered += 1

    async def scenario(world: World) -> None:
        for first in range(0, CANCELLATIONS, AT_ONCE):
            async with trio.open_nursery() as nursery:
                for number in range(first, first + AT_ONCE):
                    nursery.start_soon(give_up, world, number)
        await trio.testing.wait_all_tasks_blocked()
        serving = world.core.index.value.find("m", "")
        assert serving.pending() == 0
        assert (await world.infer("m")).model_name == "m"

    World({"m": SimulatedModel(CONFIG, latency=lambda _: 0.25)}).run(scenario, seed=1)

    assert 0 < answered < CANCELLATIONS
