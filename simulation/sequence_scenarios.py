"""Plays a drawn world of sequences.

At the end one more sequence is asked for each slot that there is: who lost a slot cannot answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import trio

from actors.options import ServerOptions
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS, TICK_US
from simulation.ledger import Asked
from simulation.sequence_drawing import SequencePlan, SequenceRequestPlan
from simulation.striking import strike, until
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


class SequencePlay:
    """One run of a plan."""

    def __init__(self, plan: SequencePlan) -> None:
        self._plan = plan
        self._clients: list[Client] = []

    async def __call__(self, world: World) -> None:
        """The scenario: the sequences, the faults, and the last round."""
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
        for number in range(plan.model.slots * len(plan.model.instances)):
            _ask(last, plan, _single(f"z{number}", sequence=1000 + number))
        await world.all_answered()
        for client in [*self._clients, last]:
            for name, responses in client.responses.items():
                tensors = responses[0].outputs
                world.ledger.asked[name].heard = [
                    {tensor.name: int(tensor.array.item()) for tensor in tensors}
                ]

    async def _drive(self, client: Client, requests: Sequence[SequenceRequestPlan]) -> None:
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
                asked[request.name] = _ask(client, self._plan, request)


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
