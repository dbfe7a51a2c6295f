"""The data that requests carry: streams of steps, each a tensor per input.

Owns the data set and how it is generated. Files are read by input_files.py. Every tensor is kept
as wire bytes, without a batch dimension; batching joins them.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from perf_analyzer.model import ModelInfo, SetupError, TensorSpec
from protocol.datatypes import BYTES, ELEMENT_SIZE, numpy_dtype

PREFIX: Final = "Failed to init manager inputs: "
LETTERS: Final = string.ascii_letters + string.digits


class BadInput(SetupError):
    """The input data cannot be used with the model."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{PREFIX}{text}")


@dataclass(frozen=True, slots=True)
class TensorData:
    """One tensor of one step: wire bytes and the shape without batch dimension."""

    raw: bytes
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one row of a request carries, and what must come back if that is known.

    An optional input that the step leaves out has no entry in `inputs`.
    """

    inputs: Mapping[str, TensorData]
    expected: Mapping[str, TensorData] = field(default_factory=dict)
    delay_ms: int = 0  # of a fixed schedule: when the step is due


@dataclass(frozen=True, slots=True)
class DataSet:
    """Streams of steps; a load without sequences uses the first stream only."""

    streams: tuple[tuple[Step, ...], ...]
    generated: bool = False

    @property
    def step_count(self) -> int:
        return len(self.streams[0])

    @property
    def validates(self) -> bool:
        return any(step.expected for stream in self.streams for step in stream)

    def announcement(self) -> str:
        """The line that says what was read."""
        count = len(self.streams)
        steps = f" with {self.step_count} step/steps" if count == 1 else ""
        return f" Successfully read data for {count} stream/streams{steps}."


def fixed_shape(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The input's shape, which must have no dynamic dimension. Raises BadInput."""
    shape = shapes.get(spec.name, spec.shape) if spec.is_dynamic else spec.shape
    if any(extent < 0 for extent in shape):
        raise BadInput(
            f"input {spec.name} contains dynamic shape, provide shapes to send along with the"
            " request"
        )
    return shape


def byte_strings(values: Sequence[bytes]) -> bytes:
    """BYTES elements as they go over the wire."""
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def generate(
    model: ModelInfo,
    *,
    zero: bool,
    string_length: int,
    string_data: str,
    seed: int,
) -> DataSet:
    """One stream of one step, of random or zero elements; strings are random either way.

    Floats are between 0 and 1: random bits, which the original sends, are NaN now and then, and a
    model may take longer over them. Raises BadInput for dynamic shapes and shape tensors.
    """
    draw = np.random.default_rng(seed)
    tensors = {}
    for spec in model.inputs:
        if spec.is_shape_tensor:
            raise BadInput(
                f"can not generate data for shape tensor '{spec.name}', user-provided data is"
                " needed."
            )
        shape = fixed_shape(spec, {})
        count = math.prod(shape)
        if spec.datatype == BYTES:
            raw = byte_strings(_strings(count, string_length, string_data, draw))
        elif zero:
            raw = bytes(count * ELEMENT_SIZE[spec.datatype])
        else:
            raw = _random(spec.datatype, count, draw)
        tensors[spec.name] = TensorData(raw, shape)
    return DataSet(((Step(tensors),),), generated=True)


def _random(datatype: str, count: int, draw: np.random.Generator) -> bytes:
    if datatype == "BOOL":
        return draw.integers(0, 2, count, dtype=np.uint8).tobytes()
    if datatype == "BF16":  # the upper half of a float's bits
        return (draw.random(count, dtype=np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    if datatype in {"FP16", "FP32", "FP64"}:
        return draw.random(count).astype(numpy_dtype(datatype)).tobytes()
    return draw.bytes(count * ELEMENT_SIZE[datatype])


def _strings(count: int, length: int, text: str, draw: np.random.Generator) -> list[bytes]:
    if text:
        return [text.encode()] * count
    return [
        "".join(LETTERS[place] for place in draw.integers(0, len(LETTERS), length)).encode()
        for _ in range(count)
    ]


def batch_of(data: DataSet, stream: int, first: int, batch_size: int) -> list[Step]:
    """The consecutive steps, wrapping round, that make up a request. Raises BadInput where their
    shapes differ or an optional input is in some of them only."""
    steps = data.streams[stream]
    rows = [steps[(first + row) % len(steps)] for row in range(batch_size)]
    for row in rows[1:]:
        if row.inputs.keys() != rows[0].inputs.keys():
            raise BadInput("an optional input must be in every row of a batch or in none")
        for name, tensor in row.inputs.items():
            if tensor.shape != rows[0].inputs[name].shape:
                raise BadInput(
                    f"can not batch tensors with different shapes together (input '{name}' "
                    f"expected shape {_listed(rows[0].inputs[name].shape)} and received "
                    f"{_listed(tensor.shape)}"
                )
    return rows


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
