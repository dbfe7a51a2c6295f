"""The REST body of an inference, binary tensor extension included, to `InferRequest`.

Owns the order of a request's bytes (JSON header, then binary tensors in the order of `inputs`) and
every check that needs the request alone. What needs the model's configuration (which inputs it
has, their datatypes and shapes) is admission's. Binary tensors are slices of the body: views, if
the body is one. `protocol.v2_json_response` is the way back.

Clients that send tensors in binary repeat their JSON headers to the byte; a parsed header without
tensor data in it is remembered by its bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from protocol.datatypes import ELEMENT_SIZE
from protocol.inference import (
    InferRequest,
    OutputPlan,
    ResponsePlan,
    SharedMemoryRef,
    SharedMemoryRegions,
    Tensor,
)
from protocol.json_text import (
    MAX_INT64,
    JsonValue,
    as_array,
    as_bool,
    as_string,
    as_unsigned,
    member,
    members_of,
    parse,
    reject_oversized_numbers,
)
from protocol.status import ServerError, invalid_arg, not_found, request_prefix
from protocol.v2_json_parameters import HeaderForwarding, apply_parameters
from protocol.v2_json_tensors import decode_data

DEFAULT_MAX_INPUT_SIZE: Final = 67_108_864  # --http-max-input-size

# At most 4 MiB of remembered header text, and as much again parsed.
REMEMBERED_HEADER_BYTES: Final = 4096
REMEMBERED_HEADERS: Final = 1024

_INT32_RANGE: Final = (-(2**31), 2**31 - 1)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class _Input:
    """One member of `inputs`: exactly one of the last three is set."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_data_size: int | None = None
    data: bytes | None = None
    shared_memory: SharedMemoryRef | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    """A parsed JSON header. `request` is a template: never handed out."""

    request: InferRequest
    inputs: tuple[_Input, ...]
    plan: ResponsePlan

    @property
    def may_repeat(self) -> bool:
        """Whether the same bytes are likely to come again, and cheap to keep."""
        return (
            not self.request.id
            and not self.request.correlation_id
            and all(given.data is None for given in self.inputs)
        )


class InferDecoder:
    """Decodes the bodies of infer requests; one serves a whole frontend."""

    def __init__(
        self,
        *,
        max_input_size: int = DEFAULT_MAX_INPUT_SIZE,
        forwarding: HeaderForwarding | None = None,
    ) -> None:
        self._max_input_size = max_input_size
        self._forwarding = forwarding or HeaderForwarding()
        self._remembered: dict[bytes, _Header] = {}

    def decode(
        self,
        model_name: str,
        model_version: str,
        body: bytes | memoryview,
        header_length: str | None,
        *,
        header_lines: Iterable[tuple[str, str]] = (),
        regions: SharedMemoryRegions | None = None,
    ) -> tuple[InferRequest, ResponsePlan]:
        """The request in an uncompressed `body`, and how the client wants its response rendered.

        `header_length` is the value of Inference-Header-Content-Length; "0", or an empty body,
        makes the whole body the one input of the model (`InferRequest.raw_input`). `header_lines`
        are the HTTP header lines that may be forwarded. Raises ServerError.
        """
        total = len(body)
        length = total if header_length is None else parse_header_length(header_length, total)
        if length == 0:
            request, plan = self._decode_raw(model_name, model_version, body)
        else:
            header = self._header(body if length == total else body[:length])
            inputs = _take_inputs(header.inputs, model_name, body, length, regions)
            template, plan = header.request, header.plan
            request = InferRequest(
                model_name,
                model_version,
                template.id,
                inputs,
                template.requested_outputs,
                dict(template.parameters),
                template.correlation_id,
                template.sequence_flags,
                template.priority,
                template.timeout_us,
            )
        if self._forwarding.is_on:
            self._forwarding.apply(request, header_lines)
        return request, plan

    def _decode_raw(
        self, model_name: str, model_version: str, body: bytes | memoryview
    ) -> tuple[InferRequest, ResponsePlan]:
        if len(body) > self._max_input_size:
            raise invalid_arg(
                f"Raw input has a byte_size ({len(body)} bytes) that exceeds the maximum allowed "
                f"value of {self._max_input_size} bytes. "
                "Use --http-max-input-size to increase the limit."
            )
        # Admission knows the model's one input, and gives this one its name, datatype and shape.
        tensor = Tensor("", "", (), raw=body)
        request = InferRequest(model_name, model_version, inputs=[tensor], raw_input=True)
        return request, ResponsePlan()

    def _header(self, document: bytes | memoryview) -> _Header:
        if len(document) > REMEMBERED_HEADER_BYTES:
            check_json_size(len(document), self._max_input_size)
            return _parse_header(document, self._max_input_size)
        text = bytes(document)
        header = self._remembered.get(text)
        if header is None:
            check_json_size(len(text), self._max_input_size)
            header = _parse_header(text, self._max_input_size)
            if header.may_repeat:
                if len(self._remembered) >= REMEMBERED_HEADERS:
                    self._remembered.clear()
                self._remembered[text] = header
        return header


