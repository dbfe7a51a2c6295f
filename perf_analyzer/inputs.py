"""The data that requests carry: streams of steps, each a tensor per input.

Owns the data set and how it is generated. Files are read by input_files.py. Every tensor is kept
as wire bytes, without a batch dimension; batching joins them.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251  # seeded by the run, so that two runs send the same
from typing import Final

from perf_analyzer.model import ModelInfo, SetupError, TensorSpec
from protocol.datatypes import BYTES, ELEMENT_SIZE

PREFIX: Final = "Failed to init manager inputs: "
LETTERS: Final = string.ascii_letters + string.digits
# Random bytes that are drawn at most; longer tensors repeat them.
MAX_RANDOM_BYTES: Final = 1 << 26


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
    random: Random,
) -> DataSet:
    """One stream of one step, of random or zero bytes.

    Random bytes are no numbers in particular: floats may be NaN. Finite ones would need a draw per
    datatype; what a server does with a tensor rarely depends on them, and the original sends the
    same. Raises BadInput for dynamic shapes and shape tensors.
    """
    tensors = {}
    sizes = [
        math.prod(fixed_shape(spec, {})) * ELEMENT_SIZE[spec.datatype]
        for spec in model.inputs
        if spec.datatype != BYTES
    ]
    largest = max(sizes, default=0)
    pool = bytes(largest)
    if not zero and largest:
        drawn = random.randbytes(min(largest, MAX_RANDOM_BYTES))
        pool = (drawn * math.ceil(largest / len(drawn)))[:largest]
    for spec in model.inputs:
        if spec.is_shape_tensor:
            raise BadInput(
                f"can not generate data for shape tensor '{spec.name}', user-provided data is"
                " needed."
            )
        shape = fixed_shape(spec, {})
        count = math.prod(shape)
        if spec.datatype == BYTES:
            raw = byte_strings(_strings(count, string_length, string_data, random))
        else:
            raw = pool[: count * ELEMENT_SIZE[spec.datatype]]
            if spec.datatype == "BOOL":
                raw = bytes(octet & 1 for octet in raw)
        tensors[spec.name] = TensorData(raw, shape)
    return DataSet(((Step(tensors),),), generated=True)


def _strings(count: int, length: int, text: str, random: Random) -> list[bytes]:
    if text:
        return [text.encode()] * count
    return ["".join(random.choices(LETTERS, k=length)).encode() for _ in range(count)]


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
