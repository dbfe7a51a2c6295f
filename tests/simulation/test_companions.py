"""What stands beside the street when a model asks for it: order, limits, strategies, warm-up."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from protocol.status import ServerError, invalid_arg
from simulation.world import SimulatedModel, World, zeros

IO = """
backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
LIMITED = ServerOptions(model_repository=("simulated",), rate_limit="execution_count")


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def test_preserved_order_holds_back_the_faster_batch() -> None:
    config = IO + (
        "max_batch_size: 2 instance_group { count: 2 kind: KIND_CPU } "
        "dynamic_batching { preserve_ordering: true }"
    )
    answered: list[tuple[float, str]] = []

    async def scenario(world: World) -> None:
        async def ask(name: str, batch: int) -> None:
            await world.infer("m", id=name, batch=batch)
            answered.append((trio.current_time(), name))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "slow", 2)
            await settle()
            nursery.start_soon(ask, "fast", 1)

    # Two elements take 4 s, one takes 1 s: unordered, "fast" would be answered first.
    World({"m": SimulatedModel(config, latency=lambda size: 4.0 if size == 2 else 1.0)}).run(
        scenario
    )

    assert sorted(answered) == [(4.0, "fast"), (4.0, "slow")]


def limited(resource: str, count: int, priority: int = 1) -> str:
    return IO + (
        f"max_batch_size: 0 instance_group {{ kind: KIND_CPU rate_limiter {{ "
        f'resources {{ name: "{resource}" count: {count} }} priority: {priority} }} }}'
    )


def test_models_that_share_a_resource_take_turns_by_priority() -> None:
    async def scenario(world: World) -> None:
        async def crowd(model: str) -> None:
            while trio.current_time() < 12.0:
                await world.infer(model, dims=(), batch=1)

        async with trio.open_nursery() as nursery:
            for model in ("a", "b"):
                for _ in range(4):
                    nursery.start_soon(crowd, model)

    world = World(
        {
            "a": SimulatedModel(limited("r", 4, 1), latency=lambda _: 0.5),
            "b": SimulatedModel(limited("r", 2, 2), latency=lambda _: 0.5),
        },
        options=LIMITED,
    )
    trace = world.run(scenario)

    runs = [event.who for event in trace.of("execute") if event.at_us < 12_000_000]
    starts = [event.at_us for event in trace.of("execute")]
    assert len(starts) == len(set(starts)), "they never execute at the same time"
    assert runs.count("a_0") == 2 * runs.count("b_0")


def test_resources_that_can_never_be_had_fail_the_load() -> None:
    options = ServerOptions(
        model_repository=("simulated",),
        rate_limit="execution_count",
        rate_limit_resource=("r:3",),
        exit_on_error=False,
    )

    async def scenario(world: World) -> None:
        (row,) = world.core.control_plane.index_rows(ready_only=False)
        assert "limited to 3" in str(row["reason"])
        assert "the minimum required count is 4" in str(row["reason"])

    models = {"a": SimulatedModel(limited("r", 4))}
    World(models, options=options, expected_errors=("limited to 3",)).run(scenario)


def test_a_request_can_ask_why_it_waited() -> None:
    async def scenario(world: World) -> None:
        request = zeros("m", (3, 1))
        request.parameters["troupe_explain"] = True
        response = await world.ask(request)
        assert response.parameters == {
            "troupe_batch_size": 3,
            "troupe_queue_wait_us": 250_000,
            "troupe_closed_by": "delay",
        }
        assert (await world.infer("m")).parameters == {}

    config = IO + "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 250000 }"
    World({"m": SimulatedModel(config)}).run(scenario)


def test_a_passive_instance_is_loaded_and_never_executes() -> None:
    config = IO + (
        "max_batch_size: 0 instance_group [ { kind: KIND_CPU }, { kind: KIND_CPU passive: true } ]"
    )

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: world.infer("m", batch=1, dims=()))

    world = World({"m": SimulatedModel(config, latency=lambda _: 1.0)})
    trace = world.run(scenario)

    assert {event.who for event in trace.of("execute")} == {"m_0_0"}
    assert [event.at_us for event in trace.of("execute")] == [0, 1_000_000, 2_000_000]
    assert "m_1_0" in world.executors


WARM = IO + (
    'max_batch_size: 8 model_warmup { name: "w" batch_size: 4 count: 2 '
    'inputs { key: "INPUT" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } }'
)


def test_a_warm_up_is_one_batch_before_the_model_serves() -> None:
    async def scenario(world: World) -> None:
        assert world.trace.batches() == [(0.0, 4), (1.0, 4)]
        await world.infer("m")

    trace = World({"m": SimulatedModel(WARM, latency=lambda _: 1.0)}).run(scenario)

    assert trace.batches()[2:] == [(2.0, 1)]


def test_a_warm_up_that_fails_fails_the_load() -> None:
    def broken(_: object) -> ServerError:
        return invalid_arg("no such weights")

    async def scenario(world: World) -> None:
        (row,) = world.core.control_plane.index_rows(ready_only=False)
        assert "failed to run warmup sample 'w': no such weights; " in str(row["reason"])

    options = ServerOptions(model_repository=("simulated",), exit_on_error=False)
    models = {"m": SimulatedModel(WARM, behaviour=broken)}
    World(models, options=options, expected_errors=("no such weights",)).run(scenario)


STRATEGY = """
def model_batcher_initialize(config):
    return []

def model_batcher_finalize(batcher):
    pass

def model_batch_initialize(batcher):
    return {"elements": 0}

def model_batch_include_request(request, batch):
    batch["elements"] += request.inputs[0].element_count
    return batch["elements"] <= 3

def model_batch_finalize(batch):
    pass
"""


def test_a_model_s_own_strategy_closes_batches_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "batchstrategy.py").write_text(STRATEGY)
    config = IO + "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 250000 }"

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(world.infer, "m")

    trace = World({"m": SimulatedModel(config, latency=lambda _: 1.0)}).run(scenario)

    assert [size for _, size in trace.batches()] == [3, 3, 2]
