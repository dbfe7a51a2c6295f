"""What a worker process costs: CPU per request on either side, start-up time and memory.

    python -m bench.python_worker            everything below, about half a minute
    python -m bench.python_worker --only X   the rows whose name contains X

CPU times are those of the server's process and of its worker, in microseconds per request, without
frontends, scheduler or encoding: what `ProcessExecutor.execute` costs and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import trio

from actors.processes.executor import ProcessExecutor
from actors.processes.ports import LogLevel
from actors.processes.zygote import Starter, Zygote
from actors.street.executor import execute
from protocol.inference import InferRequest, Tensor
from repo.backends.base import ExecuteRequest, ResponseSender, Timings
from repo.backends.python.environment import own_environment
from repo.backends.python.launch import WorkerSpec
from repo.backends.python.wire import Load

IDENTITY = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
        return responses
"""

EMPTY = """
class TritonPythonModel:
    def execute(self, requests):
        return [None] * len(requests)
"""


@dataclass(frozen=True)
class Row:
    """One measurement: `batch` requests of `byte_size` bytes, `in_flight` batches at once."""

    name: str
    byte_size: int
    batch: int
    in_flight: int
    rounds: int


ROWS = (
    Row("alone, 64 B", 64, 1, 1, 6000),
    Row("two in flight, 64 B", 64, 1, 2, 12000),
    Row("batch of 8, 64 B", 64, 8, 2, 6000),
    Row("batch of 32, 64 B", 64, 32, 2, 3000),
    Row("alone, 4 KiB", 4 << 10, 1, 1, 4000),
    Row("alone, 16 KiB", 16 << 10, 1, 1, 4000),
    Row("alone, 32 KiB", 32 << 10, 1, 1, 4000),
    Row("alone, 64 KiB", 64 << 10, 1, 1, 4000),
    Row("alone, 600 KiB", 600 << 10, 1, 1, 2000),
    Row("alone, 8 MiB", 8 << 20, 1, 1, 150),
)


def spec(directory: Path, source: str) -> WorkerSpec:
    version = directory / "m" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.py").write_text(source)
    load = Load(
        model_name="m",
        version=1,
        model_directory=str(version.parent),
        version_directory=str(version),
        module_directory=str(version),
        file_name="model.py",
        config_json="{}",
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
    environment = own_environment()
    return WorkerSpec(environment.interpreter, environment.variables, load)


def say(level: LogLevel, message: str) -> None:
    print(level, message)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from the scheduler's own count in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def private_bytes(pid: int) -> int:
    """Resident memory that the process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def requests_of(row: Row) -> Sequence[ExecuteRequest]:
    array = np.zeros(row.byte_size // 4, np.float32)
    return [
        ExecuteRequest(
            # Bytes, as they come from a socket.
            InferRequest("m", inputs=[Tensor("IN", "FP32", array.shape, raw=array.tobytes())]),
            0,
            cast("ResponseSender", None),
        )
        for _ in range(row.batch)
    ]


async def drive(executor: ProcessExecutor, row: Row, rounds: int) -> None:
    requests = requests_of(row)
    left = rounds

    async def one_lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await execute(executor, requests, Timings())

    async with trio.open_nursery() as nursery:
        for _ in range(row.in_flight):
            nursery.start_soon(one_lane)


async def measure(directory: Path, rows: Sequence[Row]) -> None:
    print(f"{'':24}{'wall µs':>10}{'server µs':>11}{'worker µs':>11}   per request")
    executor = ProcessExecutor(lambda: spec(directory, IDENTITY), log=say)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        worker = executor.worker_pid
        assert worker is not None
        for row in rows:
            await drive(executor, row, row.rounds // 10)
            before = time.perf_counter(), time.process_time(), cpu_seconds(worker)
            await drive(executor, row, row.rounds)
            after = time.perf_counter(), time.process_time(), cpu_seconds(worker)
            each = [
                (b - a) / row.rounds / row.batch * 1e6 for a, b in zip(before, after, strict=True)
            ]
            print(f"{row.name:24}{each[0]:10.1f}{each[1]:11.1f}{each[2]:11.1f}")
        executor.stop()


async def measure_start(directory: Path, starter: Starter | None, name: str) -> None:
    """From `start` to a loaded model, and what an idle worker keeps in memory of its own."""
    seconds: list[float] = []
    memory = 0
    for _ in range(7):
        executor = ProcessExecutor(lambda: spec(directory, EMPTY), log=say, starter=starter)
        async with trio.open_nursery() as nursery:
            began = time.perf_counter()
            await nursery.start(executor.start)
            seconds.append(time.perf_counter() - began)
            worker = executor.worker_pid
            assert worker is not None
            memory = private_bytes(worker)
            executor.stop()
    ready = sorted(seconds)[len(seconds) // 2]
    print(f"{name}: ready in {ready * 1e3:.0f} ms (median of 7), {memory / 1e6:.1f} MB of its own")


async def measure_starts(directory: Path) -> None:
    await measure_start(directory, None, "a fresh interpreter")
    zygote = Zygote(log=say)
    async with trio.open_nursery() as nursery:
        await nursery.start(zygote.run)
        await trio.sleep(2)
        await measure_start(directory, zygote, "forked from a zygote")
        assert zygote.fork_count == 7, "all of them are forked"
        nursery.cancel_scope.cancel()


async def main(arguments: Any) -> None:
    rows = [row for row in ROWS if arguments.only in row.name]
    with tempfile.TemporaryDirectory() as directory:
        await measure(Path(directory), rows)
        if not arguments.only:
            await measure_starts(Path(directory))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="run only rows whose name contains this")
    trio.run(main, parser.parse_args(sys.argv[1:]))
