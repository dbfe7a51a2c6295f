"""Plays a drawn world of sequences.

At the end one more sequence is asked for each slot that there is: who lost a slot cannot answer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import trio

from actors.settings.options import ServerOptions
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS, TICK_US
from simulation.ledger import Asked
from simulation.play import Play
from simulation.sequence_drawing import SequencePlan, SequenceRequestPlan
from simulation.world import SimulatedModel, World

MODEL: Final = "q"


def sequence_world(plan: SequencePlan) -> World:
    """The world that a plan describes."""
    options = ServerOptions(
        model_repository=("simulated",),
        model_control_mode="explicit",
        load_model=("*",),
        rate_limit="execution_count" if plan.is_limited else "off",
    )
    turns = {request.name: request.turns for request in plan.requests}
    seconds = plan.model.latency_ticks * TICK_SECONDS

    def behaviour(request: ExecuteRequest) -> Outcome:
        return _add(request, turns.get(request.request.id, 1))

    return World(
        {MODEL: SimulatedModel(plan.model.config, latency=lambda _: seconds, behaviour=behaviour)},
        options=options,
        expected_errors=("crashed",),
        submit_door=plan.submit_door,
    )


def _add(request: ExecuteRequest, turns: int) -> Outcome:
    """Add the tag to the state; after as many turns as it takes, answer with the sum."""
    asked = request.request
    values = {tensor.name: tensor.array.astype(np.int64) for tensor in asked.inputs}
    assert request.is_null or values["READY"].all(), "a request is ready"
    assert not (request.is_null and values["READY"].any()), "padding is not"
    assert not (request.is_null and values["BEFORE"].any()), "padding has nobody's state"
    total = values["TAG"] + values["BEFORE"]
    after = Tensor.from_array("AFTER", total)
    if int(total.item()) < turns * int(values["TAG"].item()):
        request.update_state(after)
        return Rescheduled()
    outputs = [Tensor.from_array("SUM", total), after]
    return InferResponse(asked.model_name, "1", asked.id, outputs)


class SequencePlay(Play[SequenceRequestPlan]):
    """One run of a plan."""

    def __init__(self, plan: SequencePlan) -> None:
        super().__init__(plan.clients, plan.requests, plan.faults)
        self._plan = plan

    def ask(self, client: Client, request: SequenceRequestPlan) -> Asked:
        return _ask(client, self._plan, request)

    def ask_last(self, client: Client) -> None:
        model = self._plan.model
        for number in range(model.slots * len(model.instances)):
            self.ask(client, _single(f"z{number}", sequence=1000 + number))

    def take_note(self, world: World, client: Client) -> None:
        for name, responses in client.responses.items():
            tensors = responses[0].outputs
            world.ledger.asked[name].heard = [
                {tensor.name: int(tensor.array.item()) for tensor in tensors}
            ]


def _single(name: str, *, sequence: int) -> SequenceRequestPlan:
    """A sequence of one request."""
    flags = SequenceFlag.START | SequenceFlag.END
    return SequenceRequestPlan(0, 0, name, sequence, flags, 1, 0, trio.current_time() + 1e6, -1)


def _ask(client: Client, plan: SequencePlan, request: SequenceRequestPlan) -> Asked:
    is_iterative = plan.model.is_iterative
    array = np.array(
        [[request.tag]] if "max_batch_size: 0" not in plan.model.config else [request.tag]
    )
    asked = client.asked(
        MODEL,
        request.name,
        timeout_us=request.timeout_ticks * TICK_US,
        deadline_at=request.deadline_at,
    )
    # The server makes an id for each request of an iterative sequence; here its name serves.
    asked.sequence = request.name if is_iterative else request.sequence
    asked.tag, asked.turns = request.tag, request.turns
    return client.send(
        asked,
        InferRequest(
            MODEL,
            id=request.name,
            inputs=[Tensor.from_array("TAG", array)],
            correlation_id=0 if is_iterative else request.sequence,
            sequence_flags=SequenceFlag.NONE if is_iterative else request.flags,
            timeout_us=request.timeout_ticks * TICK_US,
        ),
    )
