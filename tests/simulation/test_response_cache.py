"""The response cache before the scheduler, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import trio
import trio.testing

from actors import version_wiring
from actors.companions.response_cache import ResponseCacheActor
from actors.settings.options import ServerOptions
from protocol.inference import InferResponse
from protocol.status import ServerError, StatusCode, invalid_arg
from simulation.world import SimulatedModel, World

CONFIG = """
backend: "simulated" max_batch_size: 8
input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
response_cache { enable: true }
"""
CACHE = ServerOptions(model_repository=("simulated",), cache_config=("local,size=10000",))


def world(
    model: SimulatedModel | None = None,
    options: ServerOptions = CACHE,
    expected_errors: tuple[str, ...] = (),
) -> World:
    models = {"m": model or SimulatedModel(CONFIG, latency=lambda _: 1.0)}
    return World(models, options=options, expected_errors=expected_errors)


async def statistics(world: World) -> dict[str, dict[str, int]]:
    answer = await world.core.control_plane.model_statistics("m", "")
    (row,) = cast("list[Any]", answer["model_stats"])
    counts: dict[str, dict[str, int]] = row["inference_stats"] | {
        "executions": {"count": row["execution_count"], "ns": 0},
        "inferences": {"count": row["inference_count"], "ns": 0},
    }
    return counts


def test_71_the_second_of_two_equal_requests_is_answered_at_once() -> None:
    async def scenario(world: World) -> None:
        first = await world.infer("m", id="first")
        second = await world.infer("m", id="second")

        assert trio.current_time() == 1.0
        assert (first.id, second.id) == ("first", "second")
        assert second.outputs[0].shape == (1, 1)
        counts = await statistics(world)
        assert counts["success"]["count"] == 2
        assert counts["cache_hit"]["count"] == 1
        assert counts["cache_miss"]["count"] == 1
        assert counts["executions"]["count"] == 1
        assert counts["inferences"]["count"] == 1
        assert counts["queue"]["count"] == 2
        assert counts["compute_infer"]["count"] == 1

    world().run(scenario)


def test_equal_bytes_of_another_shape_are_another_request() -> None:
    async def scenario(world: World) -> None:
        await world.infer("m", batch=1, dims=(4,))
        response = await world.infer("m", batch=2, dims=(2,))
        assert response.outputs[0].shape == (2, 2)

    trace = world().run(scenario)

    assert [size for _, size in trace.batches()] == [1, 2]


def test_identical_requests_in_flight_are_executed_once() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(world.infer, "m")
        assert trio.current_time() == 1.0
        counts = await statistics(world)
        assert counts["success"]["count"] == 5
        assert counts["cache_hit"]["count"] == 4

    trace = world().run(scenario)

    assert len(trace.batches()) == 1


def test_a_failure_is_never_stored_and_the_next_in_line_tries() -> None:
    outcomes: list[ServerError | None] = [invalid_arg("out of luck"), None]

    def behave(_: object) -> InferResponse | ServerError:
        return outcomes.pop(0) or InferResponse("m", "1")

    async def scenario(world: World) -> None:
        failures: list[str] = []

        async def ask() -> None:
            try:
                await world.infer("m")
            except ServerError as error:
                failures.append(error.message)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert failures == ["out of luck"]
        assert trio.current_time() == 2.0

    world(SimulatedModel(CONFIG, latency=lambda _: 1.0, behaviour=behave)).run(scenario)


def test_a_follower_keeps_its_deadline_and_its_right_to_leave() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.infer, "m")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.25):
                await world.infer("m")
            assert trio.current_time() == 0.25
            with pytest.raises(ServerError) as caught:
                await world.infer("m", deadline_at=0.5)
            assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
            assert trio.current_time() == 0.5

    world().run(scenario)


def test_a_cancelled_leader_leaves_the_work_to_its_follower() -> None:
    config = CONFIG.replace("response_cache", "instance_group { kind: KIND_CPU } response_cache")

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("m", batch=2))  # keeps the instance busy
            await trio.testing.wait_all_tasks_blocked()
            leader = trio.CancelScope()

            async def lead() -> None:
                with leader:
                    await world.infer("m", id="leader")

            nursery.start_soon(lead)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: world.infer("m", id="follower"))
            await trio.testing.wait_all_tasks_blocked()
            leader.cancel()

    trace = world(SimulatedModel(config, latency=lambda _: 1.0)).run(scenario)

    assert [event.detail for event in trace.of("execute")] == ["", "follower"]


def test_a_full_scheduler_is_waited_for_and_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)
    turns = 0
    turn = ResponseCacheActor._turn

    def counted(actor: ResponseCacheActor, now: float) -> None:
        nonlocal turns
        turns += 1
        turn(actor, now)

    monkeypatch.setattr(ResponseCacheActor, "_turn", counted)

    async def scenario(world: World) -> None:
        client = world.client()
        # One executes, one is queued, one stands in the scheduler's door and the rest before it.
        asked = [client.ask("m", f"r{number}", content=float(number)) for number in range(6)]
        await trio.testing.wait_all_tasks_blocked()
        client.cancel(asked[3])
        await trio.testing.wait_all_tasks_blocked()
        await world.all_answered()
        errors = [one.error.status for one in asked if one.error is not None]
        assert errors == [StatusCode.CANCELLED]
        assert trio.current_time() == 5 * 1.0
        counters = (await world.core.reader.read())["m", 1]
        assert counters.failures["CANCELED"] == 1

    world().run(scenario)
    assert turns < 40


def test_72_a_response_larger_than_the_cache_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ServerOptions(model_repository=("simulated",), cache_config=("local,size=200",))

    async def scenario(world: World) -> None:
        for _ in range(2):
            await world.infer("m", dims=(100,))
        counts = await statistics(world)
        assert (counts["cache_miss"]["count"], counts["cache_hit"]["count"]) == (2, 0)

    world(options=options, expected_errors=("Failed to insert key",)).run(scenario)

    assert "Failed to insert key" in caplog.text
    assert "is greater than total cache size: 200" in caplog.text


def test_without_a_cache_the_model_s_wish_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        await world.infer("m")
        await world.infer("m")

    trace = world(options=ServerOptions(model_repository=("simulated",))).run(scenario)

    assert len(trace.batches()) == 2


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("model_transaction_policy { decoupled: true }", "'decoupled' transaction policy"),
        ("sequence_batching { }", "sequence batching scheduler"),
    ],
)
def test_73_a_model_that_cannot_be_cached_does_not_load(more: str, what: str) -> None:
    options = replace(CACHE, exit_on_error=False)

    async def scenario(world: World) -> None:
        (row,) = world.core.control_plane.index_rows(ready_only=False)
        assert f"Response Cache does not currently support model m with {what}." in str(
            row["reason"]
        )

    model = SimulatedModel(f"{CONFIG} {more}")
    world(model, options=options, expected_errors=("Poll failed",)).run(scenario)
