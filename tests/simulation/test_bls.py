"""Models that call models, in virtual time: by the whole street, and under the rate limiter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from actors.street.executor import Executor, TaskExecutor
from protocol.inference import InferResponse
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from simulation.world import SimulatedModel, World, zeros
from tests.simulation.trace_reading import heads, ran, times

IO = """
max_batch_size: 8 backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def needing(resource: str, count: int) -> str:
    return IO + (
        "instance_group { kind: KIND_CPU rate_limiter { "
        f'resources {{ name: "{resource}" count: {count} }} }} }}'
    )


class Asking(TaskExecutor):
    """An executor whose model asks `other`, so many times at once, and answers with the last."""

    def __init__(self, world: CallingWorld, context: InstanceContext, other: str) -> None:
        super().__init__()
        self._world = world
        self._instance = context.instance_name
        self._other = other

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        models = self._world.services[self._instance].models
        answers: list[Outcome] = []

        async def ask(pause: float) -> None:
            await trio.sleep(pause)
            request = zeros(self._other, (1, 1))
            request.trace = requests[0].request.trace  # as a model.py says it
            async with aclosing(models.infer(request, decoupled=False)) as responses:
                async for outcome, _ in responses:
                    assert outcome is not None
                    answers.append(outcome)

        self._world.log.append(("asks", trio.current_time()))
        async with trio.open_nursery() as nursery:
            for number in range(self._world.calls_at_once):
                nursery.start_soon(ask, number / 4)
        self._world.log.append(("goes on", trio.current_time()))
        await trio.sleep(1.0)
        return [answers[-1] for _ in requests]


class CallingWorld(World):
    """A world where the model `caller` calls another one."""

    def __init__(
        self,
        models: dict[str, SimulatedModel],
        *,
        other: str = "other",
        options: ServerOptions | None = None,
    ) -> None:
        super().__init__(models, options=options)
        self._other = other
        self.calls_at_once = 1
        self.log: list[tuple[str, float]] = []

    def _make_executor(self, context: InstanceContext) -> Executor:
        if context.model_name == "caller":
            return Asking(self, context, self._other)
        return super()._make_executor(context)


LIMITED = ServerOptions(model_repository=("simulated",), rate_limit="execution_count")


def test_a_call_is_an_inference_like_any_other() -> None:
    async def scenario(world: World) -> None:
        response = await world.infer("caller")
        assert response.outputs[0].name == "INPUT"
        assert trio.current_time() == 1.25
        counters = await world.core.reader.read()
        assert counters["other", 1].success.count == 1

    models = {"caller": SimulatedModel(IO), "other": SimulatedModel(IO, latency=lambda _: 0.25)}
    CallingWorld(models).run(scenario)


def test_a_call_is_part_of_its_caller_s_trace(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.infer("caller")
        await world.infer("other")
        await world.infer("caller")

    async def once(world: World) -> None:
        await world.infer("caller")

    flags = (f"triton,file={tmp_path / 't'}", "level=TIMESTAMPS", "rate=2")
    options = ServerOptions(model_repository=("simulated",), trace_config=flags)
    models = {"caller": SimulatedModel(IO), "other": SimulatedModel(IO, latency=lambda _: 0.25)}
    CallingWorld(models, options=options).run(scenario)
    assert [head["model_name"] for head in heads(tmp_path / "t")] == ["other"]

    flags = (f"triton,file={tmp_path / 'all'}", "level=TIMESTAMPS", "rate=1")
    options = ServerOptions(model_repository=("simulated",), trace_config=flags)
    world = CallingWorld(models, options=options)
    world.calls_at_once = 2
    world.run(once)
    found = times(tmp_path / "all")
    assert found[1]["REQUEST_START"] == 0.0
    assert found[1]["REQUEST_END"] == 1.5
    assert found[2] == ran(0.0, 0.0, 0.25)
    assert found[3] == ran(0.25, 0.25, 0.5)
    assert [head.get("parent_id") for head in heads(tmp_path / "all")] == [None, 1, 1]


@pytest.mark.parametrize("calls", [1, 3])
def test_a_caller_lends_what_the_other_model_needs(calls: int) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.infer, "caller")

    models = {
        "caller": SimulatedModel(needing("r", 2)),
        "other": SimulatedModel(needing("r", 2), latency=lambda _: 0.5),
    }
    world = CallingWorld(models, options=LIMITED)
    world.calls_at_once = calls
    trace = world.run(scenario)

    # It goes on when the last of its calls has been answered, and never executes beside them.
    waited = 0.5 * calls
    assert world.log == [
        ("asks", 0.0),
        ("goes on", waited),
        ("asks", waited + 1.0),
        ("goes on", 2 * waited + 1.0),
    ]
    assert len(trace.of("execute")) == 2 * calls


def test_a_caller_may_ask_an_ensemble() -> None:
    ensemble = """
    platform: "ensemble" max_batch_size: 8
    input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
    output { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }
    ensemble_scheduling { step { model_name: "other" model_version: -1
      input_map { key: "INPUT" value: "INPUT" } output_map { key: "INPUT" value: "OUTPUT" } } }
    """

    async def scenario(world: World) -> None:
        response = await world.infer("caller")
        assert isinstance(response, InferResponse)
        assert response.outputs[0].name == "OUTPUT"

    models = {
        "caller": SimulatedModel(IO),
        "e": SimulatedModel(ensemble),
        "other": SimulatedModel(IO),
    }
    CallingWorld(models, other="e").run(scenario)


def test_leaving_a_call_gives_back_what_was_lent() -> None:
    async def scenario(world: World) -> None:
        with trio.move_on_after(0.25):
            await world.infer("caller")
        await trio.sleep(5.0)
        await world.infer("other")

    models = {
        "caller": SimulatedModel(needing("r", 2)),
        "other": SimulatedModel(needing("r", 2), latency=lambda _: 0.5),
    }
    world = CallingWorld(models, options=LIMITED)
    world.run(scenario)


def test_a_model_that_is_not_there_is_an_error_of_the_call() -> None:
    async def scenario(world: World) -> None:
        models = world.services["other_0_0"].models
        with pytest.raises(ServerError, match="Model 'gone' is not ready"):
            await anext(models.infer(zeros("gone", (1, 1)), decoupled=False))

    models = {"caller": SimulatedModel(IO), "other": SimulatedModel(needing("r", 1))}
    CallingWorld(models, options=LIMITED).run(scenario)
