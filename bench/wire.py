"""What the wire costs, beside other servers that do the same work in the same run.

    python bench/wire.py                  # some three minutes; prints the tables of docs/wire.md

gRPC: unary ModelInfer through a batcher to an in-process no-op, with constant headers and with one
header that changes on each call; one call at a time; 600 kB tensors, by h2load where it is
installed, since a client in Python is as dear as a server there. HTTP: binary tensors. Before a
gRPC server is measured, one answer to a real client is compared with the right one. The servers
take turns, `ROUNDS` times; a ratio is taken within a round and the table gives the median with its
extremes. CPU is user and system time of the server process per answer. uvicorn with httptools and
uvloop is installed into `.peers/wire` by the first run; `bench/uvicorn_apps.py` says what its two
applications do and leave out.

    python bench/wire.py --before FOLDER  # Troupe beside itself as it is in another checkout
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench import h2load_client, http_load, wire_load
from bench.processes import free_ports
from protocol.proto.messages import ModelInferRequest, ModelInferResponse

ROOT = Path(__file__).parents[1]
INFER = "/inference.GRPCInferenceService/ModelInfer"
ROUNDS = 3
SECONDS = 3.0
TICK = 0.01
MODEL = """
backend: "noop"
max_batch_size: 64
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    grpc: str
    http: str

    def cpu_seconds(self) -> float:
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) * TICK


