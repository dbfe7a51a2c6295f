"""Twice as many requests as a server can do: what it still answers, and what it holds meanwhile.

    python bench/overload.py [--seconds N] [--model NAME ...]

First a closed loop finds the capacity of a model. Then requests come in an open loop, at random
(Poisson) and at twice that rate, whether answers come or not, to the same model with a limit on
its queue (`max_queue_size`). Goodput is what the server's own statistics count as answered, per
second, over the capacity. The rest is refused at once, or held back by the client where the
server lets it have no more calls open. The generator is a process of its own, and takes what CPU
it needs: where that is a core's worth, two cores are not enough to tell the server's part.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peer_servers import Endpoint, start_troupe
from bench.processes import memory
from bench.side_by_side_cases import ask
from bench.wire import grpc_message
from bench.wire_load import Connection, drive
from protocol.proto.messages import ModelInferRequest

HERE = Path(__file__).parent
PATH = "/inference.GRPCInferenceService/ModelInfer"
# The models, and how many wait at most: several batches, so that no model idles, and no more.
# A device that sleeps, a worker that computes, and a server that has next to nothing to wait for.
QUEUES = {"sleep_5ms": 64, "mlp": 128, "identity_batched": 256}
ELEMENTS = {"sleep_5ms": 16, "mlp": 784, "identity_batched": 16}
CONNECTIONS = 4
CLOSED_STREAMS = 32  # per connection, enough to fill every batch
SLICE_SECONDS = 0.001  # the generator looks at its schedule so often
SAMPLES = 20  # looks at the server's memory


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


def flood(address: str, model: str, rate: float, seconds: float) -> dict[str, int]:
    """Send at `rate` for `seconds`, at random instants, whatever comes back.

    The result has the numbers of requests sent, held back because the server lets a client have
    only so many open, and failed by the transport.
    """
    chance = random.Random(1)
    selector = selectors.DefaultSelector()
    peers = [
        Connection(address, PATH, message(model), fresh_headers=False) for _ in range(CONNECTIONS)
    ]
    for peer in peers:
        selector.register(peer.socket, selectors.EVENT_READ, peer)
    sent, held_back, began = 0, 0, time.perf_counter()
    due = began + chance.expovariate(rate)
    while (now := time.perf_counter()) < began + seconds:
        while due <= now:
            peer = peers[(sent + held_back) % CONNECTIONS]
            if peer.room > 0:
                peer.start(1)
                sent += 1
            else:
                held_back += 1
            due += chance.expovariate(rate)
        for peer in peers:
            peer.flush()
        for key, _ in selector.select(timeout=SLICE_SECONDS):
            key.data.receive()
    for peer in peers:
        peer.socket.close()
    failed = sum(peer.failed for peer in peers)
    return {"sent": sent, "held_back": held_back, "failed": failed}


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
class Overload:
    """One flood; rates per second, memory in MiB, time in ms."""

    capacity: float
    offered: float
    goodput: float
    refused: float
    held_back: float  # by the client, since the server allows only so many open calls
    queue_ms: float  # mean, of those that were answered
    pss: Sequence[float]

    @property
    def row(self) -> str:
        ratio = self.goodput / self.capacity
        return (
            f"{self.capacity:,.0f} | {self.offered:,.0f} | {self.goodput:,.0f} | {ratio:.2f} "
            f"| {self.refused:,.0f} | {self.held_back:,.0f} | {self.queue_ms:.1f} "
            f"| {self.pss[0]:.0f} | {max(self.pss):.0f}"
        )


def overload(model: str, seconds: float, times: float) -> Overload:
    with (
        limited(model) as repository,
        tempfile.TemporaryDirectory() as logs,
        start_troupe(repository, log=Path(logs) / "server.log") as endpoint,
    ):
        closed = drive(
            endpoint.grpc,
            PATH,
            message(model),
            connections=CONNECTIONS,
            streams=min(CLOSED_STREAMS, QUEUES[model] // CONNECTIONS),  # or some would be refused
            seconds=seconds / 2,
        )
        capacity = closed["answers_per_second"]
        before, began = counts(endpoint, model), time.perf_counter()
        command = [sys.executable, __file__, "--flood", endpoint.grpc, "--model", model]
        command += ["--rate", str(capacity * times), "--seconds", str(seconds)]
        held = [memory(endpoint.server.pid).pss]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
            for _ in range(SAMPLES):
                time.sleep(seconds / SAMPLES)
                held.append(memory(endpoint.server.pid).pss)
            output, _ = generator.communicate()
        told = json.loads(output)
        assert not told["failed"], f"{told['failed']} calls failed in the transport"
        elapsed = min(seconds, time.perf_counter() - began)
        after = counts(endpoint, model)
        answered = after.answered - before.answered
        return Overload(
            capacity=capacity,
            offered=(told["sent"] + told["held_back"]) / seconds,
            goodput=answered / elapsed,
            refused=(told["sent"] - answered) / elapsed,
            held_back=told["held_back"] / seconds,
            queue_ms=(after.queue_ns - before.queue_ns) / max(1, answered) / 1e6,
            pss=held,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--times", type=float, default=2.0, help="the capacity")
    parser.add_argument("--model", nargs="+", choices=list(QUEUES), default=list(QUEUES))
    parser.add_argument("--flood", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        print(json.dumps(flood(options.flood, options.model[0], options.rate, options.seconds)))
        return 0
    print(
        "| model, queue | capacity/s | offered/s | goodput/s | of capacity | refused/s "
        "| held back/s | in queue ms | PSS before | PSS at most |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for model in options.model:
        found = overload(model, options.seconds, options.times)
        print(f"| {model}, {QUEUES[model]} | {found.row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
