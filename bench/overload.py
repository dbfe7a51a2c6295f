"""Twice as many requests as a server can do: what it still answers, and what it holds meanwhile.

    python bench/overload.py [--rounds N] [--seconds N] [--model NAME ...]

First a closed loop finds the capacity of a model. Then requests come in an open loop at twice that
rate, whether answers come or not, to the same model with a limit on its queue (`max_queue_size`).
Both are driven by h2load. Goodput is what the server's own statistics count as answered, per second
and after a warm-up, over the capacity, which is counted likewise. The rest is refused at once, or
held back by the client, which has at most OPEN_STREAMS calls open on each connection. The generator
is a process of its own, and takes some of the CPU that is measured: the table says how much.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import h2load_client
from bench.peer_servers import Endpoint, start_troupe
from bench.processes import cpu_seconds, memory
from bench.side_by_side_cases import ask
from bench.wire import grpc_message
from protocol.proto.messages import ModelInferRequest

HERE = Path(__file__).parent
PATH = "/inference.GRPCInferenceService/ModelInfer"
# The models, and how many wait at most: several batches, so that no model idles, and no more.
# A device that sleeps, a worker that computes, and a server that has next to nothing to wait for.
QUEUES = {"sleep_5ms": 64, "mlp": 128, "identity_batched": 256}
ELEMENTS = {"sleep_5ms": 16, "mlp": 784, "identity_batched": 16}
CONNECTIONS = 8
CLOSED_STREAMS = 16  # per connection, enough to fill every batch
OPEN_STREAMS = 500  # so many that what is held back is what the server does not read
SAMPLES = 20  # looks at the server's memory
WARM_UP = 0.2  # of the time, not counted
# As in the comparison with Triton: numpy on one thread, or its threads fight for the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def message(model: str) -> bytes:
    """A request to `model`."""
    request = ModelInferRequest.FromString(grpc_message(ELEMENTS[model]))
    request.model_name = model
    return request.SerializeToString()


@contextmanager
def limited(model: str) -> Iterator[Path]:
    """A repository of that one model, with a limit on its queue."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / model
        shutil.copytree(HERE / "models" / model, target)
        config = target / "config.pbtxt"
        policy = f"default_queue_policy {{ max_queue_size: {QUEUES[model]} }}"
        text = config.read_text()
        assert "dynamic_batching { }" in text, f"{config} says more than expected"
        config.write_text(text.replace("{ }", f"{{ {policy} }}"))
        yield Path(folder)


@dataclass(frozen=True)
class Counts:
    """What the server says of one model so far."""

    answered: int
    queue_ns: int


def counts(endpoint: Endpoint, model: str) -> Counts:
    match ask(f"http://{endpoint.http}/v2/models/{model}/stats"):
        case {
            "model_stats": [
                {
                    "inference_stats": {
                        "success": {"count": int(answered)},
                        "queue": {"ns": int(queue_ns)},
                    }
                }
            ]
        }:
            return Counts(answered, queue_ns)
        case other:
            raise ValueError(f"no statistics in {other!r}")


@dataclass(frozen=True)
class Load:
    """What a server did under one load, after the warm-up; `pss` is the most it held, in MiB."""

    answered: float  # per second
    queue_ms: float  # mean, of those that were answered
    cores: float  # that the server took
    pss: float
    client: h2load_client.Measurement


def drive(
    endpoint: Endpoint,
    model: str,
    seconds: float,
    *,
    connections: int,
    streams: int,
    rate: float | None = None,
) -> Load:
    """Drive the model for so long, and look at the server meanwhile."""
    pid = endpoint.server.pid
    run = partial(
        h2load_client.drive,
        endpoint.grpc,
        PATH,
        message(model),
        connections=connections,
        streams=streams,
        seconds=seconds,
        rate=rate,
    )
    with ThreadPoolExecutor(1) as threads:
        client = threads.submit(run)
        time.sleep(seconds * WARM_UP)
        before, cpu, began = counts(endpoint, model), cpu_seconds(pid), time.perf_counter()
        pss = 0.0
        for _ in range(SAMPLES):
            time.sleep(seconds * (1 - WARM_UP) / SAMPLES)
            pss = max(pss, memory(pid).pss)
        after, elapsed = counts(endpoint, model), time.perf_counter() - began
        cpu = cpu_seconds(pid) - cpu
        found = client.result()
    answered = after.answered - before.answered
    return Load(
        answered=answered / elapsed,
        queue_ms=(after.queue_ns - before.queue_ns) / max(1, answered) / 1e6,
        cores=cpu / elapsed,
        pss=pss,
        client=found,
    )


