"""A whole server around instances that do nothing: production's actors, no socket, no thread."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from actors.processes.lending import InstanceServices
from actors.settings.options import ServerOptions
from actors.street.executor import Done, Executor, PlainExecutor
from actors.wiring import Core, Ports, wire_core
from protocol.inference import InferResponse
from repo.backends.base import ExecuteRequest, InstanceContext, Timings
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from simulation.source import SimulatedSource


class Noop(PlainExecutor):
    """Answers with what it was asked, at once."""

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        done([InferResponse("noop", "1", "", list(one.request.inputs)) for one in requests])


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
