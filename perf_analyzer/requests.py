"""Requests as bytes, encoded once per input and patched per call.

Owns what a request of either protocol looks like: tensors, requested outputs, shared-memory
references, parameters. Only the request id and the place in a sequence differ from call to call;
everything else of a payload is made when it is first used and never again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from perf_analyzer.calls import Buffer, Call
from perf_analyzer.inputs import DataSet, Step, batch_of
from perf_analyzer.model import ModelInfo, SetupError
from protocol.datatypes import BYTES, decode_bytes, numpy_dtype
from protocol.grpc_compression import compress
from protocol.inference import InferRequest, ParameterValue, SequenceFlag, Tensor
from protocol.proto.messages import ModelInferRequest
from protocol.v2_grpc_wire import length_delimited, varint

# Bodies up to this size are joined to their head: a copy is cheaper than a second buffer.
JOIN_BYTES: Final = 1 << 16
EMPTY_FINAL: Final = "triton_enable_empty_final_response"


@dataclass(frozen=True, slots=True)
class Region:
    """A span of registered shared memory."""

    name: str
    byte_size: int


@dataclass(frozen=True)
class RequestPlan:
    """What every request of a run has in common."""

    model: ModelInfo
    data: DataSet
    batch_size: int = 1
    binary_inputs: bool = True
    binary_outputs: bool = True
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    input_regions: Mapping[tuple[str, int, int], Region] = field(default_factory=dict)
    output_regions: Mapping[str, Region] = field(default_factory=dict)
    wants_empty_final: bool = False
    compression: str = "identity"


class Payload:
    """The encoded request of one place in the data."""

    __slots__ = ("body", "first", "head", "rows", "static", "stream")

    def __init__(self, stream: int, first: int, rows: list[Step]) -> None:
        self.stream = stream
        self.first = first
        self.rows = rows
        self.static: Buffer = b""  # the whole request, when nothing is patched
        self.head = b""  # otherwise: what is patched,
        self.body = b""  # and what follows it

    def expected(self, name: str) -> bytes | None:
        """The bytes that output `name` must have, None when that is not known."""
        parts = [row.expected[name].raw for row in self.rows if name in row.expected]
        return b"".join(parts) if parts else None


class Payloads:
    """Payloads by their place in the data, made by `encode` when first asked for."""

    def __init__(self, plan: RequestPlan, encoder: Encoder) -> None:
        self.plan = plan
        self._encoder = encoder
        self._made: dict[tuple[int, int], Payload] = {}

    def at(self, stream: int, first: int) -> Payload:
        """The payload whose first row is step `first` of `stream`. Raises BadInput."""
        payload = self._made.get((stream, first))
        if payload is None:
            rows = batch_of(self.plan.data, stream, first, self.plan.batch_size)
            payload = Payload(stream, first, rows)
            self._encoder.encode(payload)
            self._made[stream, first] = payload
        return payload


# (name, datatype, shape with batch dimension, bytes, region they are in)
EncodedTensor = tuple[str, str, tuple[int, ...], Buffer, Region | None]


class Encoder:
    """Base of the two protocols: the tensors of a payload, wherever their bytes are."""

    def __init__(self, plan: RequestPlan) -> None:
        self.plan = plan

    def encode(self, payload: Payload) -> None:
        raise NotImplementedError

    def tensors(self, payload: Payload) -> list[EncodedTensor]:
        """Every input that the payload has, batched."""
        plan = self.plan
        found: list[EncodedTensor] = []
        for spec in plan.model.inputs:
            tensor = payload.rows[0].inputs.get(spec.name)
            if tensor is None:
                continue
            batched = plan.model.max_batch_size > 0
            shape = (plan.batch_size, *tensor.shape) if batched else tensor.shape
            raw = b"".join(row.inputs[spec.name].raw for row in payload.rows)
            region = plan.input_regions.get((spec.name, payload.stream, payload.first))
            found.append((spec.name, spec.datatype, shape, raw, region))
        return found


class HttpEncoder(Encoder):
    """KServe v2 REST requests with binary tensors, or JSON ones where asked for."""

    def __init__(
        self, plan: RequestPlan, *, authority: str, headers: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(plan)
        model = plan.model
        version = f"/versions/{model.version}" if model.version else ""
        lines = [
            f"POST /v2/models/{model.name}{version}/infer HTTP/1.1",
            f"Host: {authority}",
            "User-Agent: troupe-perf",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self._head = "\r\n".join(lines).encode("latin-1") + b"\r\n"

    def encode(self, payload: Payload) -> None:
        inputs = []
        binary = []
        for name, datatype, shape, raw, region in self.tensors(payload):
            described: dict[str, object] = {
                "name": name,
                "shape": list(shape),
                "datatype": datatype,
            }
            if region is not None:
                described["parameters"] = {
                    "shared_memory_region": region.name,
                    "shared_memory_byte_size": region.byte_size,
                }
            elif self.plan.binary_inputs:
                described["parameters"] = {"binary_data_size": len(raw)}
                binary.append(raw)
            else:
                described["data"] = json_values(datatype, shape, raw)
            inputs.append(described)
        outputs = [self._output(spec.name) for spec in self.plan.model.outputs]
        body = {"inputs": inputs, "outputs": outputs}
        text = json.dumps(body, separators=(",", ":")).encode("utf-8", "surrogateescape")
        payload.head = text[1:]
        payload.body = b"".join(binary)
        payload.static = b"".join(self.pieces_with(b"{", payload))

    def _output(self, name: str) -> dict[str, object]:
        region = self.plan.output_regions.get(name)
        if region is None:
            return {"name": name, "parameters": {"binary_data": self.plan.binary_outputs}}
        return {
            "name": name,
            "parameters": {
                "shared_memory_region": region.name,
                "shared_memory_byte_size": region.byte_size,
            },
        }

    def pieces_with(self, patch: bytes, payload: Payload) -> tuple[Buffer, ...]:
        json_bytes = len(patch) + len(payload.head)
        if not payload.body:  # nothing but JSON: any KServe v2 server understands it
            head = b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b%b"
            return (head % (self._head, json_bytes, patch, payload.head),)
        head = (
            b"%bContent-Type: application/octet-stream\r\n"
            b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b%b"
        ) % (self._head, json_bytes, json_bytes + len(payload.body), patch, payload.head)
        if len(payload.body) <= JOIN_BYTES:
            return (head + payload.body,)
        return head, payload.body

    def pieces(self, call: Call) -> tuple[Buffer, ...]:
        """The request of `call`, ready to send."""
        payload = call.payload
        assert payload is not None
        if not call.sequence_id and not call.request_id:
            return (payload.static,)
        patch = b"{"
        if call.request_id:
            patch += b'"id":"%b",' % call.request_id.encode()
        if call.sequence_id:
            patch += b'"parameters":{"sequence_id":%d,"sequence_start":%b,"sequence_end":%b},' % (
                call.sequence_id,
                b"true" if call.starts_sequence else b"false",
                b"true" if call.ends_sequence else b"false",
            )
        return self.pieces_with(patch, payload)


def json_values(datatype: str, shape: tuple[int, ...], raw: Buffer) -> list[object]:
    """A tensor's elements as JSON has them, flat. Raises SetupError for FP16 and BF16."""
    if datatype in {"FP16", "BF16"}:
        raise SetupError(f"data type {datatype} cannot be sent as JSON, use the binary format")
    if datatype == BYTES:
        strings: list[bytes] = decode_bytes(bytes(raw), shape).ravel().tolist()
        return [each.decode("utf-8", "surrogateescape") for each in strings]
    values: list[object] = np.frombuffer(raw, dtype=numpy_dtype(datatype)).tolist()
    return values