@dataclass(frozen=True)
class Overload:
    """One flood, and what the server can do; rates per second, memory in MiB."""

    capacity: Load
    flood: Load
    offered: float
    refused: float
    held_back: float
    client_cores: float
    pss_before: float

    @property
    def goodput(self) -> float:
        return self.flood.answered / self.capacity.answered


def overload(model: str, seconds: float, times: float) -> Overload:
    with (
        limited(model) as repository,
        tempfile.TemporaryDirectory() as logs,
        start_troupe(
            repository, log=Path(logs) / "server.log", environment=ENVIRONMENT
        ) as endpoint,
    ):
        capacity = drive(
            endpoint,
            model,
            seconds / 2,
            connections=CONNECTIONS,
            # Not more, or some would be refused.
            streams=min(CLOSED_STREAMS, QUEUES[model] // CONNECTIONS),
        )
        offered = capacity.answered * times
        held = memory(endpoint.server.pid).pss
        flood = drive(
            endpoint, model, seconds, connections=CONNECTIONS, streams=OPEN_STREAMS, rate=offered
        )
        whole = seconds * 1.1  # h2load's warm-up comes before
        return Overload(
            capacity=capacity,
            flood=flood,
            offered=offered,
            refused=max(0.0, flood.client.answers_per_second - flood.answered),
            held_back=max(0.0, offered - flood.client.answers_per_second),
            client_cores=flood.client.cpu_seconds / whole,
            pss_before=held,
        )


def print_row(model: str, found: list[Overload]) -> None:
    """Medians; of goodput the extremes as well, where there are several rounds."""
    middle = {
        "capacity": statistics.median(one.capacity.answered for one in found),
        "offered": statistics.median(one.offered for one in found),
        "goodput": statistics.median(one.flood.answered for one in found),
    }
    ratios = [one.goodput for one in found]
    ratio = f"{statistics.median(ratios):.2f}"
    if len(ratios) > 1:
        ratio += f" ({min(ratios):.2f} to {max(ratios):.2f})"
    refused = statistics.median(one.refused for one in found)
    held_back = statistics.median(one.held_back for one in found)
    queue_ms = statistics.median(one.flood.queue_ms for one in found)
    at_capacity = statistics.median(one.capacity.cores for one in found)
    flooded = statistics.median(one.flood.cores for one in found)
    client = statistics.median(one.client_cores for one in found)
    print(
        f"| {model}, {QUEUES[model]} | {middle['capacity']:,.0f} | {middle['offered']:,.0f} "
        f"| {middle['goodput']:,.0f} | {ratio} | {refused:,.0f} | {held_back:,.0f} "
        f"| {queue_ms:.1f} | {at_capacity:.2f}, {flooded:.2f} | {client:.2f} "
        f"| {max(one.pss_before for one in found):.0f} "
        f"| {max(one.flood.pss for one in found):.0f} |",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--times", type=float, default=2.0, help="the capacity")
    parser.add_argument("--model", nargs="+", choices=list(QUEUES), default=list(QUEUES))
    options = parser.parse_args()
    print(
        "| model, queue | capacity/s | offered/s | goodput/s | of capacity | refused/s "
        "| held back/s | in queue ms | server's cores at capacity, flooded | h2load's cores "
        "| PSS before | PSS at most |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for model in options.model:
        rounds = [overload(model, options.seconds, options.times) for _ in range(options.rounds)]
        print_row(model, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
