"""A ModelInferRequest to be edited, and the two ways in which decoding it can end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protocol.inference import SharedMemoryRef, Tensor
from protocol.proto.messages import InferTensorContents, ModelInferRequest
from protocol.status import StatusCode, not_found
from protocol.v2_grpc import DecodedRequest, RejectedRequest, decode_infer_request

Edit = Callable[[ModelInferRequest], object]


class FakeRegions:
    """Shared memory with one region, `region`, of 64 bytes that count upwards."""

    def __init__(self) -> None:
        self.memory = bytearray(range(64))

    def read(self, ref: SharedMemoryRef) -> memoryview:
        if ref.region != "region":
            raise not_found(f"Unable to find shared memory region: '{ref.region}'")
        return memoryview(self.memory)[ref.offset : ref.offset + ref.byte_size]

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        raise AssertionError("a decoder never writes")


def simple() -> ModelInferRequest:
    """Two FP32 inputs of four elements, raw."""
    request = ModelInferRequest(model_name="simple", id="7")
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(np.arange(4, dtype="<f4").tobytes())
    return request


def decoded(*edits: Edit) -> DecodedRequest:
    request = simple()
    for edit in edits:
        edit(request)
    return decode_infer_request(request.SerializeToString(), FakeRegions())


def refused(*edits: Edit) -> str:
    """The text of the INVALID_ARG with which the edited request is rejected."""
    with pytest.raises(RejectedRequest) as caught:
        decoded(*edits)
    assert caught.value.status is StatusCode.INVALID_ARG
    assert (caught.value.model_name, caught.value.id) == ("simple", "7")
    return caught.value.message


def setting(name: str, kind: str, value: object) -> Edit:
    return lambda request: setattr(request.parameters[name], kind, value)


def input_setting(index: int, name: str, kind: str, value: object) -> Edit:
    return lambda request: setattr(request.inputs[index].parameters[name], kind, value)


def shared(index: int, region: str = "region", byte_size: int = 16, offset: int = 8) -> Edit:
    def edit(request: ModelInferRequest) -> None:
        parameters = request.inputs[index].parameters
        parameters["shared_memory_region"].string_param = region
        parameters["shared_memory_byte_size"].int64_param = byte_size
        parameters["shared_memory_offset"].int64_param = offset
        del request.raw_input_contents[0]

    return edit


def typed(datatype: str, **fields: object) -> Edit:
    """Make INPUT0 the only input, with typed contents."""

    def edit(request: ModelInferRequest) -> None:
        del request.inputs[1], request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        request.inputs[0].contents.CopyFrom(InferTensorContents(**fields))  # type: ignore[arg-type]  # the test names the field

    return edit
