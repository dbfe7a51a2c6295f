"""The requests with which a model warms up before it serves.

Owns the data they carry and the wording when a sample cannot be built or fails. Running them, on
every instance and past scheduler and cache, is the instance's work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import betterproto
import numpy as np

from protocol.datatypes import BYTES, ELEMENT_SIZE, Array, numpy_dtype
from protocol.inference import InferRequest, Tensor
from protocol.status import ServerError, StatusCode, invalid_arg
from repo.file_names import leads_inside
from repo.model_config import (
    ModelConfig,
    ModelWarmup,
    ModelWarmupInput,
    datatype,
    sequence_settings,
)
from repo.request_rules import RequestRules

DIRECTORY: Final = "warmup"

# One batch of random bytes is as good as another; the same ones make a failure repeatable.
_SEED: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class WarmupSample:
    """All `requests` run as one batch, `count` times; `batch_size` is that of each request."""

    name: str
    count: int
    requests: tuple[InferRequest, ...]
    batch_size: int


def warmup_samples(config: ModelConfig, model_directory: Path) -> list[WarmupSample]:
    """The samples of a model, ready to run. Raises ServerError INVALID_ARG."""
    return [
        _sample(sample, config, model_directory)
        for sample in config.model_warmup
        if sample.batch_size > 0
    ]


def warmup_failure(sample_name: str, error: ServerError) -> ServerError:
    """Why a model whose sample was answered with `error` does not load."""
    return ServerError(
        error.status, f"failed to run warmup sample '{sample_name}': {error.message}; "
    )


def _sample(sample: ModelWarmup, config: ModelConfig, model_directory: Path) -> WarmupSample:
    declared = [one.name for one in config.input if one.name in sample.inputs]
    others = sorted(sample.inputs.keys() - set(declared))
    batched = config.max_batch_size > 0
    tensors = {
        name: _tensor(name, sample.inputs[name], model_directory, batched and name in declared)
        for name in (*declared, *others)
    }
    # Admission judges what clients could send too, and reshapes it. Controls and states are added
    # to admitted requests, never sent by a client.
    request = InferRequest(
        config.name,
        inputs=[tensors[name] for name in declared],
        correlation_id=_correlation_id(config),
    )
    RequestRules.compile(config).admit(request)
    inputs = request.inputs + [tensors[name] for name in others]
    requests = tuple(
        InferRequest(config.name, inputs=list(inputs)) for _ in range(sample.batch_size)
    )
    return WarmupSample(sample.name, max(sample.count, 1), requests, 1 if batched else 0)


def _correlation_id(config: ModelConfig) -> int | str:
    sequence = sequence_settings(config)
    controls = () if sequence is None else sequence.controls
    strings = any(one.kind == "CORRID" and one.datatype == BYTES for one in controls)
    return "" if strings else 0


def _tensor(name: str, one: ModelWarmupInput, model_directory: Path, batched: bool) -> Tensor:
    if any(dim < 0 for dim in one.dims):
        raise invalid_arg(
            f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
        )
    wire_type = datatype(one.data_type)
    if wire_type != BYTES and wire_type not in ELEMENT_SIZE:
        raise invalid_arg(f"warmup setting expects input '{name}' to have data_type set")
    shape = (1, *one.dims) if batched else tuple(one.dims)
    source, file_name = betterproto.which_one_of(one, "input_data_type")
    match source:
        case "input_data_file":
            return _from_file(name, wire_type, shape, model_directory, str(file_name))
        case "random_data" if wire_type != BYTES:
            return Tensor(name, wire_type, shape, array=_random(wire_type, shape))
        case "zero_data" | "random_data":
            fill = b"" if wire_type == BYTES else 0
            return Tensor(
                name, wire_type, shape, array=np.full(shape, fill, numpy_dtype(wire_type))
            )
        case _:
            raise invalid_arg(f"warmup setting expects input '{name}' to have input_data_type set")


def _random(wire_type: str, shape: tuple[int, ...]) -> Array:
    dtype = numpy_dtype(wire_type)
    generator = np.random.default_rng(_SEED)
    match dtype.kind:
        case "f":
            return generator.random(shape).astype(dtype)
        case "b":
            return generator.integers(0, 2, shape).astype(dtype)
        case _ if wire_type == "BF16":
            return generator.integers(0, 0x3F80, shape, np.uint16)  # the bits of numbers below 1
        case _:
            bits = 8 * dtype.itemsize
            low, high = (
                (-(1 << (bits - 1)), 1 << (bits - 1)) if dtype.kind == "i" else (0, 1 << bits)
            )
            return generator.integers(low, high, shape, dtype)


def _from_file(
    name: str, wire_type: str, shape: tuple[int, ...], model_directory: Path, file_name: str
) -> Tensor:
    directory = model_directory / DIRECTORY
    path = directory / file_name
    if not leads_inside(path, directory):
        raise invalid_arg(
            f"warmup data file '{file_name}' of input '{name}' is outside {directory}"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ServerError(
            StatusCode.INTERNAL, f"failed to open text file for read {path}: {error.strerror}"
        ) from error
    if wire_type != BYTES:
        expected = math.prod(shape) * ELEMENT_SIZE[wire_type]
        if len(raw) < expected:
            raise invalid_arg(
                f"warmup setting expects {expected} bytes, but the data provided from "
                f"{file_name}only has {len(raw)} bytes"
            )
        raw = raw[:expected]
    return Tensor(name, wire_type, shape, raw=raw)
