"""A serialized ModelInferRequest turned into an InferRequest and the plan of its response.

Owns the order in which a request's parts are judged and the memory of descriptions seen before.
It checks what the message itself must satisfy; what the model expects is admission's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from protocol.inference import (
    DeviceBytes,
    InferRequest,
    ResponsePlan,
    SharedMemoryRef,
    SharedMemoryRegions,
    Tensor,
    tensor_over,
)
from protocol.proto.messages import ModelInferRequest
from protocol.status import ServerError, internal, invalid_arg, not_found
from protocol.v2_grpc_contents import raw_contents
from protocol.v2_grpc_parameters import (
    RequestParameters,
    output_plan,
    request_parameters,
    shared_memory_of,
)
from protocol.v2_grpc_wire import Buffer, split_request

# A client repeats one description of its inputs and outputs in every request; a description is
# some hundred bytes, of which a thousand cost less than one large tensor. Longer ones are rare
# and cheap beside the tensors they describe.
_MEMORY_ENTRIES: Final = 1024
_MEMORY_DESCRIPTION_BYTES: Final = 2048

_VERSION: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


class DecodedRequest:
    """One request off the wire: what to run, and how to render what comes of it."""

    __slots__ = ("empty_final", "plan", "request")

    def __init__(self, request: InferRequest, plan: ResponsePlan, empty_final: bool) -> None:
        self.request = request
        self.plan = plan
        # Streams only: whether a decoupled request wants a last message that has no outputs.
        self.empty_final = empty_final


class RejectedRequest(ServerError):
    """A request that was understood well enough to be answered by name.

    An error on a stream must carry `id`. A model that does not exist, or cannot be called this
    way, outranks every error but that of the version string: look `model_name` up before answering
    unless `precedes_lookup`.
    """

    __slots__ = ("id", "model_name", "model_version", "precedes_lookup")

    def __init__(
        self,
        error: ServerError,
        *,
        model_name: str,
        model_version: str,
        request_id: str,
        precedes_lookup: bool = False,
    ) -> None:
        super().__init__(error.status, error.message)
        self.model_name = model_name
        self.model_version = model_version
        self.id = request_id
        self.precedes_lookup = precedes_lookup


class _Input:
    """One input as described: its bytes are `contents`, or in `shared_memory`, or come raw."""

    __slots__ = ("contents", "datatype", "name", "shape", "shared_memory")

    def __init__(
        self,
        name: str,
        datatype: str,
        shape: tuple[int, ...],
        contents: bytes | None,
        shared_memory: SharedMemoryRef | None,
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.contents = contents
        self.shared_memory = shared_memory

    @property
    def is_raw(self) -> bool:
        return self.contents is None and self.shared_memory is None


class _Description:
    """What a ModelInferRequest says besides its id and its raw tensors; never written to."""

    __slots__ = (
        "inputs", "model_name", "model_version", "parameters", "plan", "raw_count",
        "requested_outputs",
    )  # fmt: skip

    def __init__(
        self,
        message: ModelInferRequest,
        parameters: RequestParameters,
        inputs: tuple[_Input, ...],
        plan: ResponsePlan,
    ) -> None:
        self.model_name = message.model_name
        self.model_version = _version(message.model_version)
        self.parameters = parameters
        self.inputs = inputs
        self.raw_count = sum(each.is_raw for each in inputs)
        self.plan = plan
        self.requested_outputs = tuple(output.name for output in plan.outputs)

    @property
    def worth_remembering(self) -> bool:
        """Whether a later request may well be described by the very same bytes."""
        return self.parameters.correlation_id in {0, ""} and all(
            each.contents is None for each in self.inputs
        )


_memory: dict[bytes, _Description] = {}


def decode_infer_request(
    data: bytes | bytearray | memoryview, regions: SharedMemoryRegions | None = None
) -> DecodedRequest:
    """Decode one ModelInferRequest of either RPC.

    Large tensors are views of `data`, which must not change afterwards, and may be unaligned in
    it (`Tensor.array` sees to that). `regions` resolves
    references to shared memory; without it every region is unknown. Raises ServerError: INTERNAL
    for bytes that are no such message, and otherwise mostly a RejectedRequest.
    """
    split = split_request(data)
    if split is None:
        message = _parse(bytes(data))
        raw: Sequence[Buffer] = message.raw_input_contents
        return _build(_describe(message, len(raw)), message.id, raw, regions)
    encoded, id_bytes, raw = split
    try:
        request_id = id_bytes.decode()
    except UnicodeDecodeError:
        raise _malformed() from None
    description = _memory.get(encoded)
    if description is None or description.raw_count != len(raw):
        message = _parse(encoded)
        message.id = request_id
        description = _describe(message, len(raw))
        if len(encoded) <= _MEMORY_DESCRIPTION_BYTES and description.worth_remembering:
            if len(_memory) >= _MEMORY_ENTRIES:
                _memory.clear()
            _memory[encoded] = description
    return _build(description, request_id, raw, regions)


def _build(
    description: _Description,
    request_id: str,
    raw: Sequence[Buffer],
    regions: SharedMemoryRegions | None,
) -> DecodedRequest:
    """Join a description with the tensors it describes. Raises RejectedRequest."""
    parameters = description.parameters
    if description.raw_count == len(description.inputs):
        tensors = [
            Tensor(each.name, each.datatype, each.shape, raw=data)
            for each, data in zip(description.inputs, raw, strict=True)
        ]
    else:
        tensors = _tensors_from_anywhere(description, request_id, raw, regions)
    request = InferRequest(
        description.model_name,
        description.model_version,
        request_id,
        tensors,
        description.requested_outputs,
        dict(parameters.custom),
        parameters.correlation_id,
        parameters.sequence_flags,
        parameters.priority,
        parameters.timeout_us,
    )
    return DecodedRequest(request, description.plan, parameters.empty_final)


def _tensors_from_anywhere(
    description: _Description,
    request_id: str,
    raw: Sequence[Buffer],
    regions: SharedMemoryRegions | None,
) -> list[Tensor]:
    remaining = iter(raw)
    tensors: list[Tensor] = []
    for each in description.inputs:
        if each.contents is not None:
            data: Buffer | DeviceBytes = each.contents
        elif each.shared_memory is not None:
            try:
                data = _read(each.shared_memory, regions)
            except ServerError as error:
                raise RejectedRequest(
                    error,
                    model_name=description.model_name,
                    model_version=description.model_version,
                    request_id=request_id,
                ) from None
        else:
            data = next(remaining)
        tensors.append(tensor_over(each.name, each.datatype, each.shape, data))
    return tensors


def _read(ref: SharedMemoryRef, regions: SharedMemoryRegions | None) -> memoryview | DeviceBytes:
    if regions is None:
        raise not_found(f"Unable to find shared memory region: '{ref.region}'")
    return regions.read(ref)


def _parse(data: bytes) -> ModelInferRequest:
    try:
        return ModelInferRequest.FromString(data)
    except DecodeError:
        raise _malformed() from None


def _malformed() -> ServerError:
    return internal("Exception deserializing request!")


def _version(version: str) -> str:
    """The version asked for, without leading zeros. Raises INVALID_ARG unless it is a number."""
    if not version:
        return ""
    if not _VERSION.fullmatch(version) or not -(2**63) <= int(version) < 2**63:
        raise invalid_arg(
            f"failed to get model version from specified version string '{version}' "
            "(details: stol), version should be an integral value > 0"
        )
    if int(version) < 0:
        raise invalid_arg(
            f"invalid model version specified '{version}' , version should be an integral value > 0"
        )
    return str(int(version))


def _describe(message: ModelInferRequest, raw_count: int) -> _Description:
    """Judge a parsed message in Triton's order. Raises RejectedRequest."""
    precedes_lookup = True
    try:
        _version(message.model_version)
        precedes_lookup = False
        parameters = request_parameters(message.parameters)
        inputs = _inputs(message, raw_count)
        plan = ResponsePlan(
            tuple(output_plan(output.name, output.parameters) for output in message.outputs)
        )
        return _Description(message, parameters, inputs, plan)
    except ServerError as error:
        raise RejectedRequest(
            error,
            model_name=message.model_name,
            model_version=message.model_version,
            request_id=message.id,
            precedes_lookup=precedes_lookup,
        ) from None


