"""Plays a drawn world of an ensemble, and asks it once more at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from actors.settings.options import ServerOptions
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
from simulation.play import Play
from simulation.reference_dataflow import computed, expected_responses
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


class EnsemblePlay(Play[EnsembleRequestPlan]):
    """One run of a plan."""

    def __init__(self, plan: EnsembleWorldPlan) -> None:
        super().__init__(plan.clients, plan.requests, plan.faults)
        self._ensemble = plan.ensemble

    def ask_last(self, client: Client) -> None:
        for number in range(2):
            self.ask(
                client,
                EnsembleRequestPlan(0, 0, f"z{number}", (number, 1), (), float("inf"), -1),
            )

    def take_note(self, world: World, client: Client) -> None:
        for name, responses in client.responses.items():
            world.ledger.asked[name].heard = [_numbers(one) for one in responses]

    def ask(self, client: Client, request: EnsembleRequestPlan) -> Asked:
        drawn = self._ensemble
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
