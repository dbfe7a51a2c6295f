"""The classification extension: which classes, in which order, in which words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.classification import MAX_ELEMENTS, classify
from protocol.inference import Tensor
from protocol.status import ServerError, StatusCode

LABELS = ["ant", "bee", "", "cat"]


def top(
    values: object,
    count: int,
    *,
    dtype: npt.DTypeLike = "<f4",
    labels: list[str] | None = None,
    has_batch_dim: bool = False,
) -> object:
    tensor = Tensor.from_array("OUTPUT", np.array(values, dtype=dtype))
    result = classify(tensor, count, labels, has_batch_dim)
    assert (result.name, result.datatype) == ("OUTPUT", "BYTES")
    assert result.shape == result.array.shape
    return result.array.tolist()


def test_highest_first_with_six_decimals() -> None:
    assert top([0.1, 0.9, 0.5], 2) == [b"0.900000:1", b"0.500000:2"]


def test_labels() -> None:
    """Case 24: an element without a label, or beyond the labels, has two parts only."""
    values = [0.1, 0.2, 0.3, 0.9, 0.8]
    assert top(values, 5, labels=LABELS) == [
        b"0.900000:3:cat",
        b"0.800000:4",
        b"0.300000:2",
        b"0.200000:1:bee",
        b"0.100000:0:ant",
    ]


def test_every_batch_item_is_classified() -> None:
    values = [[1, 5, 3], [9, 7, 8]]
    assert top(values, 2, dtype="i4", has_batch_dim=True) == [[b"5:1", b"3:2"], [b"9:0", b"8:2"]]
    assert top(values, 2, dtype="i4") == [b"9:3", b"8:5"]


def test_items_of_several_dimensions_are_flat() -> None:
    assert top([[[1, 5], [3, 9]]], 1, dtype="i4", has_batch_dim=True) == [[b"9:3"]]


def test_no_more_classes_than_elements() -> None:
    assert top([1, 2], 10, dtype="u1") == [b"2:1", b"1:0"]
    assert top([[1], [2]], 2**62, dtype="u1", has_batch_dim=True) == [[b"1:0"], [b"2:0"]]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_nothing_to_classify(shape: tuple[int, ...]) -> None:
    tensor = Tensor("OUTPUT", "FP32", shape, raw=b"")
    result = classify(tensor, 1, LABELS, has_batch_dim=len(shape) == 2)
    assert result.element_count == 0
    assert result.raw == b""


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_signed_integers_print_plainly(dtype: str) -> None:
    low = int(np.iinfo(dtype).min)
    assert top([0, low, 1], 3, dtype=dtype) == [b"1:2", b"0:0", f"{low}:1".encode()]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_unsigned_integers_print_plainly(dtype: str) -> None:
    high = int(np.iinfo(dtype).max)
    assert top([0, high], 1, dtype=dtype) == [f"{high}:1".encode()]


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_special_numbers(dtype: str) -> None:
    values = [float("nan"), float("-inf"), float("inf"), 0.0]
    assert top(values, 2, dtype=dtype) == [b"inf:2", b"0.000000:3"]


def test_a_tensor_off_the_wire() -> None:
    tensor = Tensor("OUTPUT", "FP32", (1, 2), raw=np.array([1, 2], "<f4").tobytes())
    result = classify(tensor, 1, None, has_batch_dim=True)
    assert bytes(result.raw) == b"\x0a\x00\x00\x002.000000:1"


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL", "FP16", "BF16"])
def test_datatypes_without_classes(datatype: str) -> None:
    with pytest.raises(ServerError) as caught:
        classify(Tensor("OUTPUT", datatype, (1,), raw=b"\x00\x00"), 1, None, has_batch_dim=False)
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        f"class result not available for output due to unsupported type '{datatype}'"
    )


def test_the_limit_is_per_batch_item() -> None:
    values = np.zeros((2, MAX_ELEMENTS), dtype="i1")
    values[1, MAX_ELEMENTS - 1] = 1
    tensor = Tensor.from_array("OUTPUT", values)
    result = classify(tensor, 1, None, has_batch_dim=True)
    assert result.array.tolist() == [[b"0:0"], [f"1:{MAX_ELEMENTS - 1}".encode()]]
    with pytest.raises(ServerError) as caught:
        classify(tensor, 1, None, has_batch_dim=False)
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == "classification output tensor too large"


@given(st.lists(st.integers(-3, 3), max_size=20), st.integers(0, 25))
def test_equal_values_stand_by_index(values: list[int], count: int) -> None:
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    expected = [f"{values[index]}:{index}".encode() for index in order[:count]]
    assert top(values, count, dtype="i2") == expected
