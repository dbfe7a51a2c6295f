"""Cases 27 to 40 of scheduling: the dynamic batcher, by way of the whole server.

Times are milliseconds. Unless a test says otherwise the model prefers batches of 2 and 6, takes at
most 8, delays for 10,000 and has one instance, whose executions take no time. The worked timelines,
cases 10 to 26, are in test_timelines.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import trio
import trio.testing

from actors.messages import Drain, Submit
from actors.policy.batching import DynamicBatcher, RefusalCause, Refuse
from actors.policy.queueing import Ticket
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, Outcome
from repo.model_config import BatchingSettings, QueuePolicySettings
from simulation.drawing import TICK_SECONDS
from simulation.ledger import Asked
from simulation.world import SimulatedModel, World
from tests.simulation.rig import SEEDS, Schedule, model_config, us

USUAL = BatchingSettings(8, (2, 6), max_queue_delay_seconds=10_000)
ALONE = BatchingSettings(1, (1,))
LEVELS = replace(ALONE, priority_levels=2, default_priority_level=2)


def usual() -> Schedule:
    return Schedule(model_config(USUAL))


@pytest.mark.parametrize(
    ("size", "at", "closed_by"),
    [(1, 10_000, "delay"), (3, 10_000, "delay"), (7, 0, "full"), (2, 0, "preferred")],
)
def test_27_a_lone_request_runs_at_once_only_at_a_preferred_size_or_above_all(
    size: int, at: float, closed_by: str
) -> None:
    schedule = usual().send(0, "a", size).play()
    assert schedule.sizes == [(at, size)]
    assert schedule.answered == {"a": at}
    assert schedule.closed_by("a") == closed_by
    assert schedule.client.responses["a"][0].parameters["troupe_queue_wait_us"] == us(at)


def test_28_preferred_sizes_run_at_once_each() -> None:
    schedule = usual().send(0, "a", 2).send(5, "b", 6).play()
    assert schedule.sizes == [(0, 2), (5, 6)]
    assert schedule.batch_stats == {2: 1, 6: 1}
    assert schedule.counters.inference_count == 8


def test_29_the_delay_counts_from_the_oldest_request() -> None:
    schedule = usual().send(0, "a", 1).send(2000, "b", 3).play()
    assert schedule.batches == [(10_000, "a b")]
    assert schedule.batch_stats == {4: 1}


def test_30_another_shape_closes_the_batch_and_starts_the_next() -> None:
    schedule = usual().send(0, "a", shape="X").send(1000, "b", shape="Y").play()
    assert schedule.batches == [(1000, "a"), (11_000, "b")]
    assert schedule.batch_stats == {1: 2}


def test_30_ragged_inputs_of_different_shapes_share_a_batch() -> None:
    schedule = Schedule(model_config(USUAL, input_more="allow_ragged_batch: true"))
    schedule.send(0, "a", shape="X").send(1000, "b", shape="Y").play()
    assert schedule.batches == [(1000, "a b")]
    assert schedule.batch_stats == {2: 1}


@pytest.mark.parametrize(("count", "sizes"), [(6, [(0, 6)]), (3, [(0, 2), (10_000, 1)])])
def test_31_what_comes_at_once_reaches_the_largest_preferred_size(
    count: int, sizes: list[tuple[float, int]]
) -> None:
    schedule = usual()
    for number in range(count):
        schedule.send(0, f"r{number}")
    assert schedule.play().sizes == sizes


def test_32_late_requests_leave_together_up_to_the_maximum() -> None:
    """Once the oldest has waited for the whole delay, preferred sizes no longer matter."""
    limited = replace(USUAL, default_policy=QueuePolicySettings(max_queue_size=100))
    schedule = Schedule(model_config(limited), duration=20_000).send(0, "x", 8)
    schedule.send(1, "a", 3).send(2, "b", 4).send(3, "c", 1).play()
    assert schedule.sizes == [(0, 8), (20_000, 8)]
    assert schedule.batch_stats == {8: 2}


def test_33_requests_with_different_optional_inputs_never_share_a_batch() -> None:
    batching = replace(USUAL, max_queue_delay_seconds=5000)
    config = model_config(batching).replace('"INPUT"', '"INPUT0"') + (
        ' input { name: "INPUT1" data_type: TYPE_FP32 dims: [ -1 ] optional: true }'
    )
    config = config.replace("dims: [ -1 ]  }", "dims: [ -1 ] optional: true }")

    async def scenario(world: World) -> None:
        client = world.client()
        for turn in range(4):
            await trio.sleep_until(500 * turn * TICK_SECONDS)
            tensor = Tensor.from_array(f"INPUT{turn % 2}", np.zeros((1, 1), np.float32))
            asked = Asked(f"r{turn}", "client", "m", trio.current_time(), turn + 1)
            client.send(asked, InferRequest("m", id=f"r{turn}", inputs=[tensor]))
        await world.all_answered()

    def behaviour(request: ExecuteRequest) -> Outcome:
        return InferResponse("m", "1", request.request.id)

    world = World({"m": SimulatedModel(config, behaviour=behaviour)})
    world.run(scenario)
    seen = [(ran.at / TICK_SECONDS, *ran.names) for ran in world.ledger.ran]
    assert seen == [(500, "r0"), (1000, "r1"), (1500, "r2"), (6500, "r3")]


@pytest.mark.parametrize("seed", SEEDS)
def test_34_preserved_order_withholds_what_overtook(seed: int) -> None:
    batching = BatchingSettings(2, (2,), preserve_ordering=True)
    durations = iter([1000.0, 10.0, 10.0])
    schedule = Schedule(
        model_config(batching, instances=2),
        latency=lambda _: next(durations) * TICK_SECONDS,
    )
    schedule.send(0, "a").send(0, "b").send(1, "c").send(1, "d").send(20, "e", 2).play(seed)
    assert schedule.batches == [(0, "a b"), (1, "c d"), (20, "e")]
    assert schedule.answered == dict.fromkeys("abcde", 1000)
    order = sorted(schedule.asked.values(), key=lambda one: one.answers[0].order)
    assert [one.name for one in order] == list("abcde")


def test_34_who_was_refused_in_the_queue_is_not_held_back() -> None:
    policy = QueuePolicySettings("REJECT", 50)
    batching = BatchingSettings(1, (1,), preserve_ordering=True, default_policy=policy)
    schedule = Schedule(model_config(batching), duration=1000).send(0, "a").send(1, "b").play()
    assert schedule.answered == {"a": 1000, "b": 51}


def test_35_an_unknown_priority_is_the_default_and_a_higher_one_jumps_the_queue() -> None:
    schedule = Schedule(model_config(LEVELS), duration=10)
    schedule.send(0, "started", level=2).send(1, "a", level=2).send(2, "seven", level=7)
    schedule.send(3, "zero", level=0).send(4, "urgent", level=1).play()
    assert schedule.batches == [
        (0, "started"),
        (10, "urgent"),
        (20, "a"),
        (30, "seven"),
        (40, "zero"),
    ]


def test_36_a_limit_on_one_level_does_not_refuse_at_another() -> None:
    levels = replace(LEVELS, level_policies={1: QueuePolicySettings(max_queue_size=1)})
    schedule = Schedule(model_config(levels), duration=100).send(0, "x", level=2)
    schedule.send(1, "a", level=1).send(2, "b", level=1).send(3, "c", level=2)
    schedule.send(4, "d", level=2).play()
    assert schedule.refused == [(2, "b", RefusalCause.QUEUE_FULL)]
    assert schedule.batches == [(0, "x"), (100, "a"), (200, "c"), (300, "d")]


def test_36_a_refusal_at_the_door_of_a_full_queue_counts_nowhere() -> None:
    policy = QueuePolicySettings(max_queue_size=1)
    schedule = Schedule(model_config(replace(ALONE, default_policy=policy)), duration=100)
    schedule.send(0, "x").send(1, "a").send(2, "b").play()
    error = schedule.asked["b"].error
    assert error is not None
    assert error.message == "[request id: b] Exceeds maximum queue size"
    assert schedule.counters.fail.count == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_36_callers_refuse_what_comes_to_a_full_queue_until_one_leaves_it(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    asked_the_queue: list[str] = []
    submit = DynamicBatcher.submit

    def noted(policy: DynamicBatcher, ticket: Ticket, now: float) -> Refuse | None:
        asked_the_queue.append(cast("Submit", ticket.work).request.id)
        return submit(policy, ticket, now)

    monkeypatch.setattr(DynamicBatcher, "submit", noted)
    levels = replace(LEVELS, level_policies={1: QueuePolicySettings(max_queue_size=1)})
    schedule = Schedule(model_config(levels), duration=100).send(0, "x", level=2)
    schedule.send(1, "a", level=1).send(2, "b", level=1).send(3, "c", level=1)
    schedule.send(4, "other", level=2).send(5, "d", level=1)
    schedule.cancel(6, "a").send(7, "e", level=1).send(8, "f", level=1).send(9, "g", level=1)
    schedule.send(101, "h", level=1).play(seed)

    full = RefusalCause.QUEUE_FULL
    assert schedule.refused == [
        *((2, "b", full), (3, "c", full), (5, "d", full)),
        *((6, "a", RefusalCause.CANCELLED), (8, "f", full), (9, "g", full)),
    ]
    assert schedule.batches == [(0, "x"), (100, "e"), (200, "h"), (300, "other")]
    assert asked_the_queue == ["x", "a", "b", "other", "e", "f", "h"]
    assert schedule.counters.failures["REJECTED"] == 0


def test_37_an_override_needs_a_default_timeout_to_shorten() -> None:
    policy = QueuePolicySettings(allow_timeout_override=True)
    schedule = Schedule(model_config(replace(ALONE, default_policy=policy)), duration=50)
    schedule.send(0, "x").send(1, "a", timeout=1).play()
    assert schedule.refused == []


def test_38_a_request_that_is_cancelled_in_the_queue_is_never_executed() -> None:
    schedule = Schedule(model_config(ALONE), duration=50)
    schedule.send(0, "x").send(1, "a").cancel(20, "a").play()
    assert schedule.refused == [(20, "a", RefusalCause.CANCELLED)]
    error = schedule.asked["a"].error
    assert error is not None
    assert error.message == ""
    assert schedule.counters.failures["CANCELED"] == 1
    assert schedule.counters.execution_count == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_39_a_model_that_ends_completes_what_it_has_and_takes_nothing_more(seed: int) -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        before = [client.ask("m", name) for name in "abc"]
        await trio.testing.wait_all_tasks_blocked()
        world.ledger.life_of("m").end_now()
        world.core.index.value.find("m", "").control.send_nowait(Drain())
        await trio.testing.wait_all_tasks_blocked()
        late = client.ask("m", "late")  # whoever looked the model up a moment ago
        await world.all_answered()
        assert [one.error for one in before] == [None] * 3
        assert late.error is not None
        assert late.error.message == (
            "[request id: late] Server is stopping, scheduler for model has stopped accepting new "
            "inference requests"
        )

    models = {"m": SimulatedModel(model_config(ALONE), latency=lambda _: 1.0)}
    World(models).run(scenario, seed=seed)


VOLUME = """
LIMIT = 96

def model_batcher_initialize(config):
    return None

def model_batcher_finalize(batcher):
    pass

def model_batch_initialize(batcher):
    return {"bytes": 0}

def model_batch_include_request(request, batch):
    size = sum(tensor.byte_size for tensor in request.inputs)
    if batch["bytes"] + size > LIMIT:
        return False
    batch["bytes"] += size
    return True

def model_batch_finalize(batch):
    pass
"""


def test_40_a_custom_strategy_bounds_the_volume_of_a_batch(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "batchstrategy.py").write_text(VOLUME)
    batching = BatchingSettings(16, (16,), max_queue_delay_seconds=10)

    async def scenario(world: World) -> None:
        client = world.client()
        for number in range(12):
            client.ask("m", f"r{number}", dims=(8,))
        await world.all_answered()

    model = SimulatedModel(model_config(batching), directory=tmp_path / "m")
    trace = World({"m": model}).run(scenario)
    assert [size for _, size in trace.batches()] == [3, 3, 3, 3]
