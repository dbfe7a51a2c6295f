"""What connections in processes of their own cost and bring: --frontend-workers 0, 1 and 2.

    python bench/frontends.py                 # some two minutes; prints the table of the chapter
    python bench/frontends.py --seconds 2 --rounds 1 --workers 0 2

gRPC: unary ModelInfer, 64 in flight on 8 connections, to a no-op and to the identity backend
(FP32[16], batched, in a thread); HTTP: a thousand numbers as JSON to the no-op, on 64 connections,
since that is where codecs cost most. The load generator is one process, and
shares the machine's cores with the server: on two cores the rate says little about a larger
machine. What it costs says more: CPU per request, of the core's process and of all frontends.
Counts of N take turns within a round; the table gives medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench.processes import TICKS_PER_SECOND, free_ports, process_tree, running
from protocol.proto.messages import ModelInferRequest

ROOT = Path(__file__).parents[1]
CONNECTIONS, STREAMS = 8, 8
JSON_ELEMENTS = 1000
READY_SECONDS = 60.0
CONFIG = """
backend: "{backend}"
max_batch_size: 64
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{ }}
"""
MODELS = {"noop": "noop", "identity": "identity"}


@dataclass(frozen=True)
class Sample:
    """One run; CPU in microseconds per request."""

    rate: float
    core_us: float
    frontends_us: float


def message(model: str) -> bytes:
    request = ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="INPUT0", datatype="FP32")
    tensor.shape.extend((1, 16))
    request.raw_input_contents.append(np.arange(16, dtype=np.float32).tobytes())
    return bytes(request.SerializeToString())


def cpu_by_part(server: int) -> tuple[float, float]:
    """CPU seconds of the server's own process so far, and of all its frontends."""
    core = frontends = 0
    for pid in process_tree(server):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        ticks = int(fields[11]) + int(fields[12])
        if pid == server:
            core += ticks
        elif b"troupe.frontend" in command:
            frontends += ticks
    return core / TICKS_PER_SECOND, frontends / TICKS_PER_SECOND


@contextmanager
def serving(workers: int, repository: Path, log: Path) -> Iterator[tuple[int, str, str]]:
    """A server: its pid and the addresses of its gRPC and HTTP ports."""
    http, grpc, metrics = free_ports(3)
    command = [
        sys.executable,
        str(ROOT / "bench" / "wire_server.py"),
        f"--model-repository={repository}",
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1"),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--frontend-workers={workers}",
    ]
    with running("troupe", command, log=log) as process:
        process.wait_ready(f"http://127.0.0.1:{http}/v2/health/ready", READY_SECONDS)
        yield process.pid, f"127.0.0.1:{grpc}", f"127.0.0.1:{http}"


def grpc_load(address: str, body: Path, seconds: float) -> list[str]:
    command = [sys.executable, str(ROOT / "bench" / "wire_load.py"), "--address", address]
    command += ["--message", str(body), "--seconds", str(seconds)]
    return [*command, "--connections", str(CONNECTIONS), "--streams", str(STREAMS)]


def json_load(address: str, seconds: float) -> list[str]:
    text = (
        f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); from bench import http_load; "
        f"print(json.dumps(http_load.drive({address!r}, elements={JSON_ELEMENTS}, "
        f"connections={CONNECTIONS * STREAMS}, seconds={seconds}, kind='json')))"
    )
    return [sys.executable, "-c", text]


def measure(server: int, command: Sequence[str], seconds: float) -> Sample:
    core, frontends = cpu_by_part(server)
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    core_after, frontends_after = cpu_by_part(server)
    result = json.loads(ended.stdout)
    if result["failed"]:
        raise SystemExit(f"{result['failed']} requests failed")
    # CPU includes the warm-up, which is a tenth of the time.
    answers = result["answers_per_second"] * seconds * 1.1
    return Sample(
        result["answers_per_second"],
        (core_after - core) / answers * 1e6,
        (frontends_after - frontends) / answers * 1e6,
    )


def write_repository(folder: Path) -> Path:
    for name, backend in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(backend=backend))
    return folder


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args(arguments)
    samples: dict[tuple[str, int], list[Sample]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        repository = write_repository(Path(scratch) / "models")
        bodies = {name: Path(scratch) / f"{name}.bin" for name in MODELS}
        for name, body in bodies.items():
            body.write_bytes(message(name))
        for _ in range(given.rounds):
            for workers in given.workers:
                with serving(workers, repository, Path(scratch) / "server.log") as server:
                    pid, grpc, http = server
                    loads = {
                        name: grpc_load(grpc, body, given.seconds) for name, body in bodies.items()
                    }
                    loads["noop, JSON"] = json_load(http, given.seconds)
                    for name, command in loads.items():
                        sample = measure(pid, command, given.seconds)
                        samples.setdefault((name, workers), []).append(sample)
    print("| load | N | requests/s | µs CPU per request: core | frontends | together |")
    print("|---|---|---|---|---|---|")
    for (name, workers), found in sorted(samples.items()):
        rate = statistics.median(each.rate for each in found)
        core = statistics.median(each.core_us for each in found)
        frontends = statistics.median(each.frontends_us for each in found)
        print(
            f"| {name} | {workers} | {rate:,.0f} | {core:.1f} | {frontends:.1f} "
            f"| {core + frontends:.1f} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