def _parameter(key: str, value: ParameterValue) -> bytes:
    """One entry of a request's parameter map."""
    if isinstance(value, bool):
        choice = b"\x08" + (b"\x01" if value else b"\x00")
    elif isinstance(value, int):
        choice = b"\x10" + varint(value)
    elif isinstance(value, str):
        choice = length_delimited(3, value.encode())
    else:
        raise TypeError(f"{key}: no such parameter here")
    return length_delimited(4, length_delimited(1, key.encode()) + length_delimited(2, choice))


_START: Final = {flag: _parameter("sequence_start", flag) for flag in (False, True)}
_END: Final = {flag: _parameter("sequence_end", flag) for flag in (False, True)}


class GrpcEncoder(Encoder):
    """ModelInferRequest messages with raw contents."""

    def __init__(self, plan: RequestPlan) -> None:
        super().__init__(plan)
        self._compresses = plan.compression != "identity"

    def encode(self, payload: Payload) -> None:
        plan = self.plan
        message = ModelInferRequest(model_name=plan.model.name, model_version=plan.model.version)
        for name, value in plan.parameters.items():
            if isinstance(value, bool):
                message.parameters[name].bool_param = value
            elif isinstance(value, int):
                message.parameters[name].int64_param = value
            else:
                message.parameters[name].string_param = str(value)
        if plan.wants_empty_final:
            message.parameters[EMPTY_FINAL].bool_param = True
        for name, datatype, shape, raw, region in self.tensors(payload):
            tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
            if region is None:
                message.raw_input_contents.append(bytes(raw))
            else:
                tensor.parameters["shared_memory_region"].string_param = region.name
                tensor.parameters["shared_memory_byte_size"].int64_param = region.byte_size
        for spec in plan.model.outputs:
            output = message.outputs.add(name=spec.name)
            region = plan.output_regions.get(spec.name)
            if region is not None:
                output.parameters["shared_memory_region"].string_param = region.name
                output.parameters["shared_memory_byte_size"].int64_param = region.byte_size
        payload.body = message.SerializeToString()
        payload.static = self._finished(payload.body)

    def _finished(self, message: bytes) -> bytes:
        return compress([message], self.plan.compression) if self._compresses else message

    def message(self, call: Call) -> Buffer:
        """The request of `call`, ready to be framed. Fields of a message may come in any order,
        so what is patched is appended."""
        payload = call.payload
        assert payload is not None
        if not call.sequence_id and not call.request_id:
            return payload.static
        message = payload.body
        if call.request_id:
            message += length_delimited(3, call.request_id.encode())
        if call.sequence_id:
            message += (
                _parameter("sequence_id", call.sequence_id)
                + _START[call.starts_sequence]
                + _END[call.ends_sequence]
            )
        return self._finished(message)


class LocalEncoder(Encoder):
    """Requests for a server in this process: no bytes at all."""

    def encode(self, payload: Payload) -> None:
        """Nothing is encoded; `request` builds what the server takes."""

    def request(self, call: Call) -> InferRequest:
        payload = call.payload
        assert payload is not None
        flags = SequenceFlag.NONE
        if call.starts_sequence:
            flags |= SequenceFlag.START
        if call.ends_sequence:
            flags |= SequenceFlag.END
        return InferRequest(
            self.plan.model.name,
            self.plan.model.version,
            id=call.request_id,
            inputs=[
                Tensor(name, datatype, shape, raw=bytes(raw))
                for name, datatype, shape, raw, _ in self.tensors(payload)
            ],
            requested_outputs=tuple(spec.name for spec in self.plan.model.outputs),
            parameters=dict(self.plan.parameters),
            correlation_id=call.sequence_id,
            sequence_flags=flags if call.sequence_id else SequenceFlag.NONE,
        )
