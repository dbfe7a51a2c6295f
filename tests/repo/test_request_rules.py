"""Admission: what each request is told, in which order, and which requests may share a batch."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.datatypes import ELEMENT_SIZE
from protocol.inference import InferRequest, Tensor
from protocol.status import ServerError, StatusCode
from repo.input_rules import MAX_REMEMBERED_SHAPES
from repo.pbtxt import parse_config
from repo.request_rules import (
    MAX_KNOWN_LIKENESSES,
    MAX_READY_ANSWERS,
    Admitted,
    RequestRules,
)

P = "[request id: <id_unknown>] "


def _rules(text: str) -> RequestRules:
    return RequestRules.compile(parse_config(f'name: "M" {text}', "x"))


def _input(name: str, dims: str, extra: str = "", data_type: str = "TYPE_FP32") -> str:
    return f' input {{ name: "{name}" data_type: {data_type} dims: [ {dims} ] {extra} }} '


OUTPUT = 'output { name: "O" data_type: TYPE_FP32 dims: 1 } '
BATCHED = "max_batch_size: 8 " + _input("A", "16") + _input("B", "-1, 4") + OUTPUT
WHOLE = _input("A", "16") + _input("B", "-1, 4") + OUTPUT


def _zeros(name: str, *shape: int, datatype: str = "FP32", extra_bytes: int = 0) -> Tensor:
    size = math.prod(max(dim, 0) for dim in shape) * ELEMENT_SIZE[datatype]
    return Tensor(name, datatype, shape, raw=bytes(size + extra_bytes))


def _strings(name: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    return Tensor(name, "BYTES", shape, raw=raw)


def _string(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def _request(*inputs: Tensor, outputs: tuple[str, ...] = (), request_id: str = "") -> InferRequest:
    return InferRequest("M", id=request_id, inputs=list(inputs), requested_outputs=outputs)


def _refusal(rules: RequestRules, request: InferRequest) -> str:
    with pytest.raises(ServerError) as failure:
        rules.admit(request)
    assert failure.value.status is StatusCode.INVALID_ARG
    return failure.value.message


def test_a_batch_is_the_leading_dimension() -> None:
    rules = _rules(BATCHED)

    def admitted(size: int, *dims: int) -> Admitted:
        return rules.admit(_request(_zeros("A", size, 16), _zeros("B", size, *dims)))

    assert [admitted(size, 3, 4).batch_size for size in (1, 8)] == [1, 8]
    assert admitted(1, 3, 4).shape_key == admitted(8, 3, 4).shape_key
    assert admitted(1, 3, 4).shape_key != admitted(1, 4, 4).shape_key


def test_without_batching_the_batch_size_is_zero() -> None:
    rules = _rules(WHOLE)

    def admitted(*dims: int) -> Admitted:
        return rules.admit(_request(_zeros("A", 16), _zeros("B", *dims)))

    assert admitted(0, 4).batch_size == 0
    assert admitted(0, 4) == admitted(0, 4)
    assert admitted(0, 4).shape_key != admitted(4, 4).shape_key
    assert _rules(OUTPUT).admit(_request()) == (0, None)


def test_large_batches_are_admitted_too() -> None:
    size = MAX_READY_ANSWERS + 1
    rules = _rules(f"max_batch_size: {size}" + _input("A", "1"))

    assert rules.admit(_request(_zeros("A", size, 1))) == (size, None)


def test_inputs_keep_the_clients_order_and_the_key_does_not_depend_on_it() -> None:
    rules = _rules(_input("A", "-1") + _input("B", "-1"))
    one = _request(_zeros("A", 1), _zeros("B", 2))
    two = _request(_zeros("B", 2), _zeros("A", 1))

    assert rules.admit(one).shape_key == rules.admit(two).shape_key
    assert [tensor.name for tensor in two.inputs] == ["B", "A"]


def test_fixed_and_ragged_inputs_never_keep_requests_apart() -> None:
    rules = _rules(
        "max_batch_size: 8" + _input("A", "4") + _input("R", "-1", "allow_ragged_batch: 1")
    )

    keys = {
        rules.admit(_request(_zeros("A", 1, 4), _zeros("R", 1, size))).shape_key for size in (1, 2)
    }
    assert keys == {None}


def test_variable_inputs_keep_different_shapes_apart_whatever_the_batch() -> None:
    rules = _rules("max_batch_size: 8" + _input("A", "-1"))

    def key(*shape: int) -> object:
        return rules.admit(_request(_zeros("A", *shape))).shape_key

    assert key(1, 3) == key(2, 3)
    assert key(1, 3) != key(1, 4)


def test_optional_inputs_keep_different_sets_apart() -> None:
    rules = _rules(
        _input("A", "1") + _input("B", "1", "optional: true") + _input("C", "1", "optional: true")
    )

    keys = {
        rules.admit(_request(_zeros("A", 1), *more)).shape_key
        for more in ([], [_zeros("B", 1)], [_zeros("C", 1)], [_zeros("B", 1), _zeros("C", 1)])
    }
    assert len(keys) == 4


def test_an_absent_variable_input_is_not_an_empty_one() -> None:
    rules = _rules(_input("A", "-1", "optional: true"))

    assert rules.admit(_request()).shape_key != rules.admit(_request(_zeros("A", 0))).shape_key


def test_shape_tensors_have_no_batch_and_must_be_equal_in_content() -> None:
    rules = _rules(
        "max_batch_size: 8"
        + _input("A", "4")
        + _input("S", "2", "is_shape_tensor: true", "TYPE_INT32")
    )

    def admit(*content: int) -> Admitted:
        shape_tensor = Tensor.from_array("S", np.array(content, np.int32))
        return rules.admit(_request(shape_tensor, _zeros("A", 3, 4)))

    assert admit(1, 2) == admit(1, 2)
    assert admit(1, 2).shape_key != admit(1, 3).shape_key
    assert admit(1, 2).batch_size == 3


NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape. If you want to specify the full shape including the batch dim "
    "in your input dims config, try setting max_batch_size to zero. See the model configuration "
    "docs for more info on max_batch_size."
)
GOOD_A, GOOD_B = _zeros("A", 1, 16), _zeros("B", 1, 3, 4)
OPTIONAL = _input("A", "16") + _input("B", "4") + _input("C", "1", "optional: true")


@pytest.mark.parametrize(
    ("rules", "request_", "message"),
    [
        (
            BATCHED,
            _request(GOOD_A, GOOD_B, outputs=("X",)),
            "unexpected inference output 'X' for model 'M'",
        ),
        (
            BATCHED,
            _request(GOOD_A, GOOD_B, outputs=("O", "O")),
            f"{P}output 'O' already exists in request",
        ),
        (
            BATCHED,
            _request(GOOD_A, GOOD_A, request_id="7"),
            "[request id: 7] input 'A' already exists in request",
        ),
        (
            BATCHED,
            _request(GOOD_A),
            (
                f"{P}expected 2 inputs but got 1 inputs for model 'M'. Got input(s) ['A'], but "
                "missing required input(s) ['B']. Please provide all required input(s)."
            ),
        ),
        (
            BATCHED,
            _request(),
            (
                f"{P}expected 2 inputs but got 0 inputs for model 'M'. Got input(s) [], but "
                "missing required input(s) ['A','B']. Please provide all required input(s)."
            ),
        ),
        (
            BATCHED,
            _request(GOOD_A, GOOD_B, _zeros("C", 1)),
            (
                f"{P}expected 2 inputs but got 3 inputs for model 'M'. Got input(s) ['A','B','C'], "
                "but missing required input(s) []. Please provide all required input(s)."
            ),
        ),
        (
            OPTIONAL,
            _request(_zeros("A", 16)),
            (
                f"{P}expected number of inputs between 2 and 3 but got 1 inputs for model 'M'. Got "
                "input(s) ['A'], but missing required input(s) ['B']. Please provide all required "
                "input(s)."
            ),
        ),
        (  # The count is right and a required input is missing all the same.
            OPTIONAL,
            _request(_zeros("A", 16), _zeros("C", 1)),
            (
                f"{P}expected number of inputs between 2 and 3 but got 2 inputs for model 'M'. Got "
                "input(s) ['A','C'], but missing required input(s) ['B']. Please provide all "
                "required input(s)."
            ),
        ),
        (
            BATCHED,
            _request(GOOD_A, _zeros("X", 1)),
            "unexpected inference input 'X' for model 'M'",
        ),
        (
            BATCHED,
            _request(_zeros("A"), GOOD_B),
            f"{P}input 'A' has no shape but model requires batch dimension for 'M'",
        ),
        (
            BATCHED,
            _request(GOOD_A, _zeros("B", 2, 3, 4)),
            f"{P}input 'B' batch size does not match other inputs for 'M'",
        ),
        (
            BATCHED,
            _request(_zeros("A", 9, 16), _zeros("B", 9, 3, 4)),
            f"{P}inference request batch-size must be <= 8 for 'M'",
        ),
        (
            BATCHED,
            _request(_zeros("A", 1, 16, datatype="INT32"), GOOD_B),
            f"{P}inference input 'A' data-type is 'INT32', but model 'M' expects 'FP32'",
        ),
        (
            BATCHED,
            _request(Tensor("A", "STRING", (1, 16), raw=bytes(64)), GOOD_B),
            f"{P}inference input 'A' data-type is '<invalid>', but model 'M' expects 'FP32'",
        ),
        (
            BATCHED,
            _request(GOOD_A, _zeros("B", 1, -1, 4)),
            (
                f"{P}All input dimensions should be specified for input 'B' for model 'M', got "
                "[1,-1,4]"
            ),
        ),
        (
            BATCHED,
            _request(_zeros("A", 1, 8), GOOD_B),
            f"{P}unexpected shape for input 'A' for model 'M'. Expected [-1,16], got [1,8]. {NOTE}",
        ),
        (
            BATCHED,
            _request(GOOD_A, _zeros("B", 1, -2, 4)),
            (
                f"{P}unexpected shape for input 'B' for model 'M'. Expected [-1,-1,4], got "
                f"[1,-2,4]. {NOTE}"
            ),
        ),
        (
            BATCHED,
            _request(_zeros("A", -3, 16), _zeros("B", -3, 3, 4)),
            (
                f"{P}unexpected shape for input 'A' for model 'M'. Expected [-1,16], got [-3,16]. "
                f"{NOTE}"
            ),
        ),
        (
            WHOLE,
            _request(_zeros("A", 1, 16), _zeros("B", 3, 4)),
            f"{P}unexpected shape for input 'A' for model 'M'. Expected [16], got [1,16]. ",
        ),
        (
            BATCHED,
            _request(Tensor("A", "FP32", (1, 16), raw=bytes(60)), GOOD_B),
            f"{P}input byte size mismatch for input 'A' for model 'M'. Expected 64, got 60",
        ),
        (
            BATCHED,
            _request(GOOD_A, _zeros("B", 1, 3, 4, extra_bytes=1)),
            f"{P}input byte size mismatch for input 'B' for model 'M'. Expected 48, got 49",
        ),
        (  # A batch of none is taken as no batch, whose bytes are missing.
            BATCHED,
            _request(_zeros("A", 0, 16), _zeros("B", 0, 3, 4)),
            f"{P}input byte size mismatch for input 'A' for model 'M'. Expected 64, got 0",
        ),
        (
            "max_batch_size: 8" + _input("A", "-1"),
            _request(_zeros("A", 0, 0)),
            f"{P}inference request batch-size must be >= 1 for 'M'",
        ),
    ],
)
def test_a_request_is_refused(rules: str, request_: InferRequest, message: str) -> None:
    assert _refusal(_rules(rules), request_) == message


def test_every_output_may_be_asked_for_once() -> None:
    assert _rules(WHOLE).admit(_request(_zeros("A", 16), _zeros("B", 1, 4), outputs=("O",)))


STRINGS = _input("S", "2", data_type="TYPE_STRING")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            _string(b"a") * 3,
            (
                "unexpected number of string elements 3 for inference input 'S' for model 'M', "
                "expecting 2"
            ),
        ),
        (
            _string(b"a"),
            "expected 2 string elements for inference input 'S' for model 'M', got 1",
        ),
        (b"", "expected 2 string elements for inference input 'S' for model 'M', got 0"),
        (
            _string(b"a") + b"\0\0\0",
            (
                "incomplete string length indicator for inference input 'S' for model 'M', "
                "expecting 4 bytes but only 3 bytes available. Please make sure the string length "
                "indicator is in one buffer."
            ),
        ),
        (
            _string(b"a") + _string(b"abc")[:-1],
            (
                "incomplete string data for inference input 'S' for model 'M', expecting string of "
                "length 3 but only 2 bytes available"
            ),
        ),
        (
            b"\xff\xff\xff\xff",
            (
                "incomplete string data for inference input 'S' for model 'M', expecting string of "
                "length 4294967295 but only 0 bytes available"
            ),
        ),
    ],
)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_strings_are_counted(raw: bytes, message: str, kind: type) -> None:
    request = _request(_strings("S", (2,), kind(raw)))

    assert _refusal(_rules(STRINGS), request) == P + message


def test_strings_in_order_are_admitted() -> None:
    rules = _rules(STRINGS)

    assert rules.admit(_request(_strings("S", (2,), _string(b"") + _string(b"\0x"))))
    assert rules.admit(_request(Tensor.from_array("S", np.array([b"a", "ü"], np.object_))))


def test_an_array_that_is_not_of_its_shape_is_refused() -> None:
    array = np.zeros(3, np.float32)
    request = _request(Tensor("A", "FP32", (16,), array=array), _zeros("B", 1, 4))

    assert _refusal(_rules(WHOLE), request).endswith("Expected 64, got 12")


def test_only_so_many_shapes_are_remembered() -> None:
    rules = _rules(_input("A", "-1"))
    sizes = range(MAX_REMEMBERED_SHAPES + 2)

    keys = {rules.admit(_request(_zeros("A", size))).shape_key for size in sizes}

    assert len(keys) == len(sizes)


# Requests that are alike.


def test_what_is_known_of_one_request_holds_for_all_that_are_like_it() -> None:
    rules = _rules(BATCHED)
    likeness, other = object(), object()
    request = _request(_zeros("A", 2, 16), _zeros("B", 2, 3, 4))

    first = rules.admit_alike(request, likeness)

    assert first == rules.admit(request)
    assert rules.admit_alike(request, likeness) is first
    assert rules.admit_alike(_request(_zeros("A", 3, 16), _zeros("B", 3, 3, 4)), other) != first
    with pytest.raises(ServerError):
        rules.admit_alike(_request(), object())


def test_a_refusal_is_not_remembered() -> None:
    rules, likeness = _rules(BATCHED), object()
    for _ in range(2):
        with pytest.raises(ServerError):
            rules.admit_alike(_request(_zeros("A", 2, 16)), likeness)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (_input("A", "1", data_type="TYPE_STRING"), b"\1\0\0\0x", b"\2\0\0\0x"),
        (
            _input("A", "1", "is_shape_tensor: true", data_type="TYPE_INT32"),
            b"\1\0\0\0",
            b"\2\0\0\0",
        ),
    ],
)
def test_where_content_matters_every_request_is_judged(text: str, good: bytes, bad: bytes) -> None:
    rules, likeness = _rules(text), object()
    datatype = "BYTES" if "STRING" in text else "INT32"

    def judged(raw: bytes) -> Admitted | str:
        try:
            return rules.admit_alike(_request(Tensor("A", datatype, (1,), raw=raw)), likeness)
        except ServerError as error:
            return error.message

    assert judged(good) == judged(good)
    assert judged(bad) != judged(good)


def test_a_reshaped_input_is_reshaped_in_every_request() -> None:
    rules, likeness = _rules(_input("A", "4", "reshape { shape: [ 2, 2 ] }")), object()
    for _ in range(2):
        request = _request(_zeros("A", 4))
        rules.admit_alike(request, likeness)
        assert request.inputs[0].shape == (2, 2)


def test_only_so_many_likenesses_are_known() -> None:
    rules = _rules(BATCHED)
    request = _request(_zeros("A", 2, 16), _zeros("B", 2, 3, 4))
    for _ in range(MAX_KNOWN_LIKENESSES + 2):
        rules.admit_alike(request, object())
    assert 0 < len(rules._admitted) <= MAX_KNOWN_LIKENESSES


# Reshape.


@pytest.mark.parametrize(
    ("batch", "dims", "reshape", "shape", "seen"),
    [
        (8, "1", "", (3, 1), (3,)),
        (0, "2, 3", "6", (2, 3), (6,)),
        (8, "2, 4, -1, 6", "8, -1, 1, 6", (2, 2, 4, 5, 6), (2, 8, 5, 1, 6)),
        (0, "-1, -1", "-1, 1, -1", (2, 3), (2, 1, 3)),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_the_model_sees_the_reshaped_tensor(
    *,
    batch: int,
    dims: str,
    reshape: str,
    shape: tuple[int, ...],
    seen: tuple[int, ...],
    as_array: bool,
) -> None:
    rules = _rules(
        f"max_batch_size: {batch}" + _input("A", dims, f"reshape {{ shape: [ {reshape} ] }}")
    )
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    tensor = Tensor.from_array("A", values)
    if not as_array:
        tensor = Tensor("A", "FP32", shape, raw=tensor.raw)
    request = _request(tensor)

    rules.admit(request)

    assert request.inputs[0].shape == seen
    assert request.inputs[0].array.shape == seen
    assert request.inputs[0].raw == values.tobytes()
    assert tensor.shape == shape


def test_only_reshaped_inputs_are_replaced() -> None:
    rules = _rules(_input("A", "2") + _input("B", "4", "reshape { shape: [ 2, 2 ] }"))
    a, b = _zeros("A", 2), _zeros("B", 4)
    request = _request(a, b)

    rules.admit(request)

    assert request.inputs[0] is a
    assert request.inputs[1].shape == (2, 2)


# Raw input.


def _raw(body: bytes) -> InferRequest:
    return InferRequest("M", inputs=[Tensor("", "", (), raw=body)], raw_input=True)


@pytest.mark.parametrize(
    ("rules", "body", "shape"),
    [
        (_input("A", "2"), bytes(8), (2,)),
        ("max_batch_size: 8" + _input("A", "2"), bytes(8), (1, 2)),
        ("max_batch_size: 8" + _input("A", "2, -1"), bytes(24), (1, 2, 3)),
        (_input("A", "-1"), b"", (0,)),
    ],
)
def test_a_raw_input_gets_name_and_shape(rules: str, body: bytes, shape: tuple[int, ...]) -> None:
    request = _raw(body)

    _rules(rules).admit(request)

    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("A", "FP32", shape)
    assert tensor.raw == body


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_raw_string_gets_its_length(kind: type) -> None:
    request = _raw(kind(b"abc"))

    _rules(_input("S", "1", data_type="TYPE_STRING")).admit(request)

    assert request.inputs[0].raw == _string(b"abc")


@pytest.mark.parametrize(
    ("rules", "body", "message"),
    [
        (
            WHOLE,
            b"",
            (
                "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in "
                "'M' model configuration"
            ),
        ),
        (
            _input("I", "-1, -1"),
            b"",
            (
                "The shape of the raw input 'I' can not be deduced because there are more than one "
                "variable-sized dimension"
            ),
        ),
        (
            STRINGS,
            b"",
            "For BYTE datatype raw input 'S', the model must have input shape [1]",
        ),
        (
            _input("S", "-1", data_type="TYPE_STRING"),
            b"",
            "For BYTE datatype raw input 'S', the model must have input shape [1]",
        ),
        (
            _input("A", "-1, 2"),
            bytes(12),
            "input byte size mismatch for input 'A' for model 'M'. Expected 8, got 12",
        ),
    ],
)
def test_a_raw_input_is_refused(rules: str, body: bytes, message: str) -> None:
    assert _refusal(_rules(rules), _raw(body)) == P + message


# Sequences.


def _sequence(data_type: str) -> str:
    return (
        _input("A", "1")
        + 'sequence_batching { control_input { name: "C" control { kind: CONTROL_SEQUENCE_CORRID '
        f"data_type: {data_type} }} }} }}"
    )


@pytest.mark.parametrize(
    ("data_type", "correlation_id", "message"),
    [
        ("TYPE_UINT64", "five", "is 'BYTES', but model 'M' expects 'UINT64'"),
        ("TYPE_STRING", 5, "is 'UINT64', but model 'M' expects 'BYTES'"),
        ("TYPE_STRING", 0, "is 'UINT64', but model 'M' expects 'BYTES'"),
    ],
)
def test_the_kind_of_a_correlation_id_must_fit(
    data_type: str, correlation_id: int | str, message: str
) -> None:
    request = InferRequest("M", inputs=[_zeros("A", 1)], correlation_id=correlation_id)

    assert _refusal(_rules(_sequence(data_type)), request) == (
        f"{P}sequence batching control 'C' data-type {message}"
    )


@pytest.mark.parametrize(
    ("text", "correlation_id"),
    [
        (_sequence("TYPE_INT32"), 5),
        (_sequence("TYPE_STRING"), "5"),
        (_input("A", "1") + "sequence_batching { }", "5"),
        (_input("A", "1") + "sequence_batching { }", 5),
    ],
)
def test_a_fitting_correlation_id_passes(text: str, correlation_id: int | str) -> None:
    request = InferRequest("M", inputs=[_zeros("A", 1)], correlation_id=correlation_id)

    assert _rules(text).admit(request)


# Against a naive judge.


@dataclass(frozen=True)
class Declared:
    name: str
    dims: tuple[int, ...]
    optional: bool
    ragged: bool

    def __str__(self) -> str:
        return _input(
            self.name,
            ", ".join(map(str, self.dims)),
            f"optional: {str(self.optional).lower()} "
            f"allow_ragged_batch: {str(self.ragged).lower()}",
        )


def _is_in_order(declared: list[Declared], batch: int, request: InferRequest) -> bool:
    """The same judgement, written for clarity alone."""
    by_name = {one.name: one for one in declared}
    given = [tensor.name for tensor in request.inputs]
    if len(set(given)) != len(given) or not set(given) <= set(by_name):
        return False
    if not {one.name for one in declared if not one.optional} <= set(given):
        return False
    sizes = set()
    for tensor in request.inputs:
        shape = tensor.shape
        if batch:
            if not shape:
                return False
            sizes.add(shape[0])
            shape = shape[1:]
        dims = by_name[tensor.name].dims
        if len(shape) != len(dims):
            return False
        for size, dim in zip(shape, dims, strict=True):
            if size < 0 or dim not in {-1, size}:
                return False
        if tensor.datatype != "FP32" or len(tensor.raw) != math.prod(tensor.shape) * 4:
            return False
    return not batch or (len(sizes) <= 1 and all(1 <= size <= batch for size in sizes))


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[Declared], int, list[InferRequest]]:
    declared = [
        Declared(
            name,
            tuple(draw(st.lists(st.sampled_from([-1, 1, 2]), min_size=1, max_size=2))),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for name in "ABC"[: draw(st.integers(0, 3))]
    ]
    batch = draw(st.sampled_from([0, 1, 2]))

    def tensor(name: str, dims: tuple[int, ...], size: int) -> Tensor:
        shape = [draw(st.integers(0, 2)) if dim == -1 else dim for dim in dims]
        shape = [size, *shape] if batch else shape
        if draw(st.integers(0, 9)) == 0:  # spoil some
            shape = draw(st.lists(st.integers(-2, 3), max_size=3))
        datatype = draw(st.sampled_from(["FP32"] * 19 + ["INT32"]))
        spoiled = draw(st.sampled_from([0] * 19 + [1]))
        return _zeros(name, *shape, datatype=datatype, extra_bytes=spoiled)

    requests = []
    for _ in range(2):
        size = draw(st.integers(1, max(batch, 1)))
        tensors = [
            tensor(one.name, one.dims, size)
            for one in draw(st.permutations(declared))
            if not one.optional or draw(st.booleans())
        ]
        if tensors and draw(st.integers(0, 9)) == 0:
            tensors[draw(st.integers(0, len(tensors) - 1))].name = draw(st.sampled_from("ABX"))
        requests.append(_request(*tensors))
    return declared, batch, requests


@given(_cases())
def test_admission_agrees_with_a_naive_judge(
    case: tuple[list[Declared], int, list[InferRequest]],
) -> None:
    declared, batch, requests = case
    rules = _rules(f"max_batch_size: {batch} {' '.join(map(str, declared))}")
    admitted = []
    for request in requests:
        if not _is_in_order(declared, batch, request):
            assert _refusal(rules, request)
            continue
        answer = rules.admit(request)
        expected = request.inputs[0].shape[0] if batch and request.inputs else 0
        assert answer.batch_size == expected
        admitted.append((request, answer.shape_key))
    if len(admitted) == 2:
        (one, key), (two, other_key) = admitted
        assert (key == other_key) == (
            _batch_form(declared, batch, one) == _batch_form(declared, batch, two)
        )


def _batch_form(
    declared: list[Declared], batch: int, request: InferRequest
) -> dict[str, tuple[int, ...]]:
    """What two requests of one batch must agree in."""
    checked = {one.name for one in declared if -1 in one.dims and not one.ragged}
    some_optional = any(one.optional for one in declared)
    form: dict[str, tuple[int, ...]] = {}
    for tensor in request.inputs:
        if tensor.name in checked:
            form[tensor.name] = tensor.shape[1 if batch else 0 :]
        elif some_optional:
            form[tensor.name] = ()
    return form
