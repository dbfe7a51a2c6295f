"""Troupe, Triton and other Python servers on two models, with JSON, one server after another.

    python bench/python_servers.py [--server NAME ...] [--rounds N] [--seconds N]

The models are `identity` (one tensor of 16 numbers, unbatched) and `sleep_5ms` (batches up to
16 where the server can batch). Every server runs alone; rounds go through all of them, so that
each is measured at several moments. CPU per request is that of the server's whole process tree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peers
from peer_servers import READY_SECONDS, start_triton, start_troupe
from processes import Server, ServerFailed, cpu_seconds, free_ports, memory, running
from side_by_side_cases import WrongAnswer, ask
from wrk_client import ClientFailed, measure

HERE = Path(__file__).parent
VALUES = [float(number) for number in range(16)]
MODELS = ("identity", "sleep_5ms")
CONCURRENCIES = (1, 8, 32)
WARM_UP_SECONDS = 1.0
FLAGS = ("--exit-on-error=false", "--strict-readiness=false")


@dataclass(frozen=True)
class Target:
    """A running server's way to one model: where to post what, and what comes back."""

    server: Server
    url: str
    body: object
    answer: Callable[[object], object]


def _v2_values(answer: object) -> object:
    match answer:
        case {"outputs": [{"data": data}]}:
            return data
        case _:
            return answer


def _litserve_values(answer: object) -> object:
    return answer["output"] if isinstance(answer, dict) else answer


def _v2(server: Server, port: int, model: str, shape: Sequence[int]) -> Target:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": list(shape), "data": VALUES}
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    return Target(server, url, {"inputs": [tensor]}, _v2_values)


@contextmanager
def troupe(model: str, log: Path) -> Iterator[Target]:
    with start_troupe(HERE / "models", log=log, flags=FLAGS) as endpoint:
        shape = (16,) if model == "identity" else (1, 16)
        yield _v2(endpoint.server, endpoint.http_port, model, shape)


@contextmanager
def triton(model: str, log: Path) -> Iterator[Target]:
    with start_triton(HERE / "models", log=log, flags=FLAGS) as endpoint:
        shape = (16,) if model == "identity" else (1, 16)
        yield _v2(endpoint.server, endpoint.http_port, model, shape)


@contextmanager
def mlserver(model: str, log: Path) -> Iterator[Target]:
    """MLServer without its worker processes, which cost it two to three times as much."""
    program = peers.install("mlserver") / "venv" / "bin" / "mlserver"
    http, grpc, metrics = free_ports(3)
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "parallel_workers": 0,
            "debug": False,
        }
        (Path(scratch) / "settings.json").write_text(json.dumps(settings))
        source = HERE / "peers" / "mlserver"
        (Path(scratch) / model).symlink_to(source / model)
        command = [str(program), "start", scratch]
        paths = {"PYTHONPATH": str(source)}
        with running("mlserver", command, log=log, environment=paths) as server:
            ready = f"http://127.0.0.1:{http}/v2/models/{model}/ready"
            server.wait_ready(ready, READY_SECONDS)
            yield _v2(server, http, model, (1, 16))


@contextmanager
def kserve(model: str, log: Path) -> Iterator[Target]:
    python = peers.install("kserve") / "venv" / "bin" / "python"
    (port,) = free_ports(1)
    command = [str(python), str(HERE / "peers" / "kserve_server.py"), f"--http_port={port}"]
    with running("kserve", command, log=log) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/v2/models/{model}/ready", READY_SECONDS)
        yield _v2(server, port, model, (1, 16))


@contextmanager
def litserve(model: str, log: Path) -> Iterator[Target]:
    python = peers.install("litserve") / "venv" / "bin" / "python"
    (port,) = free_ports(1)
    command = [str(python), str(HERE / "peers" / "litserve_server.py"), model, str(port)]
    with running("litserve", command, log=log) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/health", READY_SECONDS)
        yield Target(
            server, f"http://127.0.0.1:{port}/predict", {"input": VALUES}, _litserve_values
        )


SERVERS = {
    "troupe": troupe,
    "triton": triton,
    "mlserver": mlserver,
    "kserve": kserve,
    "litserve": litserve,
}
Cell = tuple[str, str, int]


@dataclass(frozen=True)
class Sample:
    """One run of the client; memory is that of the server right after it."""

    requests_per_second: float
    p50_us: float
    p99_us: float
    cpu_us_per_request: float
    pss_mib: float


def run_server(name: str, model: str, seconds: float, logs: Path) -> dict[Cell, Sample]:
    """Starts one server, checks one answer, and drives it at every concurrency."""
    found: dict[Cell, Sample] = {}
    with SERVERS[name](model, logs / f"{name}.log") as target:
        if (answer := target.answer(ask(target.url, target.body))) != VALUES:
            raise WrongAnswer(f"{name} answered {answer!r}"[:200])
        for concurrency in CONCURRENCIES:
            measure(target.url, target.body, concurrency=concurrency, seconds=WARM_UP_SECONDS)
            before = cpu_seconds(target.server.pid)
            run = measure(target.url, target.body, concurrency=concurrency, seconds=seconds)
            cpu = cpu_seconds(target.server.pid) - before
            found[name, model, concurrency] = Sample(
                requests_per_second=run.requests_per_second,
                p50_us=run.p50_us,
                p99_us=run.p99_us,
                cpu_us_per_request=cpu / run.requests * 1e6,
                pss_mib=memory(target.server.pid).pss,
            )
    return found


def print_table(cells: dict[Cell, list[Sample]]) -> None:
    print("\n| model | conc | server | req/s | p50 µs | p99 µs | CPU µs/req | PSS MiB |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for name, model, concurrency in sorted(cells, key=lambda cell: (cell[1], cell[2], cell[0])):
        samples = cells[name, model, concurrency]
        columns = []
        for field in Sample.__dataclass_fields__:
            values = [getattr(sample, field) for sample in samples]
            text = f"{statistics.median(values):.0f}"
            if len(values) > 1:
                text += f" ({min(values):.0f}..{max(values):.0f})"
            columns.append(text)
        print(f"| {model} | {concurrency} | {name} | {' | '.join(columns)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description="Troupe beside other Python servers")
    parser.add_argument("--server", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    cells: dict[Cell, list[Sample]] = {}
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.rounds):
            for model in options.model:
                for name in options.server:
                    try:
                        found = run_server(name, model, options.seconds, Path(scratch))
                    except (ServerFailed, ClientFailed, WrongAnswer) as problem:
                        reasons.append(f"{name} {model}: {problem}")
                        continue
                    for cell, sample in found.items():
                        cells.setdefault(cell, []).append(sample)
    print_table(cells)
    for reason in dict.fromkeys(reasons):
        print(f"\n{reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
