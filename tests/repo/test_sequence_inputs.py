"""Control tensors and padding requests."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.datatypes import Array
from protocol.inference import InferRequest, SequenceFlag, Tensor
from repo.pbtxt import parse_config
from repo.sequence_inputs import SequenceInputs

IO = """
name: "m" max_batch_size: 4
input { name: "NUMBERS" data_type: TYPE_INT64 dims: [ -1 ] }
input { name: "WORDS" data_type: TYPE_STRING dims: [ 2 ] }
input { name: "SHAPE" data_type: TYPE_INT32 dims: [ 1 ] is_shape_tensor: true }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
BOOLEANS = """
control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 3, 9 ] } }
control_input { name: "END" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0.5, -1 ] } }
control_input { name: "READY"
  control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ true, false ] } }
"""


def inputs(controls: str = BOOLEANS, io: str = IO) -> SequenceInputs:
    return SequenceInputs(parse_config(f"{io} sequence_batching {{ {controls} }}", "config.pbtxt"))


def corrid(type_name: str) -> str:
    return (
        'control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID '
        f"data_type: {type_name} }} }}"
    )


def request() -> InferRequest:
    words = np.array([[b"a", b"bc"]], np.object_)
    return InferRequest(
        "m",
        id="r",
        inputs=[
            Tensor.from_array("NUMBERS", np.array([[7, 8, 9]])),
            Tensor("WORDS", "BYTES", (1, 2), array=words),
            Tensor.from_array("SHAPE", np.array([5], np.int32)),
        ],
    )


def arrays(asked: InferRequest) -> dict[str, Array]:
    return {tensor.name: tensor.array for tensor in asked.inputs}


@pytest.mark.parametrize(
    ("flags", "start", "end"),
    [
        (SequenceFlag.START, 9, 0.5),
        (SequenceFlag.END, 3, -1),
        (SequenceFlag.START | SequenceFlag.END, 9, -1),
        (SequenceFlag.NONE, 3, 0.5),
    ],
)
def test_booleans_take_the_configured_values(flags: SequenceFlag, start: int, end: float) -> None:
    seen = arrays(inputs().of(request(), flags, 5))

    assert seen["START"].tolist() == [[start]]
    assert seen["START"].dtype == np.int32
    assert seen["END"].tolist() == [[end]]
    assert seen["END"].dtype == np.float32
    assert seen["READY"].tolist() == [[False]]  # the configured value for "true"
    assert seen["READY"].dtype == np.bool_


def test_without_batching_a_control_has_one_dimension() -> None:
    io = IO.replace("max_batch_size: 4", "")

    assert arrays(inputs(io=io).of(request(), SequenceFlag.START, 5))["START"].shape == (1,)


@pytest.mark.parametrize(
    ("type_name", "given", "seen"),
    [
        ("TYPE_UINT64", 2**64 - 1, 2**64 - 1),
        ("TYPE_INT64", 2**64 - 1, -1),
        ("TYPE_UINT32", 2**32 + 5, 5),
        ("TYPE_INT32", 2**32 + 5, 5),
        ("TYPE_INT32", 2**31, -(2**31)),
        ("TYPE_STRING", "fünf", "fünf".encode()),
    ],
)
def test_an_id_has_the_type_of_its_control(
    type_name: str, given: int | str, seen: int | bytes
) -> None:
    asked = inputs(corrid(type_name)).of(request(), SequenceFlag.NONE, given)

    assert arrays(asked)["CORRID"].tolist() == [[seen]]
    assert asked.correlation_id == given


def test_the_request_itself_is_not_changed() -> None:
    given = request()
    asked = inputs().of(given, SequenceFlag.END, 5)

    assert [tensor.name for tensor in given.inputs] == ["NUMBERS", "WORDS", "SHAPE"]
    assert given.sequence_flags is SequenceFlag.NONE
    assert asked.id == "r"
    assert asked.sequence_flags is SequenceFlag.END


def test_a_control_wins_over_an_input_of_its_name() -> None:
    given = request()
    given.inputs.append(Tensor.from_array("START", np.array([[77]], np.int32)))

    asked = inputs().of(given, SequenceFlag.START, 5)

    assert [one.array.item() for one in asked.inputs if one.name == "START"] == [9]


def test_padding_has_the_shapes_of_its_neighbour_and_is_not_ready() -> None:
    made = inputs(BOOLEANS + corrid("TYPE_UINT64"))
    seen = arrays(made.padding(request()))

    assert seen["NUMBERS"].tolist() == [[0, 0, 0]]
    assert seen["WORDS"].tolist() == [[b"", b""]]
    assert seen["SHAPE"].tolist() == [5]  # a shape tensor is one of the whole batch
    assert (seen["START"].item(), seen["END"].item()) == (3, 0.5)
    assert seen["READY"].tolist() == [[True]]  # the configured value for "false"
    assert seen["CORRID"].tolist() == [[0]]


def test_padding_has_an_empty_word_for_an_id() -> None:
    assert arrays(inputs(corrid("TYPE_STRING")).padding(request()))["CORRID"].tolist() == [[b""]]
