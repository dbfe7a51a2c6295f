"""What requests of ten thousand live sequences cost beside requests that belong to none.

The same callers ask a dynamic batcher, and a sequence batcher whose every sequence is live
throughout: all have begun before anything is measured, none ends, and requests go round all of
them, so that no sequence is asked twice before every other was asked once. What takes 10,000
requests a second of a sequence each is played as fast as it goes; the sequences stay as many.

The promise is about the batchers, which do the same work in both models: candidates of the oldest
strategy share one instance. With the direct one each instance has but as many sequences as its
batches have places, so here requests meet in no batch, and each brings padding along.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import trio

from actors.street.calls import Calls
from actors.street.local_calls import infer
from bench.noop import serving
from protocol.inference import InferRequest, SequenceFlag, Tensor

SEQUENCES: Final = 10_000
PROMISE: Final = 1.5
REPEATS: Final = 5
AT_ONCE: Final = (1, 8, 64)

_IO: Final = """
backend: "noop" max_batch_size: 8 instance_group { kind: KIND_CPU }
input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "X" data_type: TYPE_FP32 dims: [ 1 ] }
"""
# No sequence may be given up while the others have their turn.
_IDLE: Final = "max_sequence_idle_microseconds: 3600000000"
_CONTROLS: Final = """
control_input { name: "START"
  control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
control_input { name: "READY"
  control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } }
"""
_OLDEST: Final = f"oldest {{ max_candidate_sequences: {SEQUENCES} }}"
# One place of a batch per sequence: as many instances as it takes.
_DIRECT: Final = _IO.replace("kind:", f"count: {SEQUENCES // 8} kind:")
_STATE: Final = """
state { input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_FP32 dims: [ 1 ] }
"""

STATELESS: Final = "stateless"
MODELS: Final = {
    STATELESS: _IO + "dynamic_batching { }",
    "oldest": _IO + f"sequence_batching {{ {_IDLE} {_OLDEST} }}",
    "oldest, controls": _IO + f"sequence_batching {{ {_IDLE} {_CONTROLS} {_OLDEST} }}",
    "oldest, state": _IO + f"sequence_batching {{ {_IDLE} {_CONTROLS} {_STATE} {_OLDEST} }}",
    "direct, alone": _DIRECT + f"sequence_batching {{ {_IDLE} {_CONTROLS} direct {{ }} }}",
}
# What these do, a model without sequences does not do at all.
_BEYOND: Final = {"oldest, state", "direct, alone"}


async def measure_sequences() -> None:
    """Print the cost of a request of each kind, and how it compares to one without a sequence."""
    print(f"{SEQUENCES} live sequences, µs of CPU time per request, the best of {REPEATS}")
    async with serving(MODELS) as core:
        tensor = Tensor.from_array("X", np.zeros((1, 1), np.float32))
        numbers = {model: itertools.cycle(range(1, SEQUENCES + 1)) for model in MODELS}

        def request(model: str, flags: SequenceFlag = SequenceFlag.NONE) -> InferRequest:
            asked = InferRequest(model, inputs=[tensor])
            if model != STATELESS:
                asked.correlation_id = next(numbers[model])
                asked.sequence_flags = flags
            return asked

        for model in MODELS:
            if model != STATELESS:
                await _cost(core.calls, partial(request, model, SequenceFlag.START), 64)
        for at_once in AT_ONCE:
            best = dict.fromkeys(MODELS, math.inf)
            for _ in range(REPEATS):  # in turns, so that a busy machine is fair to all
                for model, before in best.items():
                    cost = await _cost(core.calls, partial(request, model), at_once)
                    best[model] = min(before, cost)
            for model, cost in best.items():
                ratio = cost / best[STATELESS]
                is_kept = ratio <= PROMISE or model in _BEYOND
                note = "" if is_kept else f", above {PROMISE}"
                print(f"  {at_once:3} at once: {model:18}{cost * 1e6:7.1f}   = {ratio:.2f}{note}")


async def _cost(calls: Calls, request: Callable[[], InferRequest], at_once: int) -> float:
    """Seconds of CPU time per request, of a round over all sequences."""

    async def ask(count: int) -> None:
        for _ in range(count):
            await infer(calls, request())

    each, more = divmod(SEQUENCES, at_once)
    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for number in range(at_once):
            nursery.start_soon(ask, each + (number < more))
    return (time.process_time() - began) / SEQUENCES
