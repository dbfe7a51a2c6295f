"""Decoding ModelInferRequest: what a request means, and what its sender hears when it is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc._utils import _get_inference_request

from protocol import v2_grpc_request
from protocol.inference import OutputPlan, SequenceFlag, SharedMemoryRef
from protocol.proto.messages import ModelInferRequest
from protocol.status import ServerError, StatusCode
from protocol.v2_grpc import RejectedRequest, decode_infer_request
from tests.protocol.v2_grpc_edits import (
    FakeRegions,
    decoded,
    refused,
    setting,
    shared,
    simple,
    typed,
)

# ---- what a request means ----------------------------------------------------------------------


def test_a_plain_request() -> None:
    result = decoded()
    request = result.request
    assert (request.model_name, request.model_version, request.id) == ("simple", "", "7")
    assert [(t.name, t.datatype, t.shape) for t in request.inputs] == [
        ("INPUT0", "FP32", (1, 4)),
        ("INPUT1", "FP32", (1, 4)),
    ]
    assert np.array_equal(request.inputs[1].array, [[0, 1, 2, 3]])
    assert result.plan.outputs == ()
    assert request.requested_outputs == ()
    assert request.parameters == {}
    assert (request.correlation_id, request.sequence_flags) == (0, SequenceFlag.NONE)
    assert (request.priority, request.timeout_us, result.empty_final) == (0, 0, False)


def test_what_tritonclient_sends() -> None:
    first = triton.InferInput("INPUT0", [16], "FP32")
    first.set_data_from_numpy(np.arange(16, dtype=np.float32))
    words = triton.InferInput("WORDS", [2], "BYTES")
    words.set_data_from_numpy(np.array([b"a", b"\x00\xff"], dtype=np.object_))
    top = triton.InferRequestedOutput("OUTPUT0", class_count=3)
    plain = triton.InferRequestedOutput("OUTPUT1")
    message = _get_inference_request(
        model_name="simple", inputs=[first, words], model_version="2", request_id="abc",
        outputs=[top, plain], sequence_id=42, sequence_start=True, sequence_end=True,
        priority=3, timeout=1500, parameters={"a": 1, "b": True, "c": 0.5, "d": "x"},
    )  # fmt: skip
    result = decode_infer_request(message.SerializeToString())
    request = result.request
    assert request.model_version == "2"
    assert np.array_equal(request.inputs[0].array, np.arange(16))
    assert list(request.inputs[1].array) == [b"a", b"\x00\xff"]
    assert request.correlation_id == 42
    assert request.sequence_flags == SequenceFlag.START | SequenceFlag.END
    assert (request.priority, request.timeout_us) == (3, 1500)
    assert request.parameters == {"a": 1, "b": True, "c": 0.5, "d": "x"}
    assert request.parameters["b"] is True
    assert request.requested_outputs == ("OUTPUT0", "OUTPUT1")
    assert result.plan.outputs == (OutputPlan("OUTPUT0", classification=3), OutputPlan("OUTPUT1"))


def test_raw_contents_skip_inputs_in_shared_memory() -> None:
    """Case 37: with input 0 in shared memory, the first raw entry feeds input 1."""
    inputs = decoded(shared(0)).request.inputs
    assert bytes(inputs[0].raw) == bytes(range(8, 24))
    assert np.array_equal(inputs[1].array, [[0, 1, 2, 3]])


def test_large_tensors_are_views_and_small_ones_are_not() -> None:
    message = simple()
    large = np.arange(5000, dtype="<f4")
    message.raw_input_contents[0] = large.tobytes()
    message.inputs[0].shape[:] = [5000]
    for data in (message.SerializeToString(), bytearray(message.SerializeToString())):
        inputs = decode_infer_request(data).request.inputs
        assert isinstance(inputs[0].raw, memoryview)
        assert inputs[0].raw.obj is data
        assert inputs[0].raw.readonly
        assert isinstance(inputs[1].raw, bytes)
        array = inputs[0].array
        assert np.array_equal(array, large)
        assert array.flags.aligned


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("elements", [4, 5000])
def test_every_form_of_message(form: Callable[[bytes], bytes], elements: int) -> None:
    message = simple()
    message.raw_input_contents[1] = bytes(range(250)) * elements
    result = decode_infer_request(form(message.SerializeToString()))
    assert bytes(result.request.inputs[1].raw) == bytes(range(250)) * elements


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_an_unusual_but_valid_encoding(form: Callable[[bytes], bytes]) -> None:
    unknown_field = b"\xf8\x07\x01"  # number 127, varint
    result = decode_infer_request(form(unknown_field + simple().SerializeToString()))
    assert [bytes(t.raw) for t in result.request.inputs] == list(simple().raw_input_contents)
    assert result.request.id == "7"


def test_a_repeated_description_is_remembered_but_never_shared() -> None:
    first = decoded(setting("custom", "int64_param", 1)).request
    first.parameters["custom"] = 2
    first.inputs.clear()
    second = decoded(setting("custom", "int64_param", 1)).request
    assert second.parameters == {"custom": 1}
    assert len(second.inputs) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_grpc_request, "_memory", {})
    monkeypatch.setattr(v2_grpc_request, "_MEMORY_ENTRIES", 3)
    for number in range(10):
        decoded(setting("custom", "int64_param", number))
        assert 1 <= len(v2_grpc_request._memory) <= 3

    monkeypatch.setattr(v2_grpc_request, "_memory", {})
    decoded(setting("sequence_id", "int64_param", 9))  # every sequence has another description
    decoded(typed("INT32", int_contents=[1]))  # as has every tensor inside one
    decoded(setting("custom", "string_param", "x" * 4096))
    assert v2_grpc_request._memory == {}


# ---- typed contents ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datatype", "field", "values", "expected"),
    [
        ("BOOL", "bool_contents", [True, False], np.array([True, False])),
        ("INT8", "int_contents", [1, -1, 300], np.array([1, -1, 44], "i1")),
        ("INT16", "int_contents", [1, -1, 65537], np.array([1, -1, 1], "<i2")),
        ("INT32", "int_contents", [1, -(2**31)], np.array([1, -(2**31)], "<i4")),
        ("INT64", "int64_contents", [1, -(2**63)], np.array([1, -(2**63)], "<i8")),
        ("UINT8", "uint_contents", [1, 300], np.array([1, 44], "u1")),
        ("UINT16", "uint_contents", [1, 65537], np.array([1, 1], "<u2")),
        ("UINT32", "uint_contents", [1, 2**32 - 1], np.array([1, 2**32 - 1], "<u4")),
        ("UINT64", "uint64_contents", [1, 2**64 - 1], np.array([1, 2**64 - 1], "<u8")),
        ("FP32", "fp32_contents", [1.5, -0.0], np.array([1.5, -0.0], "<f4")),
        ("FP64", "fp64_contents", [1.5, 1e300], np.array([1.5, 1e300], "<f8")),
    ],
)
def test_typed_contents(
    datatype: str, field: str, values: list[object], expected: np.ndarray[tuple[int], np.dtype]
) -> None:
    tensor = decoded(typed(datatype, **{field: values})).request.inputs[0]
    assert bytes(tensor.raw) == expected.tobytes()


def test_typed_bytes() -> None:
    tensor = decoded(typed("BYTES", bytes_contents=[b"", b"\x00\xff"])).request.inputs[0]
    assert tensor.raw == b"\x00\x00\x00\x00\x02\x00\x00\x00\x00\xff"


def test_typed_contents_with_unknown_fields_beside_them() -> None:
    def edit(request: ModelInferRequest) -> None:
        request.inputs[0].contents.MergeFromString(b"\xf8\x07\x01")

    tensor = decoded(typed("FP32", fp32_contents=[1.0, 2.0]), edit).request.inputs[0]
    assert tensor.raw == np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BYTES", "NONSENSE"])
def test_empty_contents_are_an_empty_tensor(datatype: str) -> None:
    assert decoded(typed(datatype)).request.inputs[0].raw == b""


@pytest.mark.parametrize(
    ("datatype", "fields", "complaint"),
    [
        ("FP32", {"int64_contents": [1]}, "of type 'INT64', expected datatype 'FP32'"),
        ("FP32", {"int_contents": [1]}, "of type 'INT32', expected datatype 'FP32'"),
        ("INT8", {"uint_contents": [1]}, "of type 'UINT32', expected datatype 'INT8'"),
        ("FP16", {"fp32_contents": [1]}, "of type 'FP32', expected datatype 'FP16'"),
        ("BF16", {"bool_contents": [1]}, "of type 'BOOL', expected datatype 'BF16'"),
        ("INT64", {"fp64_contents": [1]}, "of type 'FP64', expected datatype 'INT64'"),
        ("INT64", {"uint64_contents": [1]}, "of type 'UINT64', expected datatype 'INT64'"),
        ("NONSENSE", {"bytes_contents": [b"x"]}, "of type 'BYTES', expected datatype '<invalid>'"),
    ],
)
def test_contents_of_another_datatype(
    datatype: str, fields: dict[str, object], complaint: str
) -> None:
    """Case 36."""
    assert refused(typed(datatype, **fields)) == (
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple' " + complaint
    )


def test_two_kinds_of_contents() -> None:
    assert refused(typed("FP32", fp32_contents=[1.0], fp64_contents=[1.0])) == (
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple', "
        "binary data was already supplied."
    )


def test_contents_beside_raw_contents() -> None:
    """Case 36: the mere presence of `contents` counts."""
    assert refused(lambda request: request.inputs[0].contents.SetInParent()) == (
        "contents field must not be specified when using raw_input_contents for 'INPUT0' "
        "for model 'simple'"
    )


# ---- where the data of an input is -------------------------------------------------------------


def test_an_input_without_data() -> None:
    def edit(request: ModelInferRequest) -> None:
        del request.raw_input_contents[1]

    decoded()  # the same description, remembered, must not hide what is missing
    assert refused(edit) == (
        "unable to find data for input tensor 'INPUT1' for model 'simple' in request."
    )


def test_more_raw_contents_than_inputs() -> None:
    decoded()
    assert refused(lambda request: request.raw_input_contents.append(b"")) == (
        "unexpected additional raw_input_contents for model 'simple': expected 2 entries but got 3"
    )


def test_contents_beside_shared_memory() -> None:
    assert refused(shared(0), lambda request: request.inputs[0].contents.SetInParent()) == (
        "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' "
        "for model 'simple'"
    )


@pytest.mark.parametrize("regions", [FakeRegions(), None])
def test_an_unknown_region(regions: FakeRegions | None) -> None:
    request = simple()
    shared(0, region="nowhere")(request)
    with pytest.raises(RejectedRequest) as caught:
        decode_infer_request(request.SerializeToString(), regions)
    assert caught.value.status is StatusCode.NOT_FOUND
    assert caught.value.message == "Unable to find shared memory region: 'nowhere'"
    assert caught.value.id == "7"
    assert not caught.value.precedes_lookup


def test_negative_sizes_are_huge_ones() -> None:
    """So that the region's own bounds check refuses them, with its own text."""

    class Recording(FakeRegions):
        def read(self, ref: SharedMemoryRef) -> memoryview:
            refs.append(ref)
            return memoryview(b"")

    refs: list[SharedMemoryRef] = []
    request = simple()
    shared(0, byte_size=-1, offset=-2)(request)
    decode_infer_request(request.SerializeToString(), Recording())
    assert refs == [SharedMemoryRef("region", 2**64 - 2, 2**64 - 1)]


