"""Encoding responses: what the messages say, and that protobuf would have written the same."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferResult, service_pb2

from protocol import v2_grpc_response
from protocol.inference import (
    InferRequest,
    InferResponse,
    OutputPlan,
    ParameterValue,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.proto.messages import ModelInferResponse, ModelStreamInferResponse
from protocol.status import ServerError, StatusCode, cancelled, internal, invalid_arg
from protocol.v2_grpc import (
    MAX_MESSAGE_BYTES,
    Buffer,
    encode_empty_final,
    encode_infer_response,
    encode_stream_error,
    encode_stream_response,
)

EVERYTHING = ResponsePlan()


class TinyRegions:
    """Shared memory whose regions hold 16 bytes."""

    def __init__(self) -> None:
        self.written: dict[str, tuple[SharedMemoryRef, bytes]] = {}

    def read(self, ref: SharedMemoryRef) -> memoryview:
        raise AssertionError("an encoder never reads")

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        if tensor.byte_size > 16:
            raise internal(f"output '{output_name}' is too large")
        self.written[output_name] = (ref, bytes(tensor.raw))


def joined(buffers: Iterable[Buffer]) -> bytes:
    return b"".join(buffers)


def unary(buffers: list[Buffer]) -> ModelInferResponse:
    return ModelInferResponse.FromString(joined(buffers))


def streamed(buffers: list[Buffer]) -> ModelStreamInferResponse:
    return ModelStreamInferResponse.FromString(joined(buffers))


def two_outputs() -> InferResponse:
    outputs = [
        Tensor.from_array("OUTPUT0", np.arange(4, dtype="<f4").reshape(1, 4)),
        Tensor.from_array("OUTPUT1", np.array([[b"a", b""]], dtype=np.object_)),
    ]
    return InferResponse("simple", "3", "7", outputs)


# ---- unary -------------------------------------------------------------------------------------


def test_a_plain_response() -> None:
    message = unary(encode_infer_response(two_outputs(), EVERYTHING))
    assert (message.model_name, message.model_version, message.id) == ("simple", "3", "7")
    assert [(o.name, o.datatype, list(o.shape)) for o in message.outputs] == [
        ("OUTPUT0", "FP32", [1, 4]),
        ("OUTPUT1", "BYTES", [1, 2]),
    ]
    assert not any(output.HasField("contents") for output in message.outputs)
    assert list(message.raw_output_contents) == [
        np.arange(4, dtype="<f4").tobytes(),
        b"\x01\x00\x00\x00a\x00\x00\x00\x00",
    ]
    assert not message.parameters


def test_what_tritonclient_reads() -> None:
    data = joined(encode_infer_response(two_outputs(), EVERYTHING))
    result = InferResult(service_pb2.ModelInferResponse.FromString(data))
    assert np.array_equal(result.as_numpy("OUTPUT0"), [[0, 1, 2, 3]])
    assert result.as_numpy("OUTPUT1").tolist() == [[b"a", b""]]


def test_only_what_was_asked_for_in_the_order_of_the_model() -> None:
    plan = ResponsePlan((OutputPlan("OUTPUT1"), OutputPlan("MISSING"), OutputPlan("OUTPUT0")))
    assert [o.name for o in unary(encode_infer_response(two_outputs(), plan)).outputs] == [
        "OUTPUT0",
        "OUTPUT1",
    ]
    message = unary(encode_infer_response(two_outputs(), ResponsePlan((OutputPlan("OUTPUT1"),))))
    assert [o.name for o in message.outputs] == ["OUTPUT1"]
    assert list(message.raw_output_contents) == [b"\x01\x00\x00\x00a\x00\x00\x00\x00"]


def test_empty_outputs_keep_their_place() -> None:
    outputs = [
        Tensor.from_array("EMPTY", np.zeros((0, 3), "<f4")),
        Tensor.from_array("FULL", np.ones(1, "<f4")),
    ]
    message = unary(encode_infer_response(InferResponse("m", "1", "", outputs), EVERYTHING))
    assert [list(o.shape) for o in message.outputs] == [[0, 3], [1]]
    assert [len(raw) for raw in message.raw_output_contents] == [0, 4]
    nothing = unary(encode_infer_response(InferResponse("m", "1"), EVERYTHING))
    assert (list(nothing.outputs), list(nothing.raw_output_contents)) == ([], [])


def test_outputs_in_shared_memory() -> None:
    """Case 38: described, its bytes elsewhere, an empty entry in their place."""
    ref = SharedMemoryRef("region", 8, 16)
    plan = ResponsePlan((OutputPlan("OUTPUT0", shared_memory=ref), OutputPlan("OUTPUT1")))
    regions = TinyRegions()
    message = unary(encode_infer_response(two_outputs(), plan, regions))
    assert [list(o.shape) for o in message.outputs] == [[1, 4], [1, 2]]
    assert [len(raw) for raw in message.raw_output_contents] == [0, 9]
    assert regions.written == {"OUTPUT0": (ref, np.arange(4, dtype="<f4").tobytes())}


def test_shared_memory_that_fails() -> None:
    ref = SharedMemoryRef("region", 0, 8)
    plan = ResponsePlan((OutputPlan("OUTPUT0", shared_memory=ref),))
    response = two_outputs()
    response.outputs[0] = Tensor.from_array("OUTPUT0", np.zeros(8, "<f4"))
    with pytest.raises(ServerError, match="too large"):
        encode_infer_response(response, plan, TinyRegions())
    with pytest.raises(ServerError) as caught:
        encode_infer_response(response, plan)
    assert caught.value.status is StatusCode.NOT_FOUND
    assert caught.value.message == "Unable to find shared memory region: 'region'"


def test_classification() -> None:
    plan = ResponsePlan((OutputPlan("OUTPUT0", classification=2),))
    labels = {"OUTPUT0": ["a", "b", "c", "d"]}
    buffers = encode_infer_response(two_outputs(), plan, labels=labels, has_batch_dim=True)
    message = unary(buffers)
    assert message.outputs[0].datatype == "BYTES"
    assert list(message.outputs[0].shape) == [1, 2]
    assert message.raw_output_contents[0] == (
        b"\x0c\x00\x00\x003.000000:3:d\x0c\x00\x00\x002.000000:2:c"
    )
    flat = unary(encode_infer_response(two_outputs(), plan))
    assert list(flat.outputs[0].shape) == [2]
    assert flat.raw_output_contents[0].endswith(b"2.000000:2")


def test_large_tensors_are_passed_on_uncopied() -> None:
    array = np.arange(200_000, dtype="<f4")
    response = InferResponse(
        "m", "1", "", [Tensor.from_array("A", array), Tensor.from_array("B", np.ones(1, "<f4"))]
    )
    for buffers in (
        encode_infer_response(response, EVERYTHING),
        encode_stream_response(response, EVERYTHING, final=True),
    ):
        assert len(buffers) == 3
        assert np.shares_memory(np.frombuffer(buffers[1], "<f4"), array)
    assert unary(encode_infer_response(response, EVERYTHING)).raw_output_contents[0] == (
        array.tobytes()
    )


def test_a_response_that_grpc_cannot_carry() -> None:
    # The pages of this array are never touched, so it takes no memory.
    huge = Tensor.from_array("A", np.zeros(2**31, dtype="u1"))
    response = InferResponse("m", "1", "", [huge])
    with pytest.raises(ServerError) as caught:
        encode_infer_response(response, EVERYTHING)
    assert caught.value.status is StatusCode.INVALID_ARG
    overhead = 3 + 3 + 2 + 3 + 7 + 7 + 6
    assert caught.value.message == (
        f"Response has byte size {2**31 + overhead} which exceeds gRPC's byte size limit "
        "2147483647."
    )


def test_the_limit_counts_the_wrapping_of_a_stream() -> None:
    shape = (MAX_MESSAGE_BYTES,)
    head = sum(map(len, encode_infer_response(InferResponse("m", "1"), EVERYTHING))) + len(
        v2_grpc_response._output("A", "UINT8", shape)
    )
    fits = np.zeros(MAX_MESSAGE_BYTES - head - 6, dtype="u1")  # 6: tag and length of the tensor
    tensor = Tensor("A", "UINT8", shape, raw=fits.data)
    response = InferResponse("m", "1", "", [tensor])
    assert sum(map(len, encode_infer_response(response, EVERYTHING))) == MAX_MESSAGE_BYTES
    with pytest.raises(ServerError, match="exceeds gRPC's byte size limit"):
        encode_stream_response(response, EVERYTHING, final=True)


def test_parameters() -> None:
    values: dict[str, ParameterValue] = {
        "flag": True,
        "off": False,
        "low": -(2**63),
        "high": 2**64 - 1,
        "half": 0.5,
        "text": "\u00e9\udcff",
    }
    message = unary(encode_infer_response(InferResponse("m", "1", "", [], values), EVERYTHING))
    sent = {name: (p.WhichOneof("parameter_choice"), p) for name, p in message.parameters.items()}
    assert {name: kind for name, (kind, _) in sent.items()} == {
        "flag": "bool_param",
        "off": "bool_param",
        "low": "int64_param",
        "high": "uint64_param",
        "half": "double_param",
        "text": "string_param",
    }
    assert message.parameters["low"].int64_param == -(2**63)
    assert message.parameters["high"].uint64_param == 2**64 - 1
    assert message.parameters["text"].string_param == "\u00e9?"


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_parameter_beyond_64_bits(value: int) -> None:
    response = InferResponse("m", "1", "", [], {"k": value})
    with pytest.raises(ServerError) as caught:
        encode_infer_response(response, EVERYTHING)
    assert caught.value.status is StatusCode.INTERNAL
    assert caught.value.message == "response parameter 'k' does not fit into 64 bits"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_grpc_response, "_MEMORY_ENTRIES", 3)
    monkeypatch.setattr(v2_grpc_response, "_heads", {})
    monkeypatch.setattr(v2_grpc_response, "_outputs", {})
    for size in range(10):
        tensor = Tensor.from_array("A", np.zeros(size, "<f4"))
        response = InferResponse("m", str(size), "", [tensor])
        message = unary(encode_infer_response(response, EVERYTHING))
        assert message.model_version == str(size)
        assert list(message.outputs[0].shape) == [size]
        assert 1 <= len(v2_grpc_response._heads) <= 3
        assert 1 <= len(v2_grpc_response._outputs) <= 3


# ---- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [True, False])
def test_a_response_on_a_stream_says_whether_it_is_final(final: bool) -> None:
    """Case 41: `triton_final_response` is there in either case."""
    response = two_outputs()
    response.parameters["mine"] = 1
    message = streamed(encode_stream_response(response, EVERYTHING, final=final))
    assert message.error_message == ""
    assert message.infer_response.id == "7"
    assert message.infer_response.parameters["triton_final_response"].bool_param is final
    assert message.infer_response.parameters["mine"].int64_param == 1
    assert len(message.infer_response.outputs) == len(message.infer_response.raw_output_contents)


def test_a_stream_renders_what_was_asked_for() -> None:
    plan = ResponsePlan((OutputPlan("OUTPUT0", classification=1),))
    buffers = encode_stream_response(
        two_outputs(), plan, final=True, labels={"OUTPUT0": ["", "", "", "d"]}
    )
    assert streamed(buffers).infer_response.raw_output_contents[0][4:] == b"3.000000:3:d"


def test_an_error_before_the_request_was_enqueued() -> None:
    """Case 42: the id and nothing else; clients take a missing flag for final."""
    message = streamed(encode_stream_error(invalid_arg("no such shape"), "7"))
    assert message.error_message == "no such shape"
    assert message.HasField("infer_response")
    assert message.infer_response == ModelInferResponse(id="7")
    assert streamed(encode_stream_error(invalid_arg("x"), "")).HasField("infer_response")


@pytest.mark.parametrize("final", [True, False])
def test_an_error_of_a_request_that_ran(final: bool) -> None:
    request = InferRequest("simple", "2", "7")
    message = streamed(encode_stream_error(internal("boom"), "7", failed=request, final=final))
    assert message.error_message == "boom"
    inner = message.infer_response
    assert (inner.model_name, inner.model_version, inner.id) == ("simple", "2", "7")
    assert inner.parameters["triton_final_response"].bool_param is final
    assert not inner.outputs


def test_a_cancellation_is_never_taken_for_success() -> None:
    assert streamed(encode_stream_error(cancelled(), "7")).error_message == "Cancelled"


def test_the_empty_final_response() -> None:
    """Case 41: described as in the request, even where that left the version open."""
    message = streamed(encode_empty_final(InferRequest("rep", "", "7")))
    inner = message.infer_response
    assert message.error_message == ""
    assert (inner.model_name, inner.model_version, inner.id) == ("rep", "", "7")
    assert inner.parameters["triton_final_response"].bool_param is True
    assert (list(inner.outputs), list(inner.raw_output_contents)) == ([], [])


# ---- against protobuf --------------------------------------------------------------------------

TEXT = st.text(max_size=6)
SIZES = st.sampled_from([0, 1, 127, 128, 4095, 4096, 20_000])
VALUES: st.SearchStrategy[ParameterValue] = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), TEXT
)


@st.composite
def responses(draw: st.DrawFn) -> InferResponse:
    outputs = [
        Tensor(
            draw(TEXT),
            draw(st.sampled_from(["FP32", "BYTES", ""])),
            tuple(draw(st.lists(st.integers(0, 2**62), max_size=3))),
            raw=draw(st.binary(min_size=1, max_size=1)) * draw(SIZES),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    parameters = draw(st.dictionaries(TEXT, VALUES, max_size=3))
    return InferResponse(draw(TEXT), draw(TEXT), draw(TEXT), outputs, parameters)


def reference(response: InferResponse) -> ModelInferResponse:
    message = ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for name, value in response.parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", float: "double_param"}
        setattr(message.parameters[name], kinds.get(type(value), "string_param"), value)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(bytes(tensor.raw))
    return message


@settings(max_examples=200)
@given(responses(), st.booleans())
def test_protobuf_would_have_written_the_same(response: InferResponse, final: bool) -> None:
    data = joined(encode_infer_response(response, EVERYTHING))
    expected = reference(response)
    if len(response.parameters) < 2:  # the order of a map's entries is anyone's choice
        assert data == expected.SerializeToString()
    # NaN is not equal to itself, so messages are compared as text.
    assert str(unary([data])) == str(expected)

    expected.parameters["triton_final_response"].bool_param = final
    message = streamed(encode_stream_response(response, EVERYTHING, final=final))
    assert str(message) == str(ModelStreamInferResponse(infer_response=expected))
