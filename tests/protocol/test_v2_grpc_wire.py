"""The hand-written wire format against protobuf itself."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.proto.messages import InferParameter, InferTensorContents, ModelInferRequest
from protocol.status import ServerError
from protocol.v2_grpc import decode_infer_request
from protocol.v2_grpc_wire import length_delimited, split_request, text_field, varint

NAMES = st.text(max_size=5)
VERSIONS = st.sampled_from(["", "1", "07"])
SHAPES = st.lists(st.integers(-1, 2**40), max_size=3)
SIZES = st.sampled_from([0, 1, 127, 128, 4095, 4096, 20_000])


@st.composite
def parameters(draw: st.DrawFn) -> InferParameter:
    kind, value = draw(
        st.one_of(
            st.tuples(st.just("bool_param"), st.booleans()),
            st.tuples(st.just("int64_param"), st.integers(-(2**63), 2**63 - 1)),
            st.tuples(st.just("string_param"), NAMES),
            st.tuples(st.just("double_param"), st.floats()),
        )
    )
    parameter = InferParameter()
    setattr(parameter, kind, value)
    return parameter


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    """Requests that decode: every input raw, or every input typed."""
    request = ModelInferRequest(
        model_name=draw(NAMES), model_version=draw(VERSIONS), id=draw(NAMES)
    )
    for name in draw(st.lists(NAMES.map("p{}".format), max_size=3)):
        request.parameters[name].CopyFrom(draw(parameters()))
    is_typed = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(NAMES), datatype="INT32", shape=draw(SHAPES))
        if is_typed:
            values = draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3))
            tensor.contents.CopyFrom(InferTensorContents(int_contents=values))
        else:
            request.raw_input_contents.append(draw(st.binary(max_size=2)) * draw(SIZES))
    for name in draw(st.lists(NAMES, max_size=3)):
        request.outputs.add(name=name)
    return request


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    """One top-level field of any number and wire type, padded tags and lengths included."""
    number = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 2000]))
    wire_type = draw(st.sampled_from([0, 1, 2, 2, 2, 2, 5]))
    tag = varint(number << 3 | wire_type)
    match wire_type:
        case 0:
            return tag + varint(draw(st.integers(0, 2**64 - 1)))
        case 1:
            return tag + draw(st.binary(min_size=8, max_size=8))
        case 5:
            return tag + draw(st.binary(min_size=4, max_size=4))
        case _:
            payload = draw(st.one_of(st.binary(max_size=6), NAMES.map(str.encode)))
            size = varint(len(payload))
            padding = draw(st.integers(0, 5))
            if padding:
                size = bytes([size[0] | 0x80]) + b"\x80" * (padding - 1) + b"\x00"
            return tag + size + payload


messages = st.one_of(
    requests().map(ModelInferRequest.SerializeToString),
    st.lists(fields(), max_size=6).map(b"".join),
    st.binary(max_size=30),
)


def parsed(data: bytes) -> ModelInferRequest | None:
    try:
        return ModelInferRequest.FromString(data)
    except DecodeError:
        return None


def assert_split_agrees(data: bytes) -> None:
    split = split_request(data)
    if split is None:
        return  # upb parses the whole message then
    expected = parsed(data)
    joined = parsed(split.description)
    try:
        request_id = split.id.decode()
    except UnicodeDecodeError:
        joined = None
    if joined is None:
        assert expected is None
        return
    joined.id = request_id
    joined.raw_input_contents.extend(bytes(raw) for raw in split.raw)
    assert joined == expected


@settings(max_examples=400)
@given(messages, st.integers(0, 40), st.sampled_from([bytes, bytearray, memoryview]))
@example(b"\x3a\x81\x00x", 0, bytes)
@example(b"\x3a\x81\x80\x80\x80\x00x", 0, bytes)
@example(b"\x3a\x81\x80\x80\x80\x80\x00x", 0, bytes)
@example(b"\x1a\x01a\x1a\x01b", 0, bytes)
@example(b"\x3a\x01a\x0a\x01n\x3a\x01b", 0, bytes)
def test_split_means_what_protobuf_means(
    data: bytes, cut: int, form: type[bytes | bytearray | memoryview]
) -> None:
    """Whole, cut short, and with its two halves exchanged."""
    assert_split_agrees(form(data))  # type: ignore[arg-type]  # every form is accepted
    assert_split_agrees(data[: max(0, len(data) - cut)])
    middle = len(data) // 2
    assert_split_agrees(data[middle:] + data[:middle])


@settings(max_examples=200)
@given(messages)
def test_decoding_agrees_with_protobuf(data: bytes) -> None:
    expected = parsed(data)
    try:
        request = decode_infer_request(data).request
    except ServerError as error:
        deserialized = error.message != "Exception deserializing request!"
        assert deserialized == (expected is not None)  # most requests are accepted
        return
    assert expected is not None
    assert request.model_name == expected.model_name
    assert request.id == expected.id
    assert request.requested_outputs == tuple(output.name for output in expected.outputs)
    for tensor, wire in zip(request.inputs, expected.inputs, strict=True):
        assert (tensor.name, tensor.datatype) == (wire.name, wire.datatype)
        assert tensor.shape == tuple(wire.shape)
        if wire.HasField("contents"):
            values = wire.contents.int_contents
            assert tensor.raw == struct.pack(f"<{len(values)}i", *values)
    if expected.raw_input_contents:
        assert [bytes(t.raw) for t in request.inputs] == list(expected.raw_input_contents)
    for name, value in request.parameters.items():
        parameter = expected.parameters[name]
        sent = getattr(parameter, str(parameter.WhichOneof("parameter_choice")))
        assert repr(value) == repr(sent)  # NaN and False included


@settings(max_examples=100)
@given(requests())
def test_requests_that_must_decode(message: ModelInferRequest) -> None:
    """The strategy above is not vacuous: it makes requests that are accepted."""
    result = decode_infer_request(message.SerializeToString())
    assert len(result.request.inputs) == len(message.inputs)


@given(st.integers(-(2**63), 2**64 - 1))
def test_varint(value: int) -> None:
    field = b"\x10" if value < 2**63 else b"\x28"
    parameter = InferParameter()
    if value < 2**63:
        parameter.int64_param = value
    else:
        parameter.uint64_param = value
    assert field + varint(value) == parameter.SerializeToString()


@given(st.text(max_size=200))
def test_text_field(text: str) -> None:
    assert text_field(1, text) == ModelInferRequest(model_name=text).SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_length_delimited(size: int) -> None:
    expected = ModelInferRequest(raw_input_contents=[b"x" * size]).SerializeToString()
    assert length_delimited(7, b"x" * size) == expected


def test_text_that_utf_8_cannot_hold() -> None:
    assert text_field(1, "a\udcffb") == text_field(1, "a?b")
