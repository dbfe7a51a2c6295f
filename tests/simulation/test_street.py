"""The whole street in virtual time: batching, back-pressure, shutdown, cancellation."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from actors import version_wiring
from actors.channels import Door, Mailbox
from actors.messages import Reply
from actors.street.calls import DOOR_PATIENCE_SECONDS
from actors.turns import current_turns
from protocol.status import ServerError, StatusCode
from simulation.world import SimulatedModel, World, zeros

IO = """
backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
PLAIN = IO + "max_batch_size: 8"
DYNAMIC = PLAIN + " dynamic_batching { max_queue_delay_microseconds: 250000 }"


def model(config: str, seconds: float = 1.0) -> SimulatedModel:
    return SimulatedModel(config, latency=lambda _: seconds)


async def infer_quietly(world: World, failures: list[ServerError], **what: object) -> None:
    try:
        await world.infer("m", **what)  # type: ignore[arg-type]  # passed through by tests
    except ServerError as error:
        failures.append(error)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def test_a_lone_request_waits_for_the_queue_delay() -> None:
    async def scenario(world: World) -> None:
        await world.infer("m")

    trace = World({"m": model(DYNAMIC)}).run(scenario)

    assert trace.batches() == [(0.25, 1)]


def test_requests_that_come_together_are_batched() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(world.infer, "m")

    trace = World({"m": model(DYNAMIC)}).run(scenario)

    assert trace.batches() == [(0.25, 5)]


def test_a_full_batch_does_not_wait() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(world.infer, "m")

    trace = World({"m": model(DYNAMIC)}).run(scenario)

    assert trace.batches() == [(0.0, 8)]


def test_a_batch_handed_over_ahead_of_time_waits_until_the_one_before_has_ended() -> None:
    pending: list[int] = []
    counted: list[dict[str, int]] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(world.infer, "m")
            await settle()
            (serving,) = world.core.index.value.serving()
            pending.append(serving.pending())
        answer = await world.core.control_plane.model_statistics("m", "")
        row = cast("Any", answer)["model_stats"][0]["inference_stats"]
        counted.append({name: row[name]["ns"] for name in ("queue", "success")})

    one = SimulatedModel(PLAIN, latency=lambda _: 1.0, depth=8)
    World({"m": one}).run(scenario)

    assert pending == [2]
    # The second waits for a second, the third for two; each is executed for one.
    assert counted == [{"queue": 3_000_000_000, "success": 6_000_000_000}]


def test_the_default_scheduler_never_batches() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(world.infer, "m")

    trace = World({"m": model(PLAIN + " instance_group { count: 2 kind: KIND_CPU }")}).run(scenario)

    assert trace.batches() == [(0.0, 1), (0.0, 1), (1.0, 1)]


def test_a_refusal_for_want_of_room_is_told_to_whoever_reads() -> None:
    limited = PLAIN + " dynamic_batching { default_queue_policy { max_queue_size: 8 } }"
    failures: list[ServerError] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(18):  # one executes at once, alone or not; eight are queued
                nursery.start_soon(infer_quietly, world, failures)
            await trio.testing.wait_all_tasks_blocked()
            assert 0 < len(failures) < 18
            assert current_turns().refused == len(failures)

    World({"m": model(limited)}).run(scenario)


def test_a_full_door_makes_the_caller_wait_and_then_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 2)
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 2)
    failures: list[ServerError] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):  # one executes, two are queued, two stand in the door
                nursery.start_soon(infer_quietly, world, failures)
                await settle()
            before = trio.current_time()
            await infer_quietly(world, failures)
            assert trio.current_time() - before == DOOR_PATIENCE_SECONDS
            assert [failure.status for failure in failures] == [StatusCode.UNAVAILABLE]
            assert failures[0].message == "[request id: <id_unknown>] Exceeds maximum queue size"

    trace = World({"m": model(PLAIN, seconds=64.0)}).run(scenario)

    assert len(trace.batches()) == 5
    assert len(failures) == 1


def test_a_caller_at_a_full_door_gets_in_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)
    failures: list[ServerError] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(infer_quietly, world, failures)

    trace = World({"m": model(PLAIN)}).run(scenario)

    assert [seconds for seconds, _ in trace.batches()] == [0, 1, 2, 3, 4, 5]
    assert not failures


def test_shutdown_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    failures: list[ServerError] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(infer_quietly, world, failures)
            await settle()
            serving = world.core.index.value.find("m", "")
            world.core.repository.drain()
            await settle()
            assert not failures
            mailbox = Mailbox()
            replies: Door[Reply] = mailbox.door(1)
            late = world.core.calls.prepare(serving, zeros("m", (1, 1)), replies)
            late.door.send_nowait(late.submit)
            await settle()
            (reply,) = replies.drain()
            assert isinstance(reply.outcome, ServerError)
            assert "has stopped accepting new inference requests" in reply.outcome.message
            mailbox.close()

    trace = World({"m": model(PLAIN)}).run(scenario)

    assert [seconds for seconds, _ in trace.batches()] == [0, 1, 2]
    assert not failures


def test_a_cancelled_caller_frees_its_place_at_once() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("m", id="first"))
            await settle()
            nursery.start_soon(lambda: world.infer("m", id="last"))
            with trio.move_on_after(0.5):
                await world.infer("m", id="cancelled")

    trace = World({"m": model(PLAIN)}).run(scenario)

    assert [event.detail for event in trace.of("execute")] == ["first", "last"]


def test_a_deadline_in_the_queue_fires_at_its_instant() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.infer, "m")
            await settle()
            with pytest.raises(ServerError) as caught:
                await world.infer("m", deadline_at=trio.current_time() + 0.5)
            assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
            assert trio.current_time() == 0.5

    World({"m": model(PLAIN)}).run(scenario)


def test_a_crashed_instance_answers_everyone_and_other_models_live_on() -> None:
    failures: list[ServerError] = []

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(infer_quietly, world, failures)
            await trio.sleep(0.5)
            world.executors["m_0"].crash(RuntimeError("the device fell off the bus"))
        assert len(failures) == 3
        await trio.testing.wait_all_tasks_blocked()  # callers hear of it before the index does
        assert not await world.core.control_plane.is_ready()
        row = world.core.control_plane.index_rows(ready_only=False)[0]
        assert row["state"] == "UNAVAILABLE"
        assert "the device fell off the bus" in str(row["reason"])
        await world.infer("other")

    models = {"m": model(PLAIN), "other": model(PLAIN)}
    World(models, expected_errors=("model 'm' version 1 crashed",)).run(scenario)


def test_whoever_asks_after_its_answer_finds_itself_counted() -> None:
    async def scenario(world: World) -> None:
        await world.infer("m", batch=4)
        statistics = await world.core.control_plane.model_statistics("m", "")
        (row,) = cast("list[Any]", statistics["model_stats"])
        assert row["inference_count"] == 4
        assert row["execution_count"] == 1
        assert row["inference_stats"]["success"] == {"count": 1, "ns": 1_000_000_000}
        assert [batch["batch_size"] for batch in row["batch_stats"]] == [4]

    World({"m": model(PLAIN)}).run(scenario)
