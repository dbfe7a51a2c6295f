"""`pb_utils.Tensor`, requests, responses and errors: what a model may make of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from repo.backends.python import tensor as module
from repo.backends.python.configuration import ModelConfig
from repo.backends.python.errors import TritonError, TritonModelException, describe
from repo.backends.python.layout import SHARED_THRESHOLD, Slot
from repo.backends.python.objects import (
    InferenceRequest,
    InferenceResponse,
    InferenceTrace,
    PreferredMemory,
)
from repo.backends.python.pb_utils import c_python_backend_utils
from repo.backends.python.pb_utils import triton_python_backend_utils as pb_utils
from repo.backends.python.tensor import Tensor


def received(datatype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    slot = Slot("T", datatype, shape, len(raw), 0, shared=False)
    return Tensor._received(slot, bytearray(b"pad!" + raw), 4, len(raw))


def test_a_tensor_takes_any_array_that_triton_has_a_name_for() -> None:
    strided = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    tensor = Tensor("T", strided)
    assert (tensor.name(), tensor.shape(), tensor.triton_dtype()) == ("T", [3, 2], 11)
    assert tensor.as_numpy().flags.c_contiguous
    assert tensor._raw() == strided.tobytes()
    same = np.zeros(4, np.float32)
    assert Tensor("T", same).as_numpy() is same
    large = np.arange(SHARED_THRESHOLD, dtype=np.int64)
    view = Tensor("T", large)._raw()
    assert isinstance(view, memoryview)
    assert view == large.tobytes()


@pytest.mark.parametrize("dtype", ["U3", np.complex64, "M8[s]", [("a", "i4")]])
def test_other_dtypes_are_not_supported(dtype: Any) -> None:
    with pytest.raises(TritonModelException, match=r"^NumPy dtype is not supported\.$"):
        Tensor("T", np.zeros(1, dtype))


def test_a_tensor_needs_a_name_and_an_array() -> None:
    array = np.zeros(1)
    with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
        Tensor("", array)
    for arguments in ((None, array), ("T", None), ("T", [1.0]), (3, array)):
        with pytest.raises(TypeError):
            Tensor(*arguments)


def test_elements_of_a_bytes_tensor_become_bytes() -> None:
    elements = np.array(["é", b"\xff", 12, None, 1.5], np.object_)
    tensor = Tensor("T", elements)
    assert tensor.triton_dtype() == 13
    again = received("BYTES", (5,), bytes(tensor._raw()))
    assert again.as_numpy().tolist() == ["é".encode(), b"\xff", b"12", b"None", b"1.5"]
    padded = Tensor("T", np.array([b"a\0", b"bcd"]))
    assert pb_utils.deserialize_bytes_tensor(bytes(padded._raw())).tolist() == [b"a", b"bcd"]


def test_what_arrived_is_a_writable_view_of_its_message() -> None:
    tensor = received("FP32", (2, 1), np.array([1, 2], np.float32).tobytes())
    assert tensor._raw() == np.array([1, 2], np.float32).tobytes()
    array = tensor.as_numpy()
    array += 1
    assert tensor.as_numpy().tolist() == [[2.0], [3.0]]
    assert tensor.is_cpu()
    assert tensor._raw() == np.array([2, 3], np.float32).tobytes()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\1\0\0", "incomplete length field"),
        (b"\5\0\0\0abc", "string extends beyond buffer"),
    ],
)
def test_malformed_bytes_tensors_say_so(raw: bytes, text: str) -> None:
    with pytest.raises(TritonModelException, match=f"^Invalid bytes tensor data: {text}$"):
        received("BYTES", (1,), raw).as_numpy()


def test_bf16_is_not_for_numpy() -> None:
    text = (
        r"^Tensor dtype is BF16 and cannot be converted to NumPy\. Use to_dlpack\(\) and "
        r"from_dlpack\(\) instead\.$"
    )
    with pytest.raises(TritonModelException, match=text):
        received("BF16", (2,), b"abcd").as_numpy()


def test_a_response_holds_tensors_or_an_error() -> None:
    tensor = Tensor("T", np.zeros(1))
    response = InferenceResponse([tensor])
    assert response.output_tensors() == [tensor]
    assert (response.has_error(), response.error(), response.parameters()) == (False, None, "{}")
    failed = InferenceResponse(error=TritonError("no"), parameters={"k": True})
    assert failed.has_error()
    assert failed.output_tensors() == []
    assert json.loads(failed.parameters()) == {"k": True}
    error = failed.error()
    assert error is not None
    assert (error.message(), error.code()) == ("no", TritonError.INTERNAL)
    for wrong in (None, 5, [5]):
        with pytest.raises(TypeError):
            InferenceResponse(wrong)  # type: ignore[arg-type]  # as a model might
    with pytest.raises(TypeError):
        InferenceResponse([], error="no")  # type: ignore[arg-type]  # as a model might
    with pytest.raises(
        TritonModelException, match=r"^Output tensor for inference response should not be empty\.$"
    ):
        InferenceResponse([None])  # type: ignore[list-item]  # as a model might


def request(**changes: Any) -> InferenceRequest:
    values: dict[str, Any] = {"inputs": [], "requested_output_names": [], "model_name": "m"}
    return InferenceRequest(**{**values, **changes})


def test_a_request_keeps_what_it_was_made_with() -> None:
    tensor = Tensor("T", np.zeros(1))
    made = request(
        request_id="r",
        correlation_id="c",
        inputs=[tensor],
        requested_output_names=["A", "B", "A"],
        flags=1,
        timeout=5,
        preferred_memory=PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 1),
        trace=InferenceTrace("{}"),
        parameters={"a": 1, "b": "x", "c": False},
    )
    assert made.inputs() == [tensor]
    assert (made.request_id(), made.correlation_id(), made.flags(), made.timeout()) == (
        "r", "c", 1, 5,
    )  # fmt: skip
    assert made.requested_output_names() == {"A", "B"}
    assert made.trace().get_context() == "{}"
    assert json.loads(made.parameters()) == {"a": 1, "b": "x", "c": False}
    made.set_flags(2)
    assert made.flags() == 2
    assert request().parameters() == "{}"
    assert request().trace().get_context() is None
    with pytest.raises(TritonModelException, match="no reference to the decoupled state"):
        made.get_response_sender()


def test_a_request_is_made_of_the_right_types_only() -> None:
    for name in (
        "request_id", "correlation_id", "inputs", "requested_output_names", "model_name",
        "model_version", "flags", "timeout", "preferred_memory", "trace",
    ):  # fmt: skip
        with pytest.raises(TypeError):
            request(**{name: None})
    with pytest.raises(TritonModelException, match=r"^Correlation ID must be integer or string$"):
        request(correlation_id=1.5)
    where = "for request with id 'r' and model name 'm' should not be empty."
    with pytest.raises(TritonModelException, match=f"^Input tensor {where}$"):
        request(request_id="r", inputs=[None])
    with pytest.raises(TritonModelException, match=f"^Requested output name {where}$"):
        request(request_id="r", requested_output_names=[""])


def test_parameters_are_plain_values_by_name() -> None:
    for parameters, text in (
        ({1: 2}, "Expect parameters keys to have type str, found type <class 'int'>"),
        (
            {"a": 1.5},
            "Expect parameters values to have type bool/int/str, found type <class 'float'>",
        ),
    ):
        with pytest.raises(TritonModelException) as caught:
            request(parameters=parameters)
        assert str(caught.value) == text


def test_errors_have_codes_and_text() -> None:
    assert TritonError("x", pb_utils.TritonError.NOT_FOUND).code() == 2
    for arguments in ((None,), ("x", None), ("x", "INTERNAL")):
        with pytest.raises(TypeError):
            TritonError(*arguments)
    error = describe(TritonModelException("text"))
    assert error == "TritonModelException: text"


def test_helpers_of_pb_utils() -> None:
    first, second = Tensor("A", np.zeros(1)), Tensor("B", np.zeros(1))
    asked = request(inputs=[first, second])
    assert pb_utils.get_input_tensor_by_name(asked, "B") is second
    assert pb_utils.get_input_tensor_by_name(asked, "C") is None
    answered = InferenceResponse([first, second])
    assert pb_utils.get_output_tensor_by_name(answered, "A") is first
    assert pb_utils.get_output_tensor_by_name(answered, "C") is None
    config = {"input": [{"name": "A"}], "output": [{"name": "B"}]}
    assert pb_utils.get_input_config_by_name(config, "A") == {"name": "A"}
    assert pb_utils.get_input_config_by_name({}, "A") is None
    assert pb_utils.get_output_config_by_name(config, "B") == {"name": "B"}
    assert pb_utils.get_output_config_by_name(config, "A") is None
    decoupled = {"model_transaction_policy": {"decoupled": True}}
    assert pb_utils.using_decoupled_model_transaction_policy(decoupled)
    assert not pb_utils.using_decoupled_model_transaction_policy({})
    assert pb_utils.serialize_byte_tensor(np.array([], np.object_)) == ()
    assert pb_utils.serialize_byte_tensor(np.zeros(2)) is None
    encoded = pb_utils.serialize_byte_tensor(np.array(["a", b"bc"], np.object_))
    assert encoded == b"\1\0\0\0a\2\0\0\0bc"
    assert c_python_backend_utils.Tensor is pb_utils.Tensor


def test_datatypes_are_translated_by_number_and_name() -> None:
    for number in range(1, 14):
        kind = pb_utils.triton_to_numpy_type(number)
        assert kind is not None
        assert pb_utils.numpy_to_triton_type(kind) == number
    assert pb_utils.triton_to_numpy_type(11) is np.float32
    assert pb_utils.triton_to_numpy_type(14) is None
    assert pb_utils.triton_to_numpy_type(0) is None
    assert pb_utils.numpy_to_triton_type(np.dtype("S4")) == 13
    assert pb_utils.numpy_to_triton_type(np.complex64) is None
    assert pb_utils.triton_string_to_numpy("TYPE_BOOL") is bool
    assert pb_utils.triton_string_to_numpy("TYPE_FP16") is np.float16
    assert pb_utils.triton_string_to_numpy("TYPE_STRING") is np.object_
    with pytest.raises(KeyError):
        pb_utils.triton_string_to_numpy("TYPE_BF16")


def test_every_name_that_is_promised_exists() -> None:
    for utilities in (pb_utils, c_python_backend_utils):
        for name in utilities.__all__:
            assert hasattr(utilities, name)
    assert pb_utils.ModelConfig is ModelConfig
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START == 1
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END == 2
    assert pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1
    assert pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL == 1
    assert pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE == 2


def test_outside_a_worker_the_server_cannot_be_reached() -> None:
    with pytest.raises(RuntimeError, match="inside a worker process"):
        pb_utils.Logger.log_info("x")
    with pytest.raises(RuntimeError, match="inside a worker process"):
        request().exec()


def test_models_may_subclass_what_they_are_given() -> None:
    class Mine(pb_utils.Tensor):
        pass

    class Oops(pb_utils.TritonModelException):
        pass

    assert isinstance(Mine("T", np.zeros(1)), module.Tensor)
    assert describe(Oops("text")) == "Oops: text"
