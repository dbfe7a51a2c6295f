"""Simulated ensembles and their members, and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from actors.settings.options import ServerOptions
from actors.street.local_calls import open_call
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest
from simulation.world import Scenario, SimulatedModel, World, zeros

BATCHES = "max_batch_size: 8"
IO = """
backend: "simulated" instance_group { kind: KIND_CPU }
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
MEMBER = IO + BATCHES
DECOUPLED = MEMBER + " model_transaction_policy { decoupled: true }"
EXPLICIT = ServerOptions(
    model_repository=("simulated",), model_control_mode="explicit", load_model=("*",)
)


def step(model: str, source: str, target: str, version: int = -1) -> str:
    return (
        f'step {{ model_name: "{model}" model_version: {version} '
        f'input_map {{ key: "INPUT" value: "{source}" }} '
        f'output_map {{ key: "INPUT" value: "{target}" }} }}'
    )


def ensemble(*steps: str, outputs: Sequence[str] = ("OUTPUT",), more: str = BATCHES) -> str:
    declared = " ".join(
        f'output {{ name: "{name}" data_type: TYPE_FP32 dims: [ 1 ] }}' for name in outputs
    )
    return (
        'platform: "ensemble" input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] } '
        f"{declared} ensemble_scheduling {{ {' '.join(steps)} }} {more}"
    )


CHAIN = ensemble(step("a", "INPUT", "between"), step("b", "between", "OUTPUT"))
DIAMOND = ensemble(
    step("a", "INPUT", "between"),
    step("b", "between", "LEFT"),
    step("c", "between", "RIGHT"),
    outputs=("LEFT", "RIGHT"),
)
FAN = ensemble(step("source", "INPUT", "many"), step("b", "many", "OUTPUT"), more=BATCHES)


def member(latency: float = 0.0, config: str = MEMBER) -> SimulatedModel:
    return SimulatedModel(config, latency=lambda _: latency)


def producer(count: int, pause: float = 0.0) -> SimulatedModel:
    return SimulatedModel(
        DECOUPLED, responses=lambda request: [(pause, numbered(request, n)) for n in range(count)]
    )


def numbered(request: ExecuteRequest, number: int) -> InferResponse:
    tensor = Tensor.from_array("INPUT", np.full((1, 1), number, np.float32))
    return InferResponse(request.request.model_name, "1", request.request.id, [tensor])


def asking(model: str, *outputs: str, id: str = "") -> InferRequest:  # noqa: A002
    request = zeros(model, (1, 1), id=id)
    request.requested_outputs = outputs
    return request


async def counts(world: World, model: str) -> dict[str, int]:
    counters = (await world.core.reader.read())[model, 1]
    return {
        "success": counters.success.count,
        "fail": counters.fail.count,
        "executions": counters.execution_count,
        "inferences": counters.inference_count,
        "hits": counters.cache_hit.count,
        "misses": counters.cache_miss.count,
        "infer_us": counters.compute_infer.ns // 1000,
    }


async def refusal(world: World, request: InferRequest) -> ServerError:
    with pytest.raises(ServerError) as caught:
        await world.ask(request)
    return caught.value


async def stream(
    world: World, request: InferRequest, *, limit: float = math.inf
) -> tuple[list[float], ServerError | None]:
    """The numbers that a decoupled ensemble answers with, and how it ends."""
    world.ledger.outsiders += 1
    found: list[float] = []
    async with open_call(world.core.calls, request) as call:
        try:
            while len(found) < limit and (response := await call.next()) is not None:
                found.append(float(response.outputs[0].array.ravel()[0]))
        except ServerError as error:
            return found, error
    return found, None


def run(models: dict[str, SimulatedModel], scenario: Scenario, **more: object) -> World:
    world = World(models, **more)  # type: ignore[arg-type]  # the keywords of World
    world.run(scenario)
    return world
