"""What the side-by-side comparison runs: the loads, and the answer that each model must give.

A case names a model of bench/models, the protocols and concurrencies to drive it with, and one
request with its right answer, asked of every server before it is measured: perf_analyzer takes
an empty or a wrong answer for a good one.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]

BOTH = ("grpc", "http")
LOADS = (1, 8, 32)
IMAGE_SHAPE = (3, 224, 224)
IMAGE_BYTES = 602_112
MLP_SIZES = (784, 1024, 1024, 10)
MLP_SEED = 5
REPEATS = 10


class WrongAnswer(Exception):
    """A server answered a known request wrongly, or refused it."""


@dataclass(frozen=True)
class Case:
    """One row group of the table.

    `answer` computes the right outputs from the request's inputs, whose shapes are in `inputs`;
    None for a decoupled model, which plain HTTP cannot ask: there the ratio of responses to
    requests is checked instead (`responses_per_request`).
    """

    name: str
    model: str
    inputs: dict[str, tuple[int, ...]]
    answer: Callable[[Arrays], Arrays] | None
    protocols: tuple[str, ...] = BOTH
    concurrencies: tuple[int, ...] = LOADS
    options: tuple[str, ...] = ()
    responses_per_request: int = 1


def same(inputs: Arrays) -> Arrays:
    return {"OUTPUT0": inputs["INPUT0"]}


def sum_and_difference(inputs: Arrays) -> Arrays:
    left, right = inputs["INPUT0"], inputs["INPUT1"]
    return {"OUTPUT0": left + right, "OUTPUT1": left - right}


def network(inputs: Arrays) -> Arrays:
    """The seeded network of bench/models/mlp, computed here once more."""
    generator = np.random.default_rng(MLP_SEED)
    layers = [
        (generator.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        for rows, columns in pairwise(MLP_SIZES)
    ]
    values = inputs["INPUT0"]
    for weights in layers[:-1]:
        values = np.maximum(values @ weights, 0)
    return {"OUTPUT0": values @ layers[-1]}


CASES = (
    Case("identity", "identity", {"INPUT0": (16,)}, same),
    Case("identity batched", "identity_batched", {"INPUT0": (1, 16)}, same),
    Case("add_sub", "add_sub", {"INPUT0": (1, 16), "INPUT1": (1, 16)}, sum_and_difference),
    Case("mlp", "mlp", {"INPUT0": (1, 784)}, network),
    Case("sleep 5 ms", "sleep_5ms", {"INPUT0": (1, 16)}, same),
    Case("identity 600 KB", "identity_600kb", {"INPUT0": IMAGE_SHAPE}, same, concurrencies=(1, 8)),
    Case(
        "identity 600 KB, shared memory",
        "identity_600kb",
        {"INPUT0": IMAGE_SHAPE},
        same,
        concurrencies=(1, 8),
        options=("--shared-memory", "system", "--output-shared-memory-size", str(IMAGE_BYTES)),
    ),
    Case("ensemble of 3", "ensemble_noops", {"INPUT0": (16,)}, same),
    Case(
        "repeat 10, decoupled",
        "repeat_10",
        {},
        None,
        protocols=("grpc",),
        options=("--streaming",),
        responses_per_request=REPEATS,
    ),
)


def ask(url: str, body: object | None = None) -> object:
    """The JSON answer of a GET, or of a POST when there is a body; raises WrongAnswer."""
    text = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, text, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
    except urllib.error.HTTPError as refused:
        reason = refused.read().decode(errors="replace").strip()
        raise WrongAnswer(f"{refused.code} {reason[:200]}") from refused
    except OSError as broken:
        raise WrongAnswer(f"no answer: {broken}") from broken
    decoded: object = json.loads(content) if content else None
    return decoded


def check_ready(model: str, address: str) -> None:
    """Raises WrongAnswer, with the server's own reason from its index, for an unready model."""
    try:
        ask(f"http://{address}/v2/models/{model}/ready")
    except WrongAnswer as unready:
        try:
            index = ask(f"http://{address}/v2/repository/index", {})
        except WrongAnswer:
            index = None
        for entry in index if isinstance(index, list) else []:
            match entry:
                case {"name": str(name), "reason": str(reason)} if name == model:
                    raise WrongAnswer(reason) from unready
        raise


def check_answer(case: Case, address: str) -> None:
    """Asks the server at `address` (host:port of HTTP) one request of this case.

    Raises WrongAnswer with a reason fit for the table.
    """
    check_ready(case.model, address)
    if case.answer is None:
        return
    generator = np.random.default_rng(1)
    inputs = {
        name: generator.integers(-9, 10, shape).astype(np.float32)
        for name, shape in case.inputs.items()
    }
    body = {
        "inputs": [
            {
                "name": name,
                "datatype": "FP32",
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for name, array in inputs.items()
        ]
    }
    match ask(f"http://{address}/v2/models/{case.model}/infer", body):
        case {"outputs": [*outputs]}:
            found = {
                output["name"]: np.array(output["data"], np.float32).reshape(output["shape"])
                for output in outputs
            }
        case other:
            raise WrongAnswer(f"no outputs in the answer: {str(other)[:200]}")
    for name, right in case.answer(inputs).items():
        if name not in found or found[name].shape != right.shape:
            raise WrongAnswer(f"{name} is missing or has a wrong shape")
        if not np.allclose(found[name], right, rtol=1e-3, atol=1e-3):
            raise WrongAnswer(f"{name} has wrong values")


def success_count(model: str, address: str) -> int | None:
    """How many requests the server says it has answered; None where it keeps no statistics."""
    try:
        answer = ask(f"http://{address}/v2/models/{model}/stats")
    except WrongAnswer:
        return None
    match answer:
        case {"model_stats": [{"inference_stats": {"success": {"count": int(count)}}}, *_]}:
            return count
        case _:
            return None
