"""A whole server in virtual time: the production wiring with other ports.

`World` holds simulated models, runs a scenario against them under a seeded scheduler and a clock
that leaps to the next deadline, and keeps a trace. No socket, no thread and no file is touched, so
a run is a function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251  # only the type; simulation.seeding makes the one

import numpy as np
import trio
import trio.testing

from actors.bls import InstanceServices
from actors.executor import Executor
from actors.local_calls import infer
from actors.options import ServerOptions
from actors.wiring import Core, Ports, wire_core
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import InstanceContext
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from simulation.executor import Behaviour, Latency, SimulatedExecutor, echo
from simulation.seeding import seeded_scheduler
from simulation.traces import Trace

# The simulated day begins at the epoch: durations matter, dates do not.
_NOON_MS = 0


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model that computes nothing: its configuration, how long it takes, what it answers."""

    config: str
    latency: Latency = lambda _: 0.0
    behaviour: Behaviour = echo
    depth: int = 1


class _Source:
    """The simulated repository."""

    def __init__(self, models: Mapping[str, SimulatedModel]) -> None:
        self._models = models

    async def names(self) -> Mapping[str, str]:
        return dict.fromkeys(self._models, "")

    async def describe(self, name: str, parameters: Mapping[str, str | bytes]) -> ModelDescription:
        config = parse_config(self._models[name].config, f"{name}/config.pbtxt")
        files = ModelFiles(Path(name), subdirectories=("1",))
        return prepare(config, files, devices=DeviceTable(), complete=None)


class _WallClock:
    def now_ms(self) -> int:
        return _NOON_MS + int(trio.current_time() * 1e3)


def zeros(
    model: str,
    shape: Sequence[int],
    *,
    id: str = "",  # noqa: A002  # the protocol's word
    priority: int = 0,
    timeout_us: int = 0,
) -> InferRequest:
    """A request with one FP32 tensor INPUT of `shape`, batch dimension included."""
    tensor = Tensor.from_array("INPUT", np.zeros(tuple(shape), dtype=np.float32))
    return InferRequest(model, id=id, inputs=[tensor], priority=priority, timeout_us=timeout_us)


Scenario = Callable[["World"], Awaitable[None]]


class World:
    """Models, a trace, and the means to ask for inferences."""

    def __init__(
        self, models: Mapping[str, SimulatedModel], *, options: ServerOptions | None = None
    ) -> None:
        self._models = models
        self._options = options or ServerOptions(model_repository=("simulated",))
        self.trace = Trace()
        self.executors: dict[str, SimulatedExecutor] = {}
        self.services: dict[str, InstanceServices] = {}
        self.random: Random
        self.core: Core

    def run(self, scenario: Scenario, *, seed: int = 0) -> Trace:
        """Load the models, run `scenario`, drain, and return what happened."""
        with seeded_scheduler(seed) as self.random:
            trio.run(self._run, scenario, clock=trio.testing.MockClock(autojump_threshold=0))
        return self.trace

    async def infer(
        self,
        model: str,
        *,
        id: str = "",  # noqa: A002  # the protocol's word
        batch: int = 1,
        dims: Sequence[int] = (1,),
        priority: int = 0,
        timeout_us: int = 0,
        deadline_at: float = math.inf,
    ) -> InferResponse:
        """One inference with a FP32 tensor INPUT of shape [batch, *dims]. Raises ServerError."""
        request = zeros(model, (batch, *dims), id=id, priority=priority, timeout_us=timeout_us)
        return await self.ask(request, deadline_at=deadline_at)

    async def ask(self, request: InferRequest, *, deadline_at: float = math.inf) -> InferResponse:
        """Any inference. Raises ServerError."""
        return await infer(self.core.calls, request, deadline_at=deadline_at)

    async def _run(self, scenario: Scenario) -> None:
        ports = Ports(
            source=_Source(self._models),
            make_executor=self._make_executor_with,
            wall_clock=_WallClock(),
        )
        self.core = wire_core(self._options, ports, server_version="simulated")
        async with trio.open_nursery() as nursery:
            await nursery.start(self.core.run)
            await scenario(self)
            self.core.repository.drain()

    def _make_executor_with(self, context: InstanceContext, services: InstanceServices) -> Executor:
        self.services[context.instance_name] = services
        return self._make_executor(context)

    def _make_executor(self, context: InstanceContext) -> Executor:
        model = self._models[context.model_name]
        executor = SimulatedExecutor(
            context,
            latency=model.latency,
            behaviour=model.behaviour,
            trace=self.trace,
            depth=model.depth,
        )
        self.executors[context.instance_name] = executor
        return executor
