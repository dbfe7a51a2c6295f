"""Plays a drawn world of an ensemble, and asks it once more at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import trio

from actors.options import ServerOptions
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, Outcome
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS
from simulation.ensemble_drawing import (
    INPUTS,
    EnsemblePlan,
    EnsembleRequestPlan,
    EnsembleWorldPlan,
)
from simulation.ledger import Asked
from simulation.reference_dataflow import computed, expected_responses
from simulation.striking import strike, until
from simulation.world import SimulatedModel, World

MODEL: Final = "e"


def ensemble_world(plan: EnsembleWorldPlan) -> World:
    """The world that a plan describes."""
    drawn = plan.ensemble
    models = {MODEL: SimulatedModel(drawn.configs[MODEL])}
    for index, step in enumerate(drawn.steps):
        models[step.model_name] = _member(drawn, index)
    options = ServerOptions(
        model_repository=("simulated",), model_control_mode="explicit", load_model=("*",)
    )
    return World(models, options=options, submit_door=plan.submit_door)


def _member(drawn: EnsemblePlan, index: int) -> SimulatedModel:
    step, count = drawn.steps[index], drawn.counts[index]
    seconds = drawn.latency_ticks[index] * TICK_SECONDS
    pause = drawn.pause_ticks * TICK_SECONDS

    def answer(request: ExecuteRequest, number: int = 0) -> InferResponse:
        asked = request.request
        inputs = {tensor.name: int(tensor.array.item()) for tensor in asked.inputs}
        outputs = [
            _tensor(name, computed(index, number, name, inputs))
            for name in step.output_map
            if name not in drawn.omissions[index]
        ]
        return InferResponse(asked.model_name, "1", asked.id, outputs)

    def responses(request: ExecuteRequest) -> Sequence[tuple[float, Outcome]]:
        assert count is not None, "only decoupled members answer so"
        return [(pause, answer(request, number)) for number in range(count)]

    return SimulatedModel(
        drawn.configs[step.model_name],
        latency=lambda _: seconds,
        behaviour=answer,
        responses=None if count is None else responses,
    )


class EnsemblePlay:
    """One run of a plan."""

    def __init__(self, plan: EnsembleWorldPlan) -> None:
        self._plan = plan
        self._clients: list[Client] = []

    async def __call__(self, world: World) -> None:
        """The scenario: the crowd, the faults, and the last round."""
        plan = self._plan
        self._clients = [world.client(f"c{number}") for number in range(plan.clients)]
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(self._clients):
                mine = [request for request in plan.requests if request.client == number]
                if mine:
                    nursery.start_soon(self._drive, client, mine)
            for fault in plan.faults:
                nursery.start_soon(strike, world, self._clients, fault)
        await world.all_answered()
        last = world.client("last")
        for number in range(2):
            self._ask(
                last,
                EnsembleRequestPlan(0, 0, f"z{number}", (number, 1), (), float("inf"), -1),
            )
        await world.all_answered()
        for client in [*self._clients, last]:
            for name, responses in client.responses.items():
                world.ledger.asked[name].heard = [_numbers(one) for one in responses]

    async def _drive(self, client: Client, requests: Sequence[EnsembleRequestPlan]) -> None:
        """One client: what it asks and what it gives up, in the order of their instants."""
        steps = [(request.at, False, request) for request in requests]
        steps += [(one.cancel_at, True, one) for one in requests if one.cancel_at >= 0]
        asked: dict[str, Asked] = {}
        for at, is_cancellation, request in sorted(steps, key=lambda step: step[:2]):
            await until(at)
            if client.has_vanished:
                return
            if is_cancellation:
                client.cancel(asked[request.name])
            else:
                asked[request.name] = self._ask(client, request)

    def _ask(self, client: Client, request: EnsembleRequestPlan) -> Asked:
        drawn = self._plan.ensemble
        given: Mapping[str, int] = dict(zip(INPUTS, request.given, strict=True))
        read = {source for step in drawn.steps for source in step.input_map.values()}
        asked = client.asked(MODEL, request.name, deadline_at=request.deadline_at)
        asked.expected = expected_responses(
            drawn.steps, drawn.counts, drawn.omissions, request.wanted or drawn.outputs, given
        )
        return client.send(
            asked,
            InferRequest(
                MODEL,
                id=request.name,
                inputs=[_tensor(name, value) for name, value in given.items() if name in read],
                requested_outputs=request.wanted,
            ),
        )


def _tensor(name: str, value: int) -> Tensor:
    return Tensor.from_array(name, np.array([[value]], np.int64))


def _numbers(response: InferResponse) -> dict[str, int]:
    return {tensor.name: int(tensor.array.item()) for tensor in response.outputs}
