"""Runs model.py texts in real worker processes, for the tests of ProcessExecutor."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import trio

from actors.processes.executor import ProcessExecutor
from actors.processes.ports import LogLevel
from actors.street.executor import execute
from protocol.datatypes import Array
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, Outcome, ResponseSender, Timings
from repo.backends.python.launch import WorkerSpec
from repo.backends.python.wire import Load

HEAD = """
import os, signal, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

def value(request, name="IN"):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()

def answer(array, name="OUT", **kwargs):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.asarray(array))], **kwargs)

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def attempt(call, *args, **kwargs):
    try:
        text = f"result {call(*args, **kwargs)}"
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    sys.stdout.write(text + "\\n")  # in one piece: print may be interrupted before the newline

class TritonPythonModel:
"""


def model_spec(directory: Path, body: str, *, head: str = HEAD, **changes: Any) -> WorkerSpec:
    """Write a model whose class has `body`, and say how to start it."""
    version = directory / "m" / "1"
    version.mkdir(parents=True, exist_ok=True)
    source = head + textwrap.indent(textwrap.dedent(body), "    ") if body else ""
    (version / "model.py").write_text(source)
    load = Load(
        model_name="m",
        version=1,
        model_directory=str(version.parent),
        version_directory=str(version),
        module_directory=str(version),
        file_name="model.py",
        config_json='{"name": "m"}',
        kind="CPU",
        instance_name="m_0_0",
        device_id=0,
        decoupled=0,
        reschedulable=0,
        bls_limit=32,
        first_segment_bytes=1 << 20,
        segment_growth_bytes=1 << 20,
        auto_complete=0,
    )
    return WorkerSpec(sys.executable, dict(os.environ), load._replace(**changes))


@dataclass
class Client:
    """Who waits for late responses. While `slow` is set it takes none."""

    arrived: list[tuple[Outcome | None, bool]] = field(default_factory=list)
    cancelled: bool = False
    slow: trio.Event | None = None
    finished: trio.Event = field(default_factory=trio.Event)

    async def deliver(self, outcome: Outcome | None, final: bool) -> None:
        if self.slow is not None:
            await self.slow.wait()
        assert not self.finished.is_set(), "nothing follows the final response"
        self.arrived.append((outcome, final))
        if final:
            self.finished.set()
        await trio.lowlevel.checkpoint()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def values(self) -> list[object]:
        """Per response its OUT as a list, its error text, or None."""
        return [plain(outcome) for outcome, _ in self.arrived]


def plain(outcome: Outcome | None) -> object:
    """An outcome as something to compare with."""
    if isinstance(outcome, InferResponse):
        return outcome.outputs[0].array.tolist() if outcome.outputs else []
    return outcome.message if isinstance(outcome, ServerError) else None


_numbers = iter(range(1, 1 << 30))


def request(
    values: Sequence[object] | Array = (), client: Client | None = None, **more: Any
) -> ExecuteRequest:
    """A request with one input IN."""
    array = values if isinstance(values, np.ndarray) else np.array(values, np.int32)
    inputs = more.pop("inputs", None) or [Tensor.from_array("IN", array)]
    sender = cast("ResponseSender", client or Client())
    number = next(_numbers)
    return ExecuteRequest(InferRequest("m", inputs=inputs, **more), 0, sender, number=number)


@dataclass
class Rig:
    """A running executor and what it logged."""

    executor: ProcessExecutor
    lines: list[tuple[LogLevel, str]]

    async def run(self, *requests: ExecuteRequest) -> list[object]:
        """The plain outcomes of one batch."""
        return [plain(outcome) for outcome in await self.outcomes(*requests)]

    async def outcomes(self, *requests: ExecuteRequest) -> Sequence[Outcome | None]:
        with trio.fail_after(20):
            return await execute(self.executor, requests, Timings())

    async def infer(self, values: Sequence[object] | Array, **more: Any) -> object:
        """The plain outcome of one request by itself."""
        (outcome,) = await self.run(request(values, **more))
        return outcome

    async def ready(self) -> None:
        """Wait until a worker is up."""
        with trio.fail_after(20):
            while not await self.executor.is_ready():  # noqa: ASYNC110  # a port has no event
                await trio.sleep(0.005)

    def said(self) -> list[str]:
        """What the model has printed."""
        return [line for level, line in self.lines if level == "INFO"]

    async def logged(self, text: str) -> tuple[LogLevel, str]:
        """Wait for a log line that contains `text`."""
        with trio.fail_after(20):
            while True:
                for level, line in self.lines:
                    if text in line:
                        return level, line
                await trio.sleep(0.005)


@asynccontextmanager
async def running(spec: WorkerSpec, **ports: Any) -> AsyncIterator[Rig]:
    """An executor whose model has loaded; stopped, and its process reaped, at the end."""
    lines: list[tuple[LogLevel, str]] = []
    executor = ProcessExecutor(
        lambda: spec, log=lambda level, line: lines.append((level, line)), **ports
    )
    rig = Rig(executor, lines)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            await nursery.start(executor.start)
        try:
            yield rig
        finally:
            executor.stop()
            nursery.cancel_scope.deadline = trio.current_time() + 30


async def load_error(spec: WorkerSpec) -> ServerError:
    """Why the model does not load."""
    executor = ProcessExecutor(lambda: spec, log=lambda *_: None)
    with trio.fail_after(30):
        try:
            await executor.start()
        except ServerError as error:
            return error
    raise AssertionError("the model has loaded")