def check_json_size(byte_size: int, limit: int) -> None:
    """Raise INVALID_ARG for a JSON document larger than --http-max-input-size."""
    if byte_size > limit:
        raise invalid_arg(
            f"request JSON size of {byte_size} bytes exceeds the maximum allowed input size of "
            f"{limit} bytes. Use --http-max-input-size to increase the limit."
        )


def parse_header_length(value: str, body_length: int) -> int:
    """The number of JSON bytes at the start of a body of `body_length`. Raises INVALID_ARG."""
    if not _INTEGER.fullmatch(value):
        raise invalid_arg(f"Unable to parse Inference-Header-Content-Length, got: {value}")
    # Ten digits are enough for any int32; converting more would be work for the sender to cause.
    digits = value.lstrip("+-").lstrip("0")
    length = int(value) if len(digits) <= 10 else _INT32_RANGE[1] + 1
    low, high = _INT32_RANGE
    if not low <= length <= high:
        raise invalid_arg(
            "Unable to parse Inference-Header-Content-Length, value is out of range "
            f"[ {low}, {high} ], got: {value}"
        )
    if not 0 <= length <= body_length:
        raise invalid_arg(
            f"inference header size should be in range (0, {body_length}), got: {length}"
        )
    return length


def _take_inputs(
    given: tuple[_Input, ...],
    model_name: str,
    body: bytes | memoryview,
    offset: int,
    regions: SharedMemoryRegions | None,
) -> list[Tensor]:
    """The tensors of a request, those in binary taken from `body` at `offset` and on."""
    tensors: list[Tensor] = []
    total = len(body)
    raw: bytes | memoryview | None
    for each in given:
        size = each.binary_data_size
        if size is not None:
            end = offset + size
            if end > total:
                raise invalid_arg(
                    f"unexpected size for input '{each.name}', expecting {end - total} "
                    f"additional bytes for model '{model_name}'"
                )
            raw = body[offset:end]
            offset = end
        elif each.shared_memory is not None:
            if regions is None:
                region = each.shared_memory.region
                raise not_found(f"Unable to find shared memory region: '{region}'")
            raw = regions.read(each.shared_memory)
        else:
            raw = each.data
        tensors.append(Tensor(each.name, each.datatype, each.shape, raw=raw))
    if offset != total:
        raise invalid_arg(f"unexpected additional input data for model '{model_name}'")
    return tensors


def _parse_header(document: bytes | memoryview, max_input_size: int) -> _Header:
    root = members_of(parse(document))
    request = InferRequest("")
    if "id" in root:
        request.id = as_string(root["id"], "id")
    binary = False
    if "parameters" in root:
        reject_oversized = partial(reject_oversized_numbers, document)
        binary = apply_parameters(request, root["parameters"], reject_oversized)
    inputs: list[_Input] = []
    names: set[str] = set()
    for value in as_array(member(root, "inputs"), "inputs"):
        given = _parse_input(members_of(value), document, max_input_size)
        if given.name in names:
            raise _exists(request.id, "input", given.name)
        names.add(given.name)
        inputs.append(given)
    outputs: dict[str, OutputPlan] = {}
    for value in as_array(root["outputs"], "outputs") if "outputs" in root else ():
        output = _parse_output(members_of(value))
        if output.name in outputs:
            raise _exists(request.id, "output", output.name)
        outputs[output.name] = output
    request.requested_outputs = tuple(outputs)
    return _Header(request, tuple(inputs), ResponsePlan(tuple(outputs.values()), binary))


