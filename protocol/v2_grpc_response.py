"""InferResponses, errors and final markers turned into serialized gRPC messages.

Owns the layout of ModelInferResponse and ModelStreamInferResponse on the wire. It writes them by
hand: what a model's responses have in common is remembered, and large tensors are never copied.
A differential test holds it to what protobuf would write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.classification import classify
from protocol.inference import (
    InferRequest,
    InferResponse,
    OutputPlan,
    ParameterValue,
    ResponsePlan,
    SharedMemoryRegions,
    Tensor,
)
from protocol.status import ServerError, internal, invalid_arg, not_found
from protocol.v2_grpc_wire import Buffer, length_delimited, text_field, varint

MAX_MESSAGE_BYTES: Final = 2**31 - 1
"""gRPC's own limit on a message, and what Triton's clients set."""

Labels = Mapping[str, Sequence[str]]
"""Output name → the labels of its elements, for classification."""

_NO_LABELS: Final[Labels] = {}

# A model has one or two shapes per output in practice; a shape that varies costs a miss, which is
# what every response would cost otherwise.
_MEMORY_ENTRIES: Final = 4096

# From this size a tensor is worth a segment of its own; smaller ones are joined with the rest.
_SEGMENT_BYTES: Final = 4096

_DOUBLE: Final = struct.Struct("<d")
_RAW_OUTPUT: Final = b"\x32"  # field 6, length-delimited
_INFER_RESPONSE: Final = b"\x12"  # field 2 of ModelStreamInferResponse, length-delimited


def _parameter(name: str, value: ParameterValue) -> bytes:
    """One entry of a map<string, InferParameter>, as field 4. Raises INTERNAL beyond 64 bits."""
    match value:
        case bool():
            choice = b"\x08" + varint(value)
        case int() if -(2**63) <= value < 2**63:
            choice = b"\x10" + varint(value)
        case int() if 0 <= value < 2**64:
            choice = b"\x28" + varint(value)
        case int():
            raise internal(f"response parameter '{name}' does not fit into 64 bits")
        case str():
            choice = length_delimited(3, value.encode("utf-8", "replace"))
        case _:
            choice = b"\x21" + _DOUBLE.pack(value)
    key = length_delimited(1, name.encode("utf-8", "replace"))
    return length_delimited(4, key + length_delimited(2, choice))


_FINAL: Final = {final: _parameter("triton_final_response", final) for final in (True, False)}


def _head(model_name: str, model_version: str) -> bytes:
    return text_field(1, model_name) + text_field(2, model_version)


def _output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """One InferOutputTensor, as field 5."""
    described = text_field(1, name) + text_field(2, datatype)
    if shape:
        described += length_delimited(3, b"".join(varint(dim) for dim in shape))
    return length_delimited(5, described)


_heads: dict[tuple[str, str], bytes] = {}
_outputs: dict[tuple[str, str, tuple[int, ...]], bytes] = {}


def _remembered_head(model_name: str, model_version: str) -> bytes:
    key = (model_name, model_version)
    encoded = _heads.get(key)
    if encoded is None:
        if len(_heads) >= _MEMORY_ENTRIES:
            _heads.clear()
        encoded = _heads[key] = _head(model_name, model_version)
    return encoded


def _remembered_output(tensor: Tensor) -> bytes:
    key = (tensor.name, tensor.datatype, tensor.shape)
    encoded = _outputs.get(key)
    if encoded is None:
        if len(_outputs) >= _MEMORY_ENTRIES:
            _outputs.clear()
        encoded = _outputs[key] = _output(*key)
    return encoded


def _rendered(
    outputs: Sequence[Tensor],
    plan: ResponsePlan,
    regions: SharedMemoryRegions | None,
    labels: Labels,
    has_batch_dim: bool,
) -> list[tuple[Tensor, Buffer]]:
    """The outputs that were asked for, in the model's order, each with its bytes for the wire."""
    if not plan.outputs:
        return [(tensor, tensor.raw) for tensor in outputs]
    wanted = {output.name: output for output in plan.outputs}
    rendered: list[tuple[Tensor, Buffer]] = []
    for tensor in outputs:
        output = wanted.get(tensor.name)
        if output is None:
            continue
        if output.classification:
            top = labels.get(tensor.name)
            tensor = classify(tensor, output.classification, top, has_batch_dim)  # noqa: PLW2901
        if output.shared_memory is None:
            rendered.append((tensor, tensor.raw))
        else:
            _write(tensor, output, regions)
            rendered.append((tensor, b""))
    return rendered