def _inputs(message: ModelInferRequest, raw_count: int) -> tuple[_Input, ...]:
    """Find where the bytes of each input are. Raises INVALID_ARG."""
    model_name = message.model_name
    inputs: list[_Input] = []
    raw_used = 0
    for each in message.inputs:
        name, datatype = each.name, each.datatype
        shared_memory = shared_memory_of(each.parameters, name) if each.parameters else None
        contents: bytes | None = None
        if shared_memory is not None:
            if each.HasField("contents"):
                raise invalid_arg(
                    "unexpected 'content' provided when using shared memory for input tensor "
                    f"'{name}' for model '{model_name}'"
                )
        elif each.HasField("contents"):
            if raw_count:
                raise invalid_arg(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{name}' for model '{model_name}'"
                )
            contents = raw_contents(each.contents, name, datatype, model_name)
        elif raw_used == raw_count:
            raise invalid_arg(
                f"unable to find data for input tensor '{name}' for model '{model_name}' "
                "in request."
            )
        else:
            raw_used += 1
        inputs.append(_Input(name, datatype, tuple(each.shape), contents, shared_memory))
    if raw_used != raw_count:
        raise invalid_arg(
            f"unexpected additional raw_input_contents for model '{model_name}': "
            f"expected {raw_used} entries but got {raw_count}"
        )
    return tuple(inputs)