def _exists(request_id: str, noun: str, name: str) -> ServerError:
    return invalid_arg(f"{request_prefix(request_id)}{noun} '{name}' already exists in request")


def _parse_input(
    members: dict[str, JsonValue], document: bytes | memoryview, max_input_size: int
) -> _Input:
    name = as_string(member(members, "name"), "name")
    datatype = as_string(member(members, "datatype"), "datatype")
    shape = tuple(as_unsigned(dim, "shape") for dim in as_array(member(members, "shape"), "shape"))
    count = _element_count(name, datatype, shape)
    parameters = members_of(members.get("parameters"))
    if parameters:
        _check_one_source("data" in members, parameters)
        if "binary_data_size" in parameters:
            size = as_unsigned(parameters["binary_data_size"], "binary_data_size")
            return _Input(name, datatype, shape, binary_data_size=size)
        if "shared_memory_region" in parameters:
            ref = _shared_memory_ref(parameters)
            return _Input(name, datatype, shape, shared_memory=ref)
    elif "data" not in members:
        _check_one_source(False, parameters)
    raw = decode_data(
        name,
        datatype,
        count,
        members["data"],
        max_byte_size=max_input_size,
        reject_oversized=partial(reject_oversized_numbers, document),
    )
    return _Input(name, datatype, shape, data=raw)


def _check_one_source(has_data: bool, parameters: dict[str, JsonValue]) -> None:
    fields = ["'data'"] if has_data else []
    fields += [
        f"'{field}'"
        for field in ("binary_data_size", "shared_memory_region")
        if field in parameters
    ]
    if len(fields) != 1:
        problem = f"But set {' '.join(fields)}" if fields else "But no field is set"
        raise invalid_arg(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            f"'parameters', 'shared_memory_region' in 'parameters'. {problem}"
        )


def _element_count(name: str, datatype: str, shape: tuple[int, ...]) -> int:
    """The number of elements of `shape`, 0 for a scalar: Triton's HTTP side knows no rank 0."""
    if not shape:
        return 0
    count = math.prod(shape)
    # A zero makes the product harmless, not the dimension.
    if count > MAX_INT64 or max(shape) > MAX_INT64:
        text = f"invalid shape for input '{name}': shape [{','.join(map(str, shape))}]"
        if max(shape) > MAX_INT64:
            raise invalid_arg(f"{text} contains one or more invalid dimensions")
        raise invalid_arg(
            f"{text} causes total element count to exceed maximum size of {MAX_INT64}"
        )
    size = ELEMENT_SIZE.get(datatype, 1)
    if count * size > MAX_INT64:
        raise invalid_arg(
            f"byte size overflow for input '{name}': element count ({count}) * data type size "
            f"({size}) exceeds maximum allowed size ({MAX_INT64})"
        )
    return count


def _shared_memory_ref(parameters: dict[str, JsonValue]) -> SharedMemoryRef:
    region = as_string(parameters["shared_memory_region"], "shared_memory_region")
    offset = as_unsigned(parameters.get("shared_memory_offset", 0), "shared_memory_offset")
    byte_size = as_unsigned(
        member(parameters, "shared_memory_byte_size"), "shared_memory_byte_size"
    )
    return SharedMemoryRef(region, offset, byte_size)


def _parse_output(members: dict[str, JsonValue]) -> OutputPlan:
    name = as_string(member(members, "name"), "name")
    parameters = members_of(members.get("parameters"))
    binary = as_bool(parameters.get("binary_data", False), "binary_data")
    if "shared_memory_region" in parameters:
        for field, is_set in (
            ("classification", "classification" in parameters),
            ("binary_data", binary),
        ):
            if is_set:
                raise invalid_arg(f"Output can't set both 'shared_memory_region' and '{field}'")
        return OutputPlan(name, binary, shared_memory=_shared_memory_ref(parameters))
    classification = as_unsigned(parameters.get("classification", 0), "classification")
    return OutputPlan(name, binary, classification)
