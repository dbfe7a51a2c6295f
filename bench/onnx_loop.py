"""How close Troupe's onnxruntime backend comes to a bare loop around onnxruntime.

    python bench/onnx_loop.py [--rounds N] [--seconds N] [--model NAME ...]

The bare loop calls `run` of a session in a process of its own, with batches of every size up to
the largest, and the best of them counts. Troupe then serves the same file with batches of that
size to the real perf_analyzer, which sends whole batches over gRPC, three at a time, through system
shared memory and without. Both sessions compute on one thread, so that on two cores the other is
left to the wire and the client. Rounds alternate; a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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

from bench.peer_servers import start_troupe
from bench.perf_client import Load, measure

ROOT = Path(__file__).parents[1]
WINDOW_BATCHES = 8  # perf_analyzer counts what begins and ends within a window
CONCURRENCY = 3  # one batch in the session, the next beside it, one on its way
ONE_THREAD = (
    'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    'parameters { key: "inter_op_thread_count" value { string_value: "1" } }\n'
)
CONFIG = """
backend: "onnxruntime"
max_batch_size: {batch}
input {{ name: "INPUT" data_type: TYPE_FP32 dims: [ {dims} ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""


@dataclass(frozen=True)
class Model:
    """One row: the input of an item, the largest batch, and what is asked of a request."""

    name: str
    shape: tuple[int, ...]
    largest_batch: int
    output_bytes: int  # of the largest output, per item


MODELS = (
    Model("digits", (64,), 4096, 40),
    Model("resnet18", (3, 224, 224), 16, 4000),
)


@contextmanager
def files() -> Iterator[dict[str, Path]]:
    """The ONNX file of every model."""
    from bench import resnet18

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "resnet18.onnx"
        resnet18.write(made)
        yield {
            "digits": ROOT / "sample_repository" / "digits" / "1" / "model.onnx",
            "resnet18": made,
        }


def loop(model: Model, path: Path, seconds: float) -> dict[int, float]:
    """Items per second of the bare loop by batch size; runs in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    sizes = [2**power for power in range(model.largest_batch.bit_length())]
    found = {}
    for size in sizes:
        batch = {"INPUT": np.random.default_rng(1).random((size, *model.shape), np.float32)}
        session.run(None, batch)
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds / len(sizes) or count < 3:
            session.run(None, batch)
            count += 1
        found[size] = count * size / elapsed
    return found


def bare(model: Model, path: Path, seconds: float) -> dict[int, float]:
    """The same in a process that does nothing else."""
    command = [sys.executable, __file__, "--loop", str(path)]
    command += ["--model", model.name, "--seconds", str(seconds)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {int(size): rate for size, rate in json.loads(ended.stdout).items()}


def served(model: Model, path: Path, batch: int, window: float) -> dict[str, float]:
    """Items per second of Troupe by the way that tensors take, over three windows of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "models" / model.name / "1"
        version.mkdir(parents=True)
        shutil.copy(path, version / "model.onnx")
        dims = ", ".join(map(str, model.shape))
        config = CONFIG.format(batch=batch, dims=dims) + ONE_THREAD
        (version.parent / "config.pbtxt").write_text(config)
        shared = ("--shared-memory", "system")
        room = ("--output-shared-memory-size", str(model.output_bytes))
        with start_troupe(
            version.parents[1], log=Path(folder) / "log", flags=["--allow-client-shm=true"]
        ) as endpoint:
            return {
                way: measure(
                    Load(
                        model.name,
                        "grpc",
                        CONCURRENCY,
                        ("-b", str(batch), "-a", *options),
                        window_seconds=window,
                    ),
                    endpoint.grpc,
                ).requests_per_second
                for way, options in (("gRPC", ()), ("shared memory", (*shared, *room)))
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    names = [model.name for model in MODELS]
    parser.add_argument("--model", nargs="+", choices=names, default=names)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = [model for model in MODELS if model.name in options.model]
    if options.loop:
        print(json.dumps(loop(models[0], options.loop, options.seconds)))
        return 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| model | best batch | bare loop, items/s | Troupe over | items/s | of the bare loop |")
    print("|---|--:|--:|---|--:|--:|")
    with files() as paths:
        for model in models:
            rates = bare(model, paths[model.name], options.seconds)
            batch = max(rates, key=lambda size: rates[size])
            print_model(model, paths[model.name], batch, options)
    return 0


def print_model(model: Model, path: Path, batch: int, options: argparse.Namespace) -> None:
    alone: list[float] = []
    troupe: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        alone.append(bare(model, path, options.seconds)[batch])
        window = max(1.0, options.seconds / 3, WINDOW_BATCHES * batch / alone[-1])
        for way, rate in served(model, path, batch, window).items():
            troupe.setdefault(way, []).append(rate)
    for way, found in troupe.items():
        ratios = [ours / theirs for ours, theirs in zip(found, alone, strict=True)]
        print(
            f"| {model.name} | {batch} | {statistics.median(alone):,.0f} | {way} "
            f"| {statistics.median(found):,.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
