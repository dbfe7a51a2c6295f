"""The generate extension: flat JSON in, flat JSON or server-sent events out.

Owns how a flat object becomes tensors and parameters, given what inputs the model has, and how the
responses of one request become one reply or a stream of events. Sans-IO: it makes bytes and waits
for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from protocol.datatypes import ELEMENT_SIZE
from protocol.http1_error import Headers
from protocol.http1_response import JSON_HEADERS, error_body
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.json_text import (
    JsonPairs,
    JsonValue,
    as_string,
    dumps,
    parse,
    reject_oversized_numbers,
    to_bytes,
)
from protocol.status import ServerError, internal, invalid_arg, request_prefix
from protocol.v2_json_memory import check_json_size
from protocol.v2_json_parameters import custom_parameter
from protocol.v2_json_tensors import decode_data, elements_of

EVENT_STREAM_HEADERS: Final[Headers] = (("Content-Type", "text/event-stream; charset=utf-8"),)

NOT_EXACTLY_ONE: Final = (
    "generate expects model to produce exactly 1 response, use generate stream for model that "
    "generates various number of responses"
)

# The family in which an LLM backend reports its cache, and the label that tells its samples apart.
ORCA_FAMILY: Final = "nv_trt_llm_kv_cache_block_metrics"
ORCA_LABEL: Final = "kv_cache_block_type"
ORCA_REQUEST_HEADER: Final = "endpoint-load-metrics-format"

_NESTED: Final = "parameters"
_UNLIMITED: Final = 2**63


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the model says of one input: `shape` as in its metadata, -1 where any size will do."""

    datatype: str
    shape: tuple[int, ...]


def check_content_encoding(content_encoding: str | None) -> None:
    """Raise INVALID_ARG for a compressed body, which this extension does not take."""
    if content_encoding and content_encoding != "identity":
        raise invalid_arg("Unsupported content-encoding, only 'identity' is supported.")


def decode_generate_request(
    model_name: str,
    model_version: str,
    body: bytes | memoryview,
    inputs: Mapping[str, InputSpec],
    *,
    max_input_size: int,
) -> InferRequest:
    """The request in a flat JSON object. Raises ServerError.

    A key that names one of `inputs` is a tensor, the members of `parameters` are treated likewise,
    and any other key is a parameter for the model; `id` is the request's id as well.
    """
    check_json_size(len(body), max_input_size)
    root = parse(body, pairs=True)
    if not isinstance(root, JsonPairs):
        raise internal("attempt to get members for non-object")
    request = InferRequest(model_name, model_version)
    for name, value in root:
        if name == "id":
            request.id = as_string(value, "id")
            break
    conversion = _Conversion(request, body, inputs, max_input_size)
    for name, value in root:
        if name == _NESTED:
            conversion.take_nested(value)
        else:
            conversion.take(name, value)
    return request


class _Conversion:
    """One request being filled from its members."""

    def __init__(
        self,
        request: InferRequest,
        body: bytes | memoryview,
        inputs: Mapping[str, InputSpec],
        max_input_size: int,
    ) -> None:
        self._request = request
        self._inputs = inputs
        self._max_input_size = max_input_size
        self._reject_oversized = partial(reject_oversized_numbers, body)
        self._byte_size = 0
        self._names: set[str] = set()

    def take_nested(self, value: JsonValue) -> None:
        if _NESTED in self._inputs:
            raise invalid_arg(
                f"Keyword '{_NESTED}' for nested schema also given as input tensor name"
            )
        if not isinstance(value, JsonPairs):
            raise internal(
                f"Expected JSON object for keyword: '{_NESTED}': "
                "attempt to access JSON non-object as object"
            )
        try:
            for name, inner in value:
                self.take(name, inner)
        except ServerError as error:
            raise ServerError(
                error.status, f"Converting keyword: '{_NESTED}': {error.message}"
            ) from None

    def take(self, name: str, value: JsonValue) -> None:
        spec = self._inputs.get(name)
        if spec is not None:
            self._take_input(name, spec, value)
            return
        parameter = custom_parameter(name, value)
        if isinstance(parameter, float) and math.isinf(parameter):
            self._reject_oversized()
        self._request.parameters[name] = parameter

    def _take_input(self, name: str, spec: InputSpec, value: JsonValue) -> None:
        if name in self._names:
            raise invalid_arg(
                f"{request_prefix(self._request.id)}input '{name}' already exists in request"
            )
        self._names.add(name)
        is_array = isinstance(value, list) and not isinstance(value, JsonPairs)
        data: list[JsonValue] = value if is_array else [value]  # type: ignore[assignment]  # told by is_array
        count = len(data)
        shape = _shape(name, spec, count)
        self._check_size(name, count * ELEMENT_SIZE.get(spec.datatype, 0))
        raw = decode_data(
            name,
            spec.datatype,
            count,
            data,
            max_byte_size=_UNLIMITED,  # the limit here is on all inputs together
            reject_oversized=self._reject_oversized,
        )
        self._check_size(name, len(raw))
        self._byte_size += len(raw)
        self._request.inputs.append(Tensor(name, spec.datatype, shape, raw=raw))

    def _check_size(self, name: str, byte_size: int) -> None:
        total = self._byte_size + byte_size
        if total > self._max_input_size:
            raise invalid_arg(
                f"request size of {total} bytes with input '{name}' of size {byte_size} bytes "
                f"exceeds the maximum allowed input size of {self._max_input_size}. "
                "Use --http-max-input-size to increase the limit."
            )


