"""What a call of a Python model costs over gRPC, beside another checkout of Troupe.

    python bench/worker_street.py --before FOLDER [--model NAME] [--load 2x4] [--windows 16]

An identity in a worker process, unbatched, also one of 600 kB, `identity_600kb`, or an ensemble of
three such steps, `ensemble_noops`; batched, it is `identity_batched`, `mlp` or `sleep_5ms`.
Both servers run all the time and are driven in turn, in windows of a fraction of a second, by a
client that writes what gRPC's C core writes. Printed is CPU time per answer of server and workers
together, the lower quartile of the windows: what a window costs in which the machine was left in
peace. A load is connections x calls in flight on each.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench.processes import free_ports, process_tree, running
from bench.wire_load import END_HEADERS, END_STREAM, FRAME, HEADERS, WINDOW_UPDATE, Connection
from protocol.proto.messages import ModelInferRequest

ROOT = Path(__file__).parents[1]
# By the model that is asked: what has to be there for it.
MODELS = {
    "identity": ("identity",),
    "identity_600kb": ("identity_600kb",),
    "noop": ("noop",),
    "ensemble_noops": ("ensemble_noops", "noop"),
    "identity_batched": ("identity_batched",),
    "mlp": ("mlp",),
    "sleep_5ms": ("sleep_5ms",),
}
SHAPES = {  # of the input, where it is not 16 numbers
    "identity_600kb": (3, 224, 224),
    "identity_batched": (1, 16),
    "mlp": (1, 784),
    "sleep_5ms": (1, 16),
}
PATH = "/inference.GRPCInferenceService/ModelInfer"
WINDOW_SECONDS = 0.3
READY_SECONDS = 60.0


class CoreConnection(Connection):
    """With the WINDOW_UPDATE that the C core puts before a call's DATA."""

    window = 1 << 30  # with room for the updates

    def start(self, calls: int) -> None:
        for _ in range(calls):
            stream = self._next_stream
            self._next_stream = stream + 2
            self._outbound += FRAME.pack(len(self._fixed) << 8 | HEADERS, END_HEADERS, stream)
            self._outbound += self._fixed
            self._outbound += FRAME.pack(4 << 8 | WINDOW_UPDATE, 0, stream) + b"\0\0\0\5"
            self._outbound += FRAME.pack(len(self._body) << 8, END_STREAM, stream) + self._body


class Load:
    """A closed loop of calls that pauses between windows."""

    def __init__(self, address: str, model: str, connections: int, calls: int) -> None:
        message = ModelInferRequest(model_name=model)
        tensor = message.inputs.add()
        tensor.name, tensor.datatype = "INPUT0", "FP32"
        shape = SHAPES.get(model, (16,))
        tensor.shape.extend(shape)
        message.raw_input_contents.append(np.ones(shape, np.float32).tobytes())
        asked = message.SerializeToString()
        self._calls = calls
        self._selector = selectors.DefaultSelector()
        self.peers = [
            CoreConnection(address, PATH, asked, fresh_headers=False) for _ in range(connections)
        ]
        for peer in self.peers:
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)

    def drive(self, seconds: float) -> tuple[int, float]:
        """The answers of one window, and how long it took until the last of them."""
        began = time.perf_counter()
        before = sum(peer.answered for peer in self.peers)
        open_calls = self._calls * len(self.peers)
        for peer in self.peers:
            peer.start(self._calls)
            peer.flush()
        while open_calls:
            is_over = time.perf_counter() - began >= seconds
            for key, _ in self._selector.select(1.0):
                peer = key.data
                ended = peer.receive()
                if is_over:
                    open_calls -= ended
                else:
                    peer.start(ended)
                peer.flush()
        assert not any(peer.failed for peer in self.peers), "a call has failed"
        answered = sum(peer.answered for peer in self.peers) - before
        return answered, time.perf_counter() - began


def cpu_seconds(pid: int) -> float:
    """Of all threads of a process and its children, to the nanosecond."""
    files = [
        file
        for each in process_tree(pid)
        for file in Path(f"/proc/{each}/task").glob("*/schedstat")
    ]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


@contextmanager
def troupe(checkout: Path, folder: Path) -> Iterator[tuple[int, str]]:
    """A server of this checkout: its process and its gRPC address."""
    http, grpc, metrics = free_ports(3)
    command = [sys.executable, "-m", "troupe", "serve", f"--model-repository={folder}"]
    for port, name in ((http, "http"), (grpc, "grpc"), (metrics, "metrics")):
        command += [f"--{name}-port={port}", f"--{name}-address=127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    log = folder.parent / f"{http}.log"
    with running("troupe", command, log=log, environment=environment, directory=checkout) as server:
        server.wait_ready(f"http://127.0.0.1:{http}/v2/health/ready", READY_SECONDS)
        yield server.pid, f"127.0.0.1:{grpc}"


def compare(before: Path, model: str, load: str, windows: int) -> None:
    connections, calls = map(int, load.split("x"))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        repository = Path(scratch) / "models"
        for name in MODELS[model]:
            shutil.copytree(ROOT / "bench" / "models" / name, repository / name)
        spent: dict[str, list[float]] = {"now": [], "before": []}
        servers = {
            name: stack.enter_context(troupe(checkout, repository))
            for name, checkout in (("now", ROOT), ("before", before.resolve()))
        }
        loads = {
            name: Load(address, model, connections, calls) for name, (_, address) in servers.items()
        }
        rates: dict[str, list[float]] = {"now": [], "before": []}
        for one in loads.values():
            one.drive(WINDOW_SECONDS)
        for number in range(windows):
            for name in ("now", "before") if number % 2 else ("before", "now"):
                began = cpu_seconds(servers[name][0])
                answers, seconds = loads[name].drive(WINDOW_SECONDS)
                spent[name].append((cpu_seconds(servers[name][0]) - began) / answers * 1e6)
                rates[name].append(answers / seconds)
    quartile = {name: sorted(each)[len(each) // 4] for name, each in spent.items()}
    for name, each in spent.items():
        median, rate = statistics.median(each), statistics.median(rates[name])
        print(f"{load} {name:6} {quartile[name]:6.1f} us (median {median:.1f}), {rate:.0f}/s")
    rate = statistics.median(rates["now"]) / statistics.median(rates["before"])
    print(
        f"{load} now / before: {quartile['now'] / quartile['before']:.2f} of the CPU time, "
        f"{rate:.2f} times the answers/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--model", choices=MODELS, default="identity")
    parser.add_argument("--load", nargs="+", default=["1x1", "2x4", "4x8"])
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    for load in given.load:
        compare(given.before, given.model, load, given.windows)


if __name__ == "__main__":
    main()