def _write(tensor: Tensor, output: OutputPlan, regions: SharedMemoryRegions | None) -> None:
    assert output.shared_memory is not None, "only outputs in shared memory are written"
    if regions is None:
        region = output.shared_memory.region
        raise not_found(f"Unable to find shared memory region: '{region}'")
    regions.write(tensor.name, output.shared_memory, tensor)


def encode_infer_response(
    response: InferResponse,
    plan: ResponsePlan,
    regions: SharedMemoryRegions | None = None,
    *,
    labels: Labels = _NO_LABELS,
    has_batch_dim: bool = False,
) -> list[Buffer]:
    """Serialize a ModelInferResponse as buffers to be sent one after another.

    Only what `plan` asks for is sent, in the order in which the model produced it. Tensors of some
    size are passed on uncopied, so they must not change until they are sent. `labels` and
    `has_batch_dim` (whether the model batches) serve classification. Raises ServerError:
    INVALID_ARG when gRPC cannot carry the response, and what classification and shared memory
    raise.
    """
    rendered = _rendered(response.outputs, plan, regions, labels, has_batch_dim)
    return _within_limit(_infer_response(response, rendered, b""))


def encode_stream_response(
    response: InferResponse,
    plan: ResponsePlan,
    regions: SharedMemoryRegions | None = None,
    *,
    final: bool,
    labels: Labels = _NO_LABELS,
    has_batch_dim: bool = False,
) -> list[Buffer]:
    """Serialize a ModelStreamInferResponse; `final` says whether its request has no other.

    Otherwise like `encode_infer_response`.
    """
    rendered = _rendered(response.outputs, plan, regions, labels, has_batch_dim)
    buffers = _infer_response(response, rendered, _FINAL[final])
    prefix = _INFER_RESPONSE + varint(sum(map(len, buffers)))
    return _within_limit([prefix + buffers[0], *buffers[1:]])


def encode_stream_error(
    error: ServerError,
    request_id: str,
    *,
    failed: InferRequest | None = None,
    final: bool = True,
) -> list[Buffer]:
    """Serialize an error that leaves its stream open.

    A request refused before it was enqueued is named by its id alone. One that `failed` later is
    described, and the message says whether it is its `final` one.
    """
    inner = text_field(3, request_id)
    if failed is not None:
        head = _head(failed.model_name, failed.model_version)
        inner = head + inner + _FINAL[final]
    # Clients take an empty error message for success; a cancellation has no other.
    text = error.message or error.status.value
    return [text_field(1, text) + _INFER_RESPONSE + varint(len(inner)) + inner]


def encode_empty_final(request: InferRequest) -> list[Buffer]:
    """Serialize the message that only says that `request` gets no further response."""
    inner = _head(request.model_name, request.model_version)
    inner += text_field(3, request.id) + _FINAL[True]
    return [_INFER_RESPONSE + varint(len(inner)) + inner]


def _infer_response(
    response: InferResponse, rendered: list[tuple[Tensor, Buffer]], last_parameter: bytes
) -> list[Buffer]:
    parts: list[Buffer] = [_remembered_head(response.model_name, response.model_version)]
    if response.id:
        parts.append(text_field(3, response.id))
    if response.parameters:
        parts.extend(_parameter(name, value) for name, value in response.parameters.items())
    parts.append(last_parameter)
    parts.extend([_remembered_output(tensor) for tensor, _ in rendered])
    buffers: list[Buffer] = []
    for _, raw in rendered:
        size = len(raw)
        parts.append(_RAW_OUTPUT)
        parts.append(varint(size))
        if size < _SEGMENT_BYTES:
            parts.append(raw)
        else:
            buffers.append(b"".join(parts))
            buffers.append(raw)
            parts = []
    if parts:
        buffers.append(b"".join(parts))
    return buffers


def _within_limit(buffers: list[Buffer]) -> list[Buffer]:
    total = sum(map(len, buffers))
    if total > MAX_MESSAGE_BYTES:
        raise invalid_arg(
            f"Response has byte size {total} which exceeds gRPC's byte size limit "
            f"{MAX_MESSAGE_BYTES}."
        )
    return buffers