def _shape(name: str, spec: InputSpec, count: int) -> tuple[int, ...]:
    """The metadata's shape with `count` elements: what is left goes to the innermost -1."""
    left = count
    for dim in spec.shape:
        if dim == -1:
            continue
        if dim <= 0 or left % dim:
            raise _no_shape(name)
        left //= dim
    shape = list(spec.shape)
    for index in range(len(shape) - 1, -1, -1):
        if shape[index] == -1:
            shape[index], left = left, 1
    if left != 1:
        raise _no_shape(name)
    return tuple(shape)


def _no_shape(name: str) -> ServerError:
    return invalid_arg(f"The schema can not convert input '{name}' to tensor with proper shape")


def encode_generate_response(response: InferResponse) -> bytes:
    """One flat object: identity, parameters, and every output, a single element unwrapped.

    Raises INVALID_ARG for an output that has no JSON form.
    """
    members: dict[str, object] = {"id": response.id} if response.id else {}
    members["model_name"] = response.model_name
    members["model_version"] = response.model_version
    members.update(response.parameters)
    for tensor in response.outputs:
        elements = elements_of(tensor)
        members[tensor.name] = elements[0] if len(elements) == 1 else elements
    return to_bytes(dumps(members))


Outcome = InferResponse | ServerError


class GenerateReply:
    """Collects the responses of a `generate` request: there must be exactly one."""

    def __init__(self) -> None:
        self._first: tuple[int, bytes] | None = None
        self._count = 0

    def add(self, outcome: Outcome) -> None:
        """One response, or the error that took its place."""
        self._count += 1
        if self._first is None:
            self._first = _render(outcome)

    def finish(self) -> tuple[int, Headers, bytes]:
        """(status, headers, body), once the final response has come.

        A wrong number of responses keeps the status that the first one had.
        """
        if self._count == 1 and self._first is not None:
            status, body = self._first
            return status, JSON_HEADERS, body
        status = self._first[0] if self._first is not None else 200
        return status, JSON_HEADERS, error_body(NOT_EXACTLY_ONE)


def encode_event(outcome: Outcome) -> tuple[int, bytes]:
    """(HTTP status if this is the first, server-sent event) of one streamed response."""
    status, body = _render(outcome)
    return status, b"data: " + body + b"\n\n"


def _render(outcome: Outcome) -> tuple[int, bytes]:
    try:
        if not isinstance(outcome, ServerError):
            return 200, encode_generate_response(outcome)
        error = outcome
    except ServerError as cannot_be_json:
        error = cannot_be_json
    return error.http_status, error_body(error.message)


def orca_headers(wanted: str | None, blocks: Mapping[str, float]) -> Headers:
    """The load report that the client asked for in `endpoint-load-metrics-format`, if there is one.

    `blocks` are the samples of ORCA_FAMILY by the value of ORCA_LABEL. An unknown format or a
    missing sample gives no header.
    """
    if wanted not in ("text", "json") or not {"tokens_per", "used", "max"} <= blocks.keys():
        return ()
    if not all(map(math.isfinite, blocks.values())):
        return ()
    most = blocks["max"]
    utilization = blocks["used"] / most if most else 0.0
    capacity = int(most * blocks["tokens_per"])
    if wanted == "text":
        value = (
            f"TEXT named_metrics.kv_cache_utilization={utilization:.6f}, "
            f"named_metrics.max_token_capacity={capacity}"
        )
    else:
        named = {"kv_cache_utilization": utilization, "max_token_capacity": capacity}
        value = f"JSON {dumps({'named_metrics': named})}"
    return (("endpoint-load-metrics", value),)
