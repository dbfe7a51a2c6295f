"""Triton's classification extension: the top values of an output as `value:index:label` strings.

Owns the selection, the order and the spelling of classes for every frontend alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.datatypes import BYTES, Array
from protocol.inference import Tensor
from protocol.status import invalid_arg

MAX_ELEMENTS: Final = 1_000_000
"""Most elements per batch item that Triton sorts for a client."""

_SORTABLE: Final = frozenset(
    {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"}
)


def classify(
    tensor: Tensor, count: int, labels: Sequence[str] | None, has_batch_dim: bool
) -> Tensor:
    """The `count` highest values of each batch item as a BYTES tensor, highest first.

    The shape is `[batch, k]`, or `[k]` without a batch dimension, where k is at most the number of
    elements per item. Equal values stand by index; NaN counts as the lowest. `labels[i]` names
    element i, if it has a name. Raises INVALID_ARG for a datatype that has no order, and for more
    than MAX_ELEMENTS elements per item.
    """
    if tensor.datatype not in _SORTABLE:
        raise invalid_arg(
            f"class result not available for output due to unsupported type '{tensor.datatype}'"
        )
    batch = tensor.shape[0] if has_batch_dim else 1
    per_item = math.prod(tensor.shape[1:] if has_batch_dim else tensor.shape)
    if per_item > MAX_ELEMENTS:
        raise invalid_arg("classification output tensor too large")
    kept = min(count, per_item)
    classes: Array = np.empty((batch, kept), dtype=np.object_)
    for row, values in enumerate(tensor.array.reshape(batch, per_item)):
        classes[row] = _classes(values, kept, labels or ())
    if not has_batch_dim:
        classes = classes.reshape(kept)
    return Tensor(tensor.name, BYTES, classes.shape, array=classes)


def _classes(values: Array, kept: int, labels: Sequence[str]) -> list[bytes]:
    number = "%f" if values.dtype.kind == "f" else "%d"
    classes: list[bytes] = []
    for index in _highest(values, kept):
        label = labels[index] if index < len(labels) else ""
        suffix = f":{label}" if label else ""
        classes.append(f"{number % values[index]}:{index}{suffix}".encode())
    return classes


def _highest(values: Array, kept: int) -> list[int]:
    """The indices of the `kept` highest values, highest first, equal ones by index."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(-np.inf), values)
    candidates: npt.NDArray[np.intp] = np.arange(values.size)
    if 0 < kept < values.size:
        # Sorting a million values blocks a frontend for 100 ms; finding the threshold takes 10.
        threshold = np.partition(values, values.size - kept)[values.size - kept]
        candidates = np.flatnonzero(values >= threshold)
    # A stable ascending sort of the reversed values is, reversed, a stable descending one.
    ascending = np.argsort(values[candidates][::-1], kind="stable")
    descending = candidates.size - 1 - ascending[::-1]
    return [int(index) for index in candidates[descending][:kept]]
