"""What the metrics page says of queues, mailboxes and phases, in Troupe's own families."""

from __future__ import annotations

import pytest
import trio

from actors.channels import Door
from actors.mailboxes import ActorName, MailboxRegister
from actors.settings.metrics_settings import MetricsSettings
from actors.settings.options import ServerOptions
from simulation.world import World, zeros
from tests.actors.grpc_rig import model
from tests.actors.test_latencies import options, page, samples

LEVELS = """
backend: "simulated" max_batch_size: 1
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
dynamic_batching { priority_levels: 2 default_priority_level: 2 }
"""


def test_a_mailbox_that_was_closed_is_forgotten() -> None:
    register = MailboxRegister()
    first, second = register.open("scheduler", ("m", 1)), register.open("statistics")
    door: Door[int] = first.door(4)
    other: Door[int] = first.door(4, patience=2)
    for target in (door, door, other):
        target.send_nowait(7)
    assert register.depths() == {ActorName("scheduler", "m", 1): 3, ActorName("statistics"): 0}
    assert door.head == 7
    first.close()
    assert [name for name, _ in register] == [ActorName("statistics")]
    register.open("statistics")
    assert register._named[0][1] is second, "nothing is kept of what was closed"
    assert len(register._named) == 2
    assert str(ActorName("scheduler", "m", 1)) == "scheduler m/1"
    assert str(ActorName("statistics")) == "statistics"


def test_two_generations_of_an_actor_count_together() -> None:
    register = MailboxRegister()
    for count in (1, 2):
        door: Door[int] = register.open("scheduler", ("m", 1)).door(4)
        for _ in range(count):
            door.send_nowait(0)
    assert register.depths() == {ActorName("scheduler", "m", 1): 3}


def test_queues_are_told_by_level() -> None:
    chosen = ServerOptions(model_repository=("simulated",), allow_cpu_metrics=False)

    async def ask(world: World, priority: int) -> None:
        await world.ask(zeros("m", (1, 1), priority=priority))

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world, 1)
            await trio.sleep(0.25)
            for _ in range(2):
                nursery.start_soon(ask, world, 0)
            await trio.sleep(0.5)
            lines = await page(world, chosen)
        mark = 'model="m",version="1"'
        assert samples(lines, "troupe_queue_depth") == [
            f'troupe_queue_depth{{level="1",{mark}}} 0',
            f'troupe_queue_depth{{level="2",{mark}}} 2',
        ]
        assert samples(lines, "troupe_queue_oldest_age_seconds") == [
            f'troupe_queue_oldest_age_seconds{{level="1",{mark}}} 0',
            f'troupe_queue_oldest_age_seconds{{level="2",{mark}}} 0.5',
        ]
        assert f'troupe_mailbox_depth{{actor="scheduler",{mark}}} 0' in lines
        assert 'troupe_mailbox_depth{actor="statistics"} 0' in lines
        assert f"nv_inference_pending_request_count{{{mark}}} 2" in lines

    World({"m": model(LEVELS, seconds=1.0)}, options=chosen).run(scenario)


def test_phases_have_histograms_for_whoever_asks() -> None:
    assert MetricsSettings.parse(["phase_histograms=true"]).phase_histograms
    chosen = options("phase_histograms=true")

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.infer, "m")
        lines = await page(world, chosen)
        family = "troupe_phase_duration_seconds"
        for phase, total in (("request", "1.5"), ("queue", "0.5"), ("compute_infer", "1")):
            mark = f'model="m",phase="{phase}",version="1"'
            assert f"{family}_count{{{mark}}} 2" in lines
            assert f"{family}_sum{{{mark}}} {total}" in lines
        mark = 'model="m",phase="compute_infer",version="1"'
        assert f'{family}_bucket{{{mark},le="0.25"}} 0' in lines
        assert f'{family}_bucket{{{mark},le="0.5"}} 2' in lines
        assert not [line for line in lines if "_summary_" in line or "_histogram_ms" in line]

    World({"m": model(seconds=0.5)}, options=chosen).run(scenario)


@pytest.mark.parametrize("setting", ["phase_histograms", "histogram_latencies"])
def test_what_nobody_asks_for_is_not_kept(setting: str) -> None:
    assert not MetricsSettings().times_executions
    assert MetricsSettings.parse([f"{setting}=true"]).times_executions