@contextmanager
def running(name: str, repository: Path, *, before: Path = ROOT) -> Iterator[Server]:
    """Start a server by its name in the table, wait for it, end it."""
    grpc_port, http_port, metrics_port = free_ports(3)
    if name in {"troupe", "before"}:
        command = [
            sys.executable,
            str((before if name == "before" else ROOT) / "bench" / "wire_server.py"),
            f"--model-repository={repository}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            f"--http-port={http_port}",
            f"--grpc-port={grpc_port}",
            f"--metrics-port={metrics_port}",
        ]
        ready = "Metrics Service"
    else:
        interpreter = uvicorn_interpreter() if "uvicorn" in name else sys.executable
        port = http_port if "uvicorn" in name else grpc_port
        command = [
            str(interpreter), str(ROOT / "bench" / "wire_peers.py"), name, "--port", str(port)
        ]  # fmt: skip
        ready = "ready"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if ready in line:
                break
        time.sleep(0.5)  # uvicorn says ready just before it listens
        yield Server(process, f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def uvicorn_interpreter() -> Path:
    """The environment of the uvicorn peer, made by the first run."""
    folder = ROOT / ".peers" / "wire"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = ["uvicorn", "httptools", "uvloop", "numpy", "grpcio", "protobuf"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def grpc_message(elements: int) -> bytes:
    request = ModelInferRequest(model_name="noop")
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = "INPUT0", "FP32"
    tensor.shape.extend([1, elements])
    request.raw_input_contents.append(np.ones(elements, np.float32).tobytes())
    return request.SerializeToString()


@dataclass(frozen=True)
class Row:
    """One line of the table: a load and the servers it is put to."""

    title: str
    servers: tuple[str, ...]
    connections: int
    streams: int
    elements: int = 16
    fresh_headers: bool = False
    http: bool = False
    kind: str = "binary"  # of the tensors over HTTP; or "json"
    by_h2load: bool = False  # where it is installed

    @property
    def client(self) -> str:
        if self.by_h2load and h2load_client.is_installed():
            return h2load_client.COMMAND
        return "http_load.py" if self.http else "wire_load.py"

    def drive(self, server: Server) -> dict[str, float]:
        if self.http:
            return http_load.drive(
                server.http,
                elements=self.elements,
                connections=self.connections,
                seconds=SECONDS,
                kind=self.kind,
            )
        message = grpc_message(self.elements)
        answer_bytes = checked_answer(server.grpc, message)
        in_flight = self.connections * self.streams
        if self.client == h2load_client.COMMAND:
            found = h2load_client.drive(
                server.grpc,
                INFER,
                message,
                connections=self.connections,
                streams=self.streams,
                seconds=SECONDS,
            )
            result = {
                "answers": found.answers,
                "answers_per_second": found.answers_per_second,
                "latency_us": in_flight / found.answers_per_second * 1e6,
                "failed": 0,
                "received_bytes": found.received_bytes,
            }
        else:
            result = wire_load.drive(
                server.grpc,
                INFER,
                message,
                connections=self.connections,
                streams=self.streams,
                seconds=SECONDS,
                fresh_headers=self.fresh_headers,
            )
        # A call that failed has no message; some were under way at either end.
        least = answer_bytes * (result["answers"] - in_flight)
        assert result["received_bytes"] >= least, "some calls have failed"
        return result


def checked_answer(address: str, message: bytes) -> int:
    """The bytes of the right answer. Fails if the server gives another one to a real client."""
    import grpc  # not needed for the rows of HTTP

    limit = ("grpc.max_receive_message_length", -1)
    with grpc.insecure_channel(address, options=[limit]) as channel:
        answer: bytes = channel.unary_unary(INFER)(message, wait_for_ready=True)
    response = ModelInferResponse.FromString(answer)
    request = ModelInferRequest.FromString(message)
    assert list(response.raw_output_contents) == list(request.raw_input_contents), "a wrong answer"
    return len(answer)


GRPC = ("troupe", "grpcio-aio", "grpcio-sync")
HTTP = ("troupe", "uvicorn", "uvicorn-full")
ROWS = (
    Row("gRPC, 64 in flight, constant headers", GRPC, 4, 16),
    Row("gRPC, 64 in flight, a new header each call", GRPC, 4, 16, fresh_headers=True),
    Row("gRPC, one call at a time", GRPC, 1, 1),
    Row("gRPC, 600 kB tensors, 4 in flight", GRPC, 1, 4, elements=150_000, by_h2load=True),
    Row("HTTP, binary, 64 connections", HTTP, 64, 1, http=True),
    Row("HTTP, binary, one connection", HTTP, 1, 1, http=True),
    Row("HTTP, JSON, 64 connections", HTTP, 64, 1, http=True, kind="json"),
    Row("HTTP, 600 kB tensors, 4 connections", HTTP, 4, 1, elements=150_000, http=True),
)


def measure(rows: tuple[Row, ...], rounds: int, before: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        (repository / "noop" / "1").mkdir(parents=True)
        (repository / "noop" / "config.pbtxt").write_text(MODEL)
        print(
            "| load | client | server | answers/s | mean latency µs | CPU µs/answer "
            "| Troupe's answers/s are | of Troupe's CPU |"
        )
        print("|---|---|---|--:|--:|--:|--:|--:|")
        for row in rows:
            print_row(row, repository, rounds, before)


def print_row(row: Row, repository: Path, rounds: int, before: Path | None) -> None:
    servers = row.servers if before is None else ("troupe", "before")
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
    for number in range(rounds):
        order = servers if number % 2 == 0 else servers[::-1]
        for name in order:
            with running(name, repository, before=before or ROOT) as server:
                began = server.cpu_seconds()
                result = row.drive(server)
                spent = server.cpu_seconds() - began
            rate = result["answers_per_second"]
            assert not result["failed"], f"{name} failed {result['failed']} calls"
            answers = max(1.0, rate * SECONDS * 1.1)
            taken[name].append((rate, result["latency_us"], spent / answers * 1e6))
    for name in servers:
        rate, latency, cpu = (
            statistics.median(column) for column in zip(*taken[name], strict=True)
        )
        rounds_of_both = list(zip(taken["troupe"], taken[name], strict=True))
        verdicts = ["", ""]
        if name != "troupe":
            verdicts = [
                spread([ours[0] / theirs[0] for ours, theirs in rounds_of_both]),
                spread([theirs[2] / ours[2] for ours, theirs in rounds_of_both]),
            ]
        print(
            f"| {row.title} | {row.client} | {name} | {rate:,.0f} | {latency:,.0f} | {cpu:,.0f} "
            f"| {verdicts[0]} | {verdicts[1]} |",
            flush=True,
        )


def spread(ratios: list[float]) -> str:
    """The median with its extremes."""
    return f"{statistics.median(ratios):.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose title contains this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--before", type=Path, help="another checkout, in place of the peers")
    given = parser.parse_args()
    rows = tuple(row for row in ROWS if given.only in row.title)
    if any(row.by_h2load for row in rows) and not h2load_client.is_installed():
        print("h2load is not installed (nghttp2-client): wire_load.py takes its place")
    measure(rows, given.rounds, given.before)


if __name__ == "__main__":
    main()
