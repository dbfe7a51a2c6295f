"""Ensembles on the whole street, in virtual time: what runs, what is counted, what is cancelled."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode, invalid_arg
from repo.backends.base import ExecuteRequest, Outcome
from simulation.executor import echo
from simulation.world import SimulatedModel, World, zeros
from tests.simulation.ensemble_worlds import (
    BATCHES,
    CHAIN,
    DIAMOND,
    IO,
    MEMBER,
    asking,
    counts,
    ensemble,
    member,
    numbered,
    refusal,
    run,
    step,
)

# --- what runs -----------------------------------------------------------------------------------


def test_a_chain_hands_its_tensors_on_by_reference() -> None:
    seen: list[Tensor] = []

    def look(request: ExecuteRequest) -> Outcome:
        seen.extend(request.request.inputs)
        return echo(request)

    async def scenario(world: World) -> None:
        request = zeros("e", (3, 1), id="mine")
        response = await world.ask(request)
        assert trio.current_time() == 0.75
        assert (response.model_name, response.model_version, response.id) == ("e", "1", "mine")
        (output,) = response.outputs
        assert (output.name, output.shape) == ("OUTPUT", (3, 1))
        assert output.array is request.inputs[0].array
        assert all(tensor.array is output.array for tensor in seen)

    models = {
        "e": SimulatedModel(CHAIN),
        "a": SimulatedModel(MEMBER, latency=lambda _: 0.25, behaviour=look),
        "b": SimulatedModel(MEMBER, latency=lambda _: 0.5, behaviour=look),
    }
    world = run(models, scenario)
    assert [(event.who, event.detail) for event in world.trace.of("execute")] == [
        ("a_0_0", "mine"),
        ("b_0_0", "mine"),
    ]


def test_branches_run_at_the_same_time() -> None:
    async def scenario(world: World) -> None:
        response = await world.infer("e")
        assert {tensor.name for tensor in response.outputs} == {"LEFT", "RIGHT"}
        assert trio.current_time() == 1.25

    models = {"e": SimulatedModel(DIAMOND), "a": member(0.25), "b": member(1.0), "c": member(0.5)}
    run(models, scenario)


def test_67_a_step_that_nobody_needs_is_not_executed() -> None:

    async def scenario(world: World) -> None:
        response = await world.ask(asking("e", "LEFT"))
        assert [tensor.name for tensor in response.outputs] == ["LEFT"]
        assert (await counts(world, "b"))["executions"] == 1
        assert (await counts(world, "c"))["executions"] == 0

    run({"e": SimulatedModel(DIAMOND), "a": member(), "b": member(), "c": member()}, scenario)


def test_70_what_a_member_leaves_out_is_left_out() -> None:
    config = ensemble(
        'step { model_name: "a" model_version: -1 input_map { key: "INPUT" value: "INPUT" } '
        'output_map { key: "OUTPUT0" value: "OUTPUT0" } '
        'output_map { key: "OUTPUT1" value: "OUTPUT1" } }',
        outputs=("OUTPUT0", "OUTPUT1"),
    )
    two = BATCHES + (
        ' backend: "simulated" input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] } '
        'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] } '
        'output { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 1 ] }'
    )

    def forget_one(request: ExecuteRequest) -> Outcome:
        return InferResponse("a", "1", "", [request.request.inputs[0].renamed("OUTPUT0")])

    async def scenario(world: World) -> None:
        response = await world.infer("e")
        assert [tensor.name for tensor in response.outputs] == ["OUTPUT0"]
        assert (await counts(world, "e"))["success"] == 1

    run({"e": SimulatedModel(config), "a": SimulatedModel(two, behaviour=forget_one)}, scenario)


def test_an_optional_input_that_is_absent_is_left_out_of_the_step() -> None:
    optional = IO.replace("dims: [ 1 ] }", "dims: [ 1 ] optional: true }", 1) + BATCHES
    config = CHAIN.replace("dims: [ 1 ] }", "dims: [ 1 ] optional: true }", 1)

    def answer(request: ExecuteRequest) -> Outcome:
        assert request.request.inputs == []
        return numbered(request, 7)

    async def scenario(world: World) -> None:
        response = await world.ask(InferRequest("e"))
        assert response.outputs[0].array.item() == 7

    models = {
        "e": SimulatedModel(config),
        "a": SimulatedModel(optional, behaviour=answer),
        "b": member(),
    }
    run(models, scenario)


def test_members_with_and_without_batches_understand_each_other() -> None:
    shapes: list[tuple[int, ...]] = []

    def look(request: ExecuteRequest) -> Outcome:
        shapes.extend(tensor.shape for tensor in request.request.inputs)
        return echo(request)

    async def scenario(world: World) -> None:
        response = await world.infer("e")
        assert response.outputs[0].shape == (1, 1)
        assert shapes == [(1,), (1, 1)]
        error = await refusal(world, zeros("e", (2, 1)))
        assert error.message.startswith("in ensemble 'e', ")
        assert "unexpected shape for input 'INPUT' for model 'a'. Expected [1], got [2,1]" in (
            error.message
        )

    models = {
        "e": SimulatedModel(CHAIN),
        "a": SimulatedModel(IO, behaviour=look),
        "b": SimulatedModel(MEMBER, behaviour=look),
    }
    run(models, scenario)


def test_ensembles_nest() -> None:
    outer = ensemble(
        step("e", "INPUT", "mid").replace('"INPUT" value: "mid"', '"OUTPUT" value: "mid"'),
        step("b", "mid", "OUTPUT"),
    )

    async def scenario(world: World) -> None:
        response = await world.infer("outer")
        assert response.outputs[0].name == "OUTPUT"
        assert trio.current_time() == 1.0
        assert (await counts(world, "outer"))["infer_us"] == 1_000_000
        assert (await counts(world, "b"))["executions"] == 2

    models = {
        "outer": SimulatedModel(outer),
        "e": SimulatedModel(CHAIN),
        "a": member(0.5),
        "b": member(0.25),
    }
    run(models, scenario)


# --- what is counted -----------------------------------------------------------------------------


def test_an_ensemble_counts_itself_and_its_members_count_themselves() -> None:
    async def scenario(world: World) -> None:
        await world.infer("e", batch=3)
        found = await counts(world, "e")
        assert found | {"hits": 0} == {
            "success": 1, "fail": 0, "executions": 1, "inferences": 3, "hits": 0, "misses": 0,
            "infer_us": 750_000,
        }  # fmt: skip
        counters = (await world.core.reader.read())["e", 1]
        assert list(counters.batches) == [3]
        assert counters.queue.ns == 0
        assert counters.success.ns == 750_000_000
        assert (await counts(world, "a"))["inferences"] == 3

    run({"e": SimulatedModel(CHAIN), "a": member(0.5), "b": member(0.25)}, scenario)


def test_a_failed_request_is_counted_once_and_says_where_it_failed() -> None:
    def fail(_: ExecuteRequest) -> Outcome:
        return invalid_arg("no good")

    async def scenario(world: World) -> None:
        error = await refusal(world, asking("e"))
        assert (error.status, error.message) == (
            StatusCode.INVALID_ARG,
            "in ensemble 'e', no good",
        )
        found = await counts(world, "e")
        assert (found["fail"], found["success"], found["executions"]) == (1, 0, 0)
        counters = (await world.core.reader.read())["e", 1]
        assert counters.failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
        assert (await counts(world, "b"))["executions"] == 0

    models = {"e": SimulatedModel(CHAIN), "a": SimulatedModel(MEMBER, behaviour=fail)}
    run(models | {"b": member()}, scenario)


# --- queues, deadlines, cancellation -------------------------------------------------------------

QUEUED = MEMBER + " dynamic_batching { default_queue_policy { max_queue_size: 1 } }"


def test_68_a_full_queue_of_a_member_is_one_error_and_nothing_further_starts() -> None:

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # one runs, one waits
                nursery.start_soon(lambda: world.infer("a", batch=8))
                await trio.testing.wait_all_tasks_blocked()
            error = await refusal(world, asking("e", id="late"))
            assert (error.status, error.message) == (
                StatusCode.UNAVAILABLE,
                "in ensemble 'e', [request id: late] Exceeds maximum queue size",
            )
            assert trio.current_time() == 0.0
        assert (await counts(world, "e"))["fail"] == 1
        for later in ("b", "c"):
            assert (await counts(world, later))["executions"] == 0

    models = {"e": SimulatedModel(DIAMOND), "a": member(1.0, QUEUED)}
    run(models | {"b": member(), "c": member()}, scenario)


def test_a_full_door_of_a_member_holds_up_its_own_requests_only() -> None:
    """Members' doors hold one request each here, and `slow` takes a second for each of its own."""
    config = ensemble(
        step("slow", "INPUT", "SLOW"), step("b", "INPUT", "QUICK"), outputs=("SLOW", "QUICK")
    )
    slow = MEMBER.replace("max_batch_size: 8", "max_batch_size: 1")
    answered: list[tuple[str, float]] = []

    async def scenario(world: World) -> None:
        async def ask(output: str) -> None:
            await world.ask(asking("e", output))
            answered.append((output, trio.current_time()))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, "SLOW")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, "QUICK")

    models = {"e": SimulatedModel(config.replace("max_batch_size: 8", "max_batch_size: 1"))}
    models |= {"slow": member(1.0, slow), "b": member(0.0, slow)}
    run(models, scenario, submit_door=1)
    assert answered[0] == ("QUICK", 0.0)
    assert answered[1:] == [("SLOW", float(second)) for second in range(1, 6)]


