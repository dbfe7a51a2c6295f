"""A whole server around instances that do nothing: production's actors, no socket, no thread."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from actors.bls import InstanceServices
from actors.executor import Executor
from actors.options import ServerOptions
from actors.wiring import Core, Ports, wire_core
from protocol.inference import InferResponse
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from simulation.source import SimulatedSource


class Noop:
    """An executor that answers with what it was asked."""

    depth = 1

    def __init__(self) -> None:
        self._stopped = trio.Event()

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self._stopped.wait()

    async def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        return [InferResponse("noop", "1", "", list(one.request.inputs)) for one in requests]

    def cancel(self, number: int) -> None:
        """There is never anything to cancel."""

    async def is_ready(self) -> bool:
        return True

    def stop(self) -> None:
        self._stopped.set()


def make_executor(_: InstanceContext, __: InstanceServices) -> Executor:
    return Noop()


def source(models: Mapping[str, str]) -> SimulatedSource:
    """Models, from their texts."""

    def describe(name: str) -> ModelDescription:
        files = ModelFiles(Path(name), subdirectories=("1",))
        config = parse_config(models[name], name)
        return prepare(config, files, devices=DeviceTable(), complete=None)

    return SimulatedSource(describe, list(models))


class WallClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@asynccontextmanager
async def serving(models: Mapping[str, str]) -> AsyncIterator[Core]:
    """The server of these models, ready."""
    options = ServerOptions(model_repository=("bench",))
    ports = Ports(source=source(models), make_executor=make_executor, wall_clock=WallClock())
    core = wire_core(options, ports, server_version="bench")
    async with trio.open_nursery() as nursery:
        await nursery.start(core.run)
        yield core
        core.repository.drain()
