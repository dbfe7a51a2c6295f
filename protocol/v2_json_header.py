"""The JSON header of an infer request: its members to typed form, alone.

Owns which members there are, their kinds, and the texts for what is missing or mistyped, in the
order in which Triton meets it. Tensor data in JSON are converted here; bytes that follow the
header, or lie in shared memory, are not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from protocol.datatypes import ELEMENT_SIZE
from protocol.inference import InferRequest, OutputPlan, ResponsePlan, SharedMemoryRef
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
from protocol.status import ServerError, invalid_arg, request_prefix
from protocol.v2_json_parameters import apply_parameters
from protocol.v2_json_tensors import decode_data


class InputEntry(NamedTuple):
    """One member of `inputs`: exactly one of the last three is set."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_data_size: int | None = None
    data: bytes | None = None
    shared_memory: SharedMemoryRef | None = None


@dataclass(frozen=True, slots=True)
class InferHeader:
    """A parsed JSON header. `request` is a template: never handed out."""

    request: InferRequest
    inputs: tuple[InputEntry, ...]
    plan: ResponsePlan

    def without_data(self) -> InferHeader:
        """The same, to be kept: tensor data may be large."""
        inputs = [each if each.data is None else each._replace(data=b"") for each in self.inputs]
        return InferHeader(self.request, tuple(inputs), self.plan)


def parse_header(document: bytes | memoryview, max_input_size: int) -> InferHeader:
    """The header in `document`; `max_input_size` limits each tensor in it. Raises ServerError."""
    root = members_of(parse(document))
    request = InferRequest("")
    if "id" in root:
        request.id = as_string(root["id"], "id")
    binary = False
    if "parameters" in root:
        reject_oversized = partial(reject_oversized_numbers, document)
        binary = apply_parameters(request, root["parameters"], reject_oversized)
    inputs: list[InputEntry] = []
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
    return InferHeader(request, tuple(inputs), ResponsePlan(tuple(outputs.values()), binary))


def _exists(request_id: str, noun: str, name: str) -> ServerError:
    return invalid_arg(f"{request_prefix(request_id)}{noun} '{name}' already exists in request")


def _parse_input(
    members: dict[str, JsonValue], document: bytes | memoryview, max_input_size: int
) -> InputEntry:
    name = as_string(member(members, "name"), "name")
    datatype = as_string(member(members, "datatype"), "datatype")
    shape = _shape(as_array(member(members, "shape"), "shape"))
    count = _element_count(name, datatype, shape)
    parameters = members_of(members.get("parameters"))
    has_data, has_size = "data" in members, "binary_data_size" in parameters
    has_region = "shared_memory_region" in parameters
    if has_data + has_size + has_region != 1:
        raise _not_one_source(has_data, has_size, has_region)
    if has_size:
        size = as_unsigned(parameters["binary_data_size"], "binary_data_size")
        return InputEntry(name, datatype, shape, size)
    if has_region:
        return InputEntry(name, datatype, shape, shared_memory=_shared_memory_ref(parameters))
    raw = decode_data(
        name,
        datatype,
        count,
        members["data"],
        max_byte_size=max_input_size,
        reject_oversized=partial(reject_oversized_numbers, document),
    )
    return InputEntry(name, datatype, shape, data=raw)


def _not_one_source(has_data: bool, has_size: bool, has_region: bool) -> ServerError:
    sources = (
        (has_data, "'data'"),
        (has_size, "'binary_data_size'"),
        (has_region, "'shared_memory_region'"),
    )
    fields = " ".join(field for is_set, field in sources if is_set)
    problem = f"But set {fields}" if fields else "But no field is set"
    return invalid_arg(
        "Input must set only one of the following fields: 'data', 'binary_data_size' in "
        f"'parameters', 'shared_memory_region' in 'parameters'. {problem}"
    )


def _shape(dims: list[JsonValue]) -> tuple[int, ...]:
    # Asking here first, instead of calling for each dimension, halves the cost of an input.
    return tuple(
        [
            dim if type(dim) is int and 0 <= dim <= MAX_INT64 else as_unsigned(dim, "shape")
            for dim in dims
        ]
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
