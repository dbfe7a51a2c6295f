"""Batch inputs and scattered outputs, by the examples of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.status import ServerError, StatusCode
from repo.batch_tensors import batch_input, scatter

REQUESTS = [(1, 2), (1, 4), (1, 1), (1, 3)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", [2, 4, 1, 3]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [2, 6, 7, 10]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 2, 6, 7, 10]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_counts_are_per_request(kind: str, expected: list[int], dtype: type) -> None:
    made = batch_input(kind, dtype, REQUESTS)

    assert made.dtype == dtype
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ITEM_SHAPE", [[3, 1], [3, 1], [2, 2]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 1, 3, 1, 2, 2]),
    ],
)
def test_item_shapes_are_per_row(kind: str, expected: list[object]) -> None:
    assert batch_input(kind, np.int32, [(2, 3, 1), (1, 2, 2)]).tolist() == expected


def test_counts_include_the_batch_dimension() -> None:
    assert batch_input("BATCH_ELEMENT_COUNT", np.int32, [(2, 3)]).tolist() == [6]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ServerError, match="unknown batch input kind 'X'"):
        batch_input("X", np.int32, REQUESTS)


def test_a_flat_output_is_cut_by_the_shapes_of_its_source() -> None:
    flat = np.array(list("abcdef"), np.object_)

    pieces = list(scatter(flat, [-1, -1], [(1, 2), (1, 4)]))

    assert [piece.tolist() for piece in pieces] == [[["a", "b"]], [["c", "d", "e", "f"]]]


def test_fixed_dims_stay_as_they_are() -> None:
    pieces = list(scatter(np.arange(8), [-1, 2], [(1, 9), (3, 9)]))

    assert [piece.shape for piece in pieces] == [(1, 2), (3, 2)]


@pytest.mark.parametrize("dims", [[-1, -1], [-1, -1, -1]])
def test_an_output_too_short_is_refused(dims: list[int]) -> None:
    with pytest.raises(ServerError) as failure:
        list(scatter(np.arange(3), dims, [(1, 2), (1, 4)]))

    assert failure.value.status is StatusCode.INTERNAL
    assert "cannot be split into the shapes of its source input" in failure.value.message
