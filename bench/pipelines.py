"""What a pipeline costs beside its parts: an ensemble, and a stream of many small responses.

Run `python -m bench.pipelines [ensemble|street|stream ...]`. `ensemble` asks an ensemble of three
steps that compute nothing, and one of its members alone, inside one process: no socket, no thread.
The promise is at most 3.3 times the cost. `street` asks the same of a server over gRPC, where the
way in and out, which an ensemble pays once, has its usual cost. `stream` reads many small responses
of one request.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trio

from actors.bls import InstanceServices
from actors.executor import Executor
from actors.local_calls import infer
from actors.options import ServerOptions
from actors.wiring import Ports, wire_core
from bench.pipeline_wire import measure_streams, measure_street
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare

CALLS = 4_000
REPEATS = 8
PROMISE = 3.3

NOOP = """
backend: "noop" max_batch_size: 8 instance_group { kind: KIND_CPU }
input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def step(source: str, target: str) -> str:
    return (
        'step { model_name: "noop" model_version: -1 '
        f'input_map {{ key: "X" value: "{source}" }} output_map {{ key: "X" value: "{target}" }} }}'
    )


CHAIN = f"""
platform: "ensemble" max_batch_size: 8
input {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }}
ensemble_scheduling {{ {step("X", "a")} {step("a", "b")} {step("b", "Y")} }}
"""


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


class Source:
    """The two models, from their texts."""

    models: Mapping[str, str] = {"noop": NOOP, "chain": CHAIN}

    async def names(self) -> Mapping[str, str]:
        return dict.fromkeys(self.models, "")

    async def describe(self, name: str, parameters: Mapping[str, str | bytes]) -> ModelDescription:
        config = parse_config(self.models[name], name)
        files = ModelFiles(Path(name), subdirectories=("1",))
        return prepare(config, files, devices=DeviceTable(), complete=None)

    def forget(self, name: str) -> None:
        """Nobody brings a configuration along."""


class WallClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def cost(calls: object, model: str, at_once: int) -> float:
    """Seconds of CPU time per request."""
    tensor = Tensor.from_array("X", np.zeros((1, 1), np.float32))

    async def ask(count: int) -> None:
        for _ in range(count):
            await infer(calls, InferRequest(model, inputs=[tensor]))  # type: ignore[arg-type]  # Calls

    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(ask, CALLS // at_once)
    return (time.process_time() - began) / CALLS


async def measure_ensemble() -> None:
    options = ServerOptions(model_repository=("bench",))
    ports = Ports(source=Source(), make_executor=make_executor, wall_clock=WallClock())
    core = wire_core(options, ports, server_version="bench")
    print("ensemble of three no-op steps, µs of CPU time per request, the best of", REPEATS)
    async with trio.open_nursery() as nursery:
        await nursery.start(core.run)
        for at_once in (1, 8, 32):
            best = {"noop": math.inf, "chain": math.inf}
            for _ in range(REPEATS):  # in turns, so that a busy machine is fair to both
                for model, before in best.items():
                    best[model] = min(before, await cost(core.calls, model, at_once))
            ratio = best["chain"] / best["noop"]
            print(
                f"  {at_once:3} at once: one step {best['noop'] * 1e6:6.1f}   ensemble "
                f"{best['chain'] * 1e6:6.1f}   = {ratio:.2f} steps"
                f"{'' if ratio <= PROMISE else f', above {PROMISE}'}"
            )
        core.repository.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description="what pipelines cost")
    parser.add_argument("parts", nargs="*", default=["ensemble", "street", "stream"])
    parts = parser.parse_args().parts
    gc.freeze()
    if "ensemble" in parts:
        trio.run(measure_ensemble)
    if "street" in parts:
        measure_street()
    if "stream" in parts:
        measure_streams()


if __name__ == "__main__":
    main()
