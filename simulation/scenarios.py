"""Plays a drawn plan in a world: a run is nothing but its seed.

After the crowd has been answered, everybody who still serves is asked once more, for each of its
instances: who lost a grant, a resource or a place in a queue on the way cannot answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from actors.settings.options import ServerOptions
from protocol.inference import InferResponse
from protocol.status import invalid_arg
from repo.backends.base import ExecuteRequest, Outcome
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS, TICK_US, ModelPlan, Plan, RequestPlan
from simulation.executor import Responses, echo
from simulation.ledger import Asked
from simulation.play import Play
from simulation.world import SimulatedModel, World

_OWN_GOAL: Final = "simulated failure"
# What the log may say at ERROR because a plan provokes it.
EXPECTED_ERRORS: Final = ("crashed", "Failed to insert key")


def world_of(plan: Plan, *, trace_config: tuple[str, ...] = (), kind: type[World] = World) -> World:
    """The world that a plan describes, with its requests traced if so desired."""
    options = ServerOptions(
        model_repository=("simulated",),
        model_control_mode="explicit",
        load_model=("*",),
        rate_limit="execution_count" if plan.is_limited else "off",
        rate_limit_resource=plan.declared,
        cache_config=(f"local,size={plan.cache_bytes}",) if plan.cache_bytes else (),
        trace_config=trace_config,
    )
    return kind(
        {model.name: _simulated(model) for model in plan.models},
        options=options,
        expected_errors=EXPECTED_ERRORS,
        submit_door=plan.submit_door,
    )


def _simulated(plan: ModelPlan) -> SimulatedModel:
    executions = itertools.count()

    def latency(batch_size: int) -> float:
        # Seven has no factor in common with any range of jitter, so that all of it is met.
        jitter = 7 * next(executions) % (plan.jitter_ticks + 1)
        return (plan.base_ticks + plan.per_element_ticks * batch_size + jitter) * TICK_SECONDS

    def behaviour(request: ExecuteRequest) -> Outcome:
        number = int(request.request.id[1:])
        if plan.fails_every and number % plan.fails_every == 0:
            raise invalid_arg(_OWN_GOAL)
        return echo(request)

    def responses(request: ExecuteRequest) -> Sequence[tuple[float, Outcome]]:
        answer = behaviour(request)
        assert isinstance(answer, InferResponse)
        count = (int(request.request.id[1:]) + plan.responses) % (plan.responses + 1)
        return [(TICK_SECONDS * (number % 2), answer) for number in range(count)]

    streams: Responses | None = responses if plan.responses else None
    return SimulatedModel(
        plan.config, latency=latency, behaviour=behaviour, depth=plan.depth, responses=streams
    )


class CrowdPlay(Play[RequestPlan]):
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.clients, plan.requests, plan.faults)
        self._models = plan.models

    def ask(self, client: Client, request: RequestPlan) -> Asked:
        return client.ask(
            request.model,
            request.name,
            batch=request.batch,
            dims=(request.width,),
            content=request.content,
            priority=request.priority,
            timeout_us=request.timeout_ticks * TICK_US,
            deadline_at=request.deadline_at,
        )

    def ask_last(self, client: Client) -> None:
        for model in self._models:
            for number in range(len(model.instances)):
                name = f"z{1000 + 100 * int(model.name[1:]) + number}"
                client.ask(model.name, name, batch=min(1, model.max_batch))