# ---- versions and broken messages --------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "expected"), [("", ""), ("1", "1"), ("007", "7"), ("+3", "3"), ("0", "0")]
)
def test_versions(version: str, expected: str) -> None:
    result = decoded(lambda request: setattr(request, "model_version", version))
    assert result.request.model_version == expected


@pytest.mark.parametrize(
    "version", ["x", "1abc", " 1", "1.0", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 19, "1" * 5000]
)
def test_versions_that_are_no_numbers(version: str) -> None:
    """E60. The model is not even looked up: this outranks every other mistake."""
    request = simple()
    request.model_version = version
    request.parameters["triton_foo"].bool_param = True
    with pytest.raises(RejectedRequest) as caught:
        decode_infer_request(request.SerializeToString())
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        f"failed to get model version from specified version string '{version}' "
        "(details: stol), version should be an integral value > 0"
    )
    assert caught.value.precedes_lookup
    assert caught.value.id == "7"


def test_negative_versions() -> None:
    assert refused(lambda request: setattr(request, "model_version", "-1")) == (
        "invalid model version specified '-1' , version should be an integral value > 0"
    )


def test_other_mistakes_do_not_precede_the_look_up() -> None:
    with pytest.raises(RejectedRequest) as caught:
        decoded(setting("triton_foo", "bool_param", True), lambda r: setattr(r, "id", ""))
    assert not caught.value.precedes_lookup
    assert caught.value.model_version == ""


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a tag without a length
        b"\x0a\x05abc",  # cut short
        b"\x0a\x01\xff",  # a name that is not UTF-8
        b"\x1a\x01\xff",  # an id that is not UTF-8
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length beyond 64 bits
        b"\x3a\xff\xff\xff\xff\x0f",  # a length beyond 31 bits
        b"\x07",  # a wire type that does not exist
        b"\x22\x03\x0a\x05k",  # a broken map entry
    ],
)
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_malformed_messages(data: bytes, form: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ServerError) as caught:
        decode_infer_request(form(data))
    assert type(caught.value) is ServerError
    assert caught.value.status is StatusCode.INTERNAL
    assert caught.value.message == "Exception deserializing request!"


def test_an_empty_message_is_a_request_without_anything() -> None:
    request = decode_infer_request(b"").request
    assert (request.model_name, request.inputs) == ("", [])
