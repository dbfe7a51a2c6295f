"""What one input of a model allows: which shapes fit it, and what a fitting shape implies.

Owns the comparison of shapes and bytes with a configured input. It is compiled once per model
version. It never words a refusal (`request_refusals`) and never sees a whole request.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

from protocol.datatypes import BYTES, ELEMENT_SIZE
from protocol.inference import DeviceTensor, Tensor
from repo.model_config import ModelInput, datatype, is_set

# Shapes remembered per input. Traffic has few of them; a client that sends ever new ones only
# loses the short cut.
MAX_REMEMBERED_SHAPES: Final = 256

LENGTH: Final = struct.Struct("<I")
"""The length indicator before each element of a BYTES tensor."""

WALKED: Final = -1
"""The byte size of a fitting BYTES tensor: only a walk along its elements can tell."""


class Fit(NamedTuple):
    """What a fitting shape implies."""

    batch_size: int  # -1 for a shape tensor, which has no batch dimension
    byte_size: int  # or WALKED
    inner: tuple[int, ...]  # the shape without the batch dimension
    model_shape: tuple[int, ...] | None  # None: the model sees the shape as it is


class InputRule:
    """One input of the configuration. `bit` is its place in sets of inputs."""

    __slots__ = (
        "batched", "bit", "datatype", "dims", "fits", "is_shape_tensor", "max_batch_size", "name",
        "optional", "reshape", "shape_matters",
    )  # fmt: skip

    def __init__(self, one: ModelInput, bit: int, max_batch_size: int) -> None:
        self.name = one.name
        self.bit = bit
        self.datatype = datatype(one.data_type)
        self.dims = tuple(one.dims)
        self.optional = one.optional
        self.is_shape_tensor = one.is_shape_tensor
        self.batched = max_batch_size > 0 and not one.is_shape_tensor
        self.max_batch_size = max_batch_size
        self.reshape = tuple(one.reshape.shape) if is_set(one.reshape) else None
        # Whether two requests of one batch must agree in this input's shape.
        self.shape_matters = -1 in self.dims and not one.allow_ragged_batch
        self.fits: dict[tuple[int, ...], Fit] = {}

    def fit(self, shape: tuple[int, ...]) -> Fit | None:
        """What `shape` implies; None when it does not fit."""
        batch_size, inner = -1 if self.is_shape_tensor else 0, shape
        if self.batched:
            if not shape or not 1 <= shape[0] <= self.max_batch_size:
                return None
            batch_size, inner = shape[0], shape[1:]
        if not self.allows(inner):
            return None
        fit = Fit(batch_size, self.byte_size(shape), inner, self._model_shape(shape, inner))
        if len(self.fits) < MAX_REMEMBERED_SHAPES:
            self.fits[shape] = fit
        return fit

    def allows(self, inner: tuple[int, ...]) -> bool:
        """Whether a shape without batch dimension matches the dims; -1 there matches any size."""
        return len(inner) == len(self.dims) and all(
            size == dim or (dim == -1 and size >= 0)
            for size, dim in zip(inner, self.dims, strict=True)
        )

    def byte_size(self, shape: tuple[int, ...]) -> int:
        """The bytes that a tensor of `shape` takes, or WALKED."""
        if self.datatype == BYTES:
            return WALKED
        return math.prod(shape) * ELEMENT_SIZE[self.datatype]

    def _model_shape(
        self, shape: tuple[int, ...], inner: tuple[int, ...]
    ) -> tuple[int, ...] | None:
        """The reshaped shape: its variable sizes are those of the request, left to right."""
        if self.reshape is None:
            return None
        sizes = iter([size for size, dim in zip(inner, self.dims, strict=True) if dim == -1])
        seen = [next(sizes) if dim == -1 else dim for dim in self.reshape]
        return (*shape[: len(shape) - len(inner)], *seen)


def holds_all(tensor: Tensor, fit: Fit) -> bool:
    """Whether a tensor, of a shape that fits, has exactly the bytes or elements it should have."""
    if isinstance(tensor, DeviceTensor) and fit.byte_size != WALKED:
        return tensor.byte_size == fit.byte_size
    raw = tensor.raw if isinstance(tensor, DeviceTensor) else tensor.encoded
    if raw is None:
        return tensor.array.size == tensor.element_count
    if fit.byte_size == WALKED:
        return _holds_strings(raw, tensor.element_count)
    return len(raw) == fit.byte_size


def _holds_strings(raw: bytes | memoryview, expected: int) -> bool:
    offset, count, end = 0, 0, len(raw)
    unpack = LENGTH.unpack_from
    try:
        while offset < end:
            offset += 4 + unpack(raw, offset)[0]
            count += 1
    except struct.error:  # fewer than four bytes are left
        return False
    return offset == end and count == expected


def string_fault(raw: bytes | memoryview, expected: int, where: str) -> str:
    """What is wrong with the bytes of `expected` BYTES elements; "" when nothing is."""
    offset, count, end = 0, 0, len(raw)
    while offset < end:
        if count == expected:
            return f"unexpected number of string elements {count + 1} {where}, expecting {count}"
        if end - offset < LENGTH.size:
            return (
                f"incomplete string length indicator {where}, expecting 4 bytes but only "
                f"{end - offset} bytes available. Please make sure the string length indicator "
                "is in one buffer."
            )
        length = LENGTH.unpack_from(raw, offset)[0]
        offset += LENGTH.size
        if end - offset < length:
            return (
                f"incomplete string data {where}, expecting string of length {length} but only "
                f"{end - offset} bytes available"
            )
        offset += length
        count += 1
    return "" if count == expected else f"expected {expected} string elements {where}, got {count}"
