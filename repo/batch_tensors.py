"""Tensors about a batch: what `batch_input` adds to it, and how `batch_output` is cut apart.

Owns the arithmetic of both. Shapes here are those of the requests' source input, with the batch
dimension, one per request in batch order. It never touches a request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from protocol.datatypes import Array
from protocol.status import internal

Shape = tuple[int, ...]


def batch_input(kind: str, dtype: npt.DTypeLike, shapes: Sequence[Shape]) -> Array:
    """The tensor of one `batch_input` kind (`BATCH_ELEMENT_COUNT`, …), of dtype int32 or float32.

    The counting kinds have one entry per request, the ITEM_SHAPE kinds one per row.
    """
    match kind:
        case "BATCH_ELEMENT_COUNT":
            return np.array(_counts(shapes), dtype)
        case "BATCH_ACCUMULATED_ELEMENT_COUNT":
            return np.array(list(accumulate(_counts(shapes))), dtype)
        case "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO":
            return np.array(list(accumulate(_counts(shapes), initial=0)), dtype)
        case "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE":
            # Only the shape speaks. Triton leaves the content undefined; zeros are repeatable.
            return np.zeros(max(_counts(shapes)), dtype)
        case "BATCH_ITEM_SHAPE":
            return np.array(_rows(shapes), dtype).reshape(-1, len(shapes[0]) - 1)
        case "BATCH_ITEM_SHAPE_FLATTEN":
            return np.array(_rows(shapes), dtype).reshape(-1)
        case _:
            raise internal(f"unknown batch input kind '{kind}'")


def scatter(flat: Array, dims: Sequence[int], shapes: Sequence[Shape]) -> Iterator[Array]:
    """Cut a flat output in request order (BATCH_SCATTER_WITH_INPUT_SHAPE).

    `dims` are the output's, with a leading -1 if the model batches; each -1 becomes the size that
    the request's source input has at the same place. Raises ServerError INTERNAL when the output
    holds fewer elements than the requests ask for.
    """
    flat = flat.reshape(-1)
    offset = 0
    for shape in shapes:
        wanted = [
            shape[index] if dim == -1 and index < len(shape) else dim
            for index, dim in enumerate(dims)
        ]
        count = math.prod(wanted)
        if count < 0 or offset + count > flat.size:
            raise internal(
                f"batch output of {flat.size} elements cannot be split into the shapes of its "
                f"source input, {offset + max(count, 0)} elements are needed"
            )
        yield flat[offset : offset + count].reshape(wanted)
        offset += count


def _counts(shapes: Sequence[Shape]) -> list[int]:
    return [math.prod(shape) for shape in shapes]


def _rows(shapes: Sequence[Shape]) -> list[Shape]:
    return [shape[1:] for shape in shapes for _ in range(shape[0])]