def test_the_deadline_and_the_priority_of_a_request_are_those_of_its_steps() -> None:
    seen: list[tuple[int, int, str]] = []

    def look(request: ExecuteRequest) -> Outcome:
        asked = request.request
        seen.append((asked.priority, asked.timeout_us, str(asked.parameters.get("mine"))))
        return echo(request)

    async def scenario(world: World) -> None:
        request = zeros("e", (1, 1), priority=7, timeout_us=500_000)
        request.parameters["mine"] = "yes"
        await world.ask(request)
        assert seen == [(7, 500_000, "yes")] * 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("b", batch=8))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ServerError) as caught:
                await world.infer("e", deadline_at=1.25)
            assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
            assert trio.current_time() == 1.25

    models = {
        "e": SimulatedModel(CHAIN),
        "a": SimulatedModel(MEMBER, latency=lambda _: 0.25, behaviour=look),
        "b": SimulatedModel(MEMBER, latency=lambda size: size / 4, behaviour=look),
    }
    run(models, scenario)


def test_cancelling_frees_the_places_of_queued_steps_at_once() -> None:
    config = MEMBER + " dynamic_batching { }"

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("b", batch=8))  # runs for 2 s
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_at(1.0):
                await world.infer("e")
            await trio.testing.wait_all_tasks_blocked()
            assert (await counts(world, "b"))["fail"] == 1
            assert (await counts(world, "e"))["fail"] == 1
            counters = await world.core.reader.read()
            assert counters["e", 1].failures["CANCELED"] == 1
            assert counters["b", 1].failures["CANCELED"] == 1
            assert trio.current_time() == 1.0

    models = {
        "e": SimulatedModel(CHAIN),
        "a": member(0.25),
        "b": SimulatedModel(config, latency=lambda size: size / 4),
    }
    run(models, scenario)


# --- the cache -----------------------------------------------------------------------------------

CACHE = ServerOptions(model_repository=("simulated",), cache_config=("local,size=10000",))


def test_73_a_cached_ensemble_asks_its_members_once() -> None:

    async def scenario(world: World) -> None:
        await world.infer("e")
        await world.infer("e")
        found = await counts(world, "e")
        assert (found["success"], found["hits"], found["misses"]) == (2, 1, 1)
        for name in ("e", "a", "b"):
            assert (await counts(world, name))["executions"] == 1

    models = {"e": SimulatedModel(CHAIN + " response_cache { enable: true }")}
    run(models | {"a": member(0.25), "b": member(0.25)}, scenario, options=CACHE)
