"""What a pipeline costs beside its parts: an ensemble, and a stream of many small responses.

Run `python -m bench.pipelines [ensemble|sequences|street|stream ...]`. `ensemble` asks an ensemble
of three steps that compute nothing, and one of its members alone, inside one process: no socket, no
thread. The promise is at most 3.3 times the cost. `sequences` asks models with ten thousand live
sequences, and one that has none: at most 1.5 times. `street` asks ensemble and member of a server
over gRPC, where the way in and out, which an ensemble pays once, has its usual cost. `stream` reads
many small responses of one request.
"""

from __future__ import annotations

import argparse
import gc
import math
import time

import numpy as np
import trio

from actors.street.local_calls import infer
from bench.noop import serving
from bench.pipeline_models import noop_models
from bench.pipeline_sequences import measure_sequences
from bench.pipeline_wire import measure_streams, measure_street
from protocol.inference import InferRequest, Tensor

CALLS = 4_000
REPEATS = 8
PROMISE = 3.3


async def cost(calls: object, model: str, at_once: int) -> float:
    """Seconds of CPU time per request."""
    tensor = Tensor.from_array("INPUT", np.zeros((1, 1), np.float32))

    async def ask(count: int) -> None:
        for _ in range(count):
            await infer(calls, InferRequest(model, inputs=[tensor]))  # type: ignore[arg-type]  # Calls

    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(ask, CALLS // at_once)
    return (time.process_time() - began) / CALLS


async def measure_ensemble() -> None:
    print("ensemble of three no-op steps, µs of CPU time per request, the best of", REPEATS)
    async with serving(noop_models("INPUT")) as core:
        for at_once in (1, 8, 32):
            best = {"step": math.inf, "chain": math.inf}
            for _ in range(REPEATS):  # in turns, so that a busy machine is fair to both
                for model, before in best.items():
                    best[model] = min(before, await cost(core.calls, model, at_once))
            ratio = best["chain"] / best["step"]
            print(
                f"  {at_once:3} at once: one step {best['step'] * 1e6:6.1f}   ensemble "
                f"{best['chain'] * 1e6:6.1f}   = {ratio:.2f} steps"
                f"{'' if ratio <= PROMISE else f', above {PROMISE}'}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="what pipelines cost")
    parser.add_argument("parts", nargs="*", default=["ensemble", "sequences", "street", "stream"])
    parts = parser.parse_args().parts
    gc.freeze()
    if "ensemble" in parts:
        trio.run(measure_ensemble)
    if "sequences" in parts:
        trio.run(measure_sequences)
    if "street" in parts:
        measure_street()
    if "stream" in parts:
        measure_streams()


if __name__ == "__main__":
    main()
