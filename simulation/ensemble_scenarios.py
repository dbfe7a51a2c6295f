"""Plays a drawn world of an ensemble, and asks it once more at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from actors.settings.options import ServerOptions
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, Outcome
from simulation.asking import Asking
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS
from simulation.ensemble_drawing import (
    INPUTS,
    OTHER_MODEL,
    EnsemblePlan,
    EnsembleRequestPlan,
    EnsembleWorldPlan,
)
from simulation.ledger import Asked
from simulation.play import Play
from simulation.reference_dataflow import (
    answered,
    computed,
    expected_responses,
    question,
    with_answer,
)
from simulation.world import SimulatedModel, World

MODEL: Final = "e"


def ensemble_world(plan: EnsembleWorldPlan) -> World:
    """The world that a plan describes."""
    drawn = plan.ensemble
    models = {MODEL: SimulatedModel(drawn.configs[MODEL])}
    for index, step in enumerate(drawn.steps):
        models[step.model_name] = _member(drawn, index)
    if drawn.asking is not None:
        models[OTHER_MODEL] = _other(drawn)
    options = ServerOptions(
        model_repository=("simulated",), model_control_mode="explicit", load_model=("*",)
    )
    world = World(models, options=options, submit_door=plan.submit_door)
    if drawn.asking is not None:
        world.ledger.callers[OTHER_MODEL] = drawn.steps[drawn.asking].model_name
    return world


def _member(drawn: EnsemblePlan, index: int) -> SimulatedModel:
    step, count = drawn.steps[index], drawn.counts[index]
    seconds = drawn.latency_ticks[index] * TICK_SECONDS
    pause = drawn.pause_ticks * TICK_SECONDS

    def answer(request: ExecuteRequest, number: int = 0, told: int = 0) -> InferResponse:
        asked = request.request
        inputs = _numbers(asked.inputs)
        outputs = [
            _tensor(name, with_answer(computed(index, number, name, inputs), told))
            for name in step.output_map
            if name not in drawn.omissions[index]
        ]
        return InferResponse(asked.model_name, "1", asked.id, outputs)

    def ask(request: ExecuteRequest) -> InferRequest:
        asked = _tensor("i0", question(index, _numbers(request.request.inputs)))
        return InferRequest(OTHER_MODEL, id=request.request.id, inputs=[asked])

    def answer_with(request: ExecuteRequest, response: InferResponse) -> Outcome:
        return answer(request, told=_numbers(response.outputs)["o0"])

    def responses(request: ExecuteRequest) -> Sequence[tuple[float, Outcome]]:
        assert count is not None, "only decoupled members answer so"
        return [(pause, answer(request, number)) for number in range(count)]

    return SimulatedModel(
        drawn.configs[step.model_name],
        latency=lambda _: seconds,
        behaviour=answer,
        responses=None if count is None else responses,
        asking=Asking(ask, answer_with) if index == drawn.asking else None,
    )


def _other(drawn: EnsemblePlan) -> SimulatedModel:
    """The model that a member asks."""
    seconds = drawn.other_ticks * TICK_SECONDS

    def answer(request: ExecuteRequest) -> InferResponse:
        asked = request.request
        outputs = [_tensor("o0", answered(_numbers(asked.inputs)["i0"]))]
        return InferResponse(asked.model_name, "1", asked.id, outputs)

    return SimulatedModel(drawn.configs[OTHER_MODEL], latency=lambda _: seconds, behaviour=answer)


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
            world.ledger.asked[name].heard = [_numbers(one.outputs) for one in responses]

    def ask(self, client: Client, request: EnsembleRequestPlan) -> Asked:
        drawn = self._ensemble
        given: Mapping[str, int] = dict(zip(INPUTS, request.given, strict=True))
        read = {source for step in drawn.steps for source in step.input_map.values()}
        asked = client.asked(MODEL, request.name, deadline_at=request.deadline_at)
        asked.expected = expected_responses(
            drawn.steps,
            drawn.counts,
            drawn.omissions,
            request.wanted or drawn.outputs,
            given,
            asking=drawn.asking,
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


def _numbers(tensors: Sequence[Tensor]) -> dict[str, int]:
    return {tensor.name: int(tensor.array.item()) for tensor in tensors}
