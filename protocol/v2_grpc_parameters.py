"""The rules for InferParameter maps: which names a request, an input and an output may carry.

Owns the wording of what a client gets to hear about its parameters. Every error is INVALID_ARG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.inference import (
    OutputPlan,
    ParameterValue,
    SequenceFlag,
    SharedMemoryRef,
    sequence_name,
)
from protocol.proto.messages import InferParameter
from protocol.status import ServerError, invalid_arg

Parameters = Mapping[str, InferParameter]

EMPTY_FINAL: Final = "triton_enable_empty_final_response"

_UINT64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(slots=True)
class RequestParameters:
    """What the parameters of one request say."""

    custom: dict[str, ParameterValue] = field(default_factory=dict)
    correlation_id: int | str = 0
    sequence_flags: SequenceFlag = SequenceFlag.NONE
    priority: int = 0
    timeout_us: int = 0
    empty_final: bool = False  # the client wants a last message even when there is nothing to say


def request_parameters(parameters: Parameters) -> RequestParameters:
    """Sort the parameters of a request into Triton's own and the model's."""
    result = RequestParameters()
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        match name:
            case "sequence_id":
                result.correlation_id = _correlation_id(parameter, kind)
            case "sequence_start" | "sequence_end":
                _expect(kind == "bool_param", name, "bool_param.")
                if parameter.bool_param:
                    start = name == "sequence_start"
                    result.sequence_flags |= SequenceFlag.START if start else SequenceFlag.END
            case "priority":
                integral = kind in {"int64_param", "uint64_param"}
                _expect(integral, name, "int64_param or uint64_param.")
                result.priority = _unsigned(name, getattr(parameter, str(kind)))
            case "timeout":
                _expect(kind == "int64_param", name, "int64_param.")
                result.timeout_us = _unsigned(name, parameter.int64_param)
            case "triton_enable_empty_final_response":
                _expect(kind == "bool_param", name, "bool_param.")
                result.empty_final = parameter.bool_param
            case _ if name.startswith("triton_"):
                raise invalid_arg(
                    "parameter keys starting with 'triton_' are reserved for Triton usage. Only "
                    f"the following keys starting with 'triton_' are allowed: {EMPTY_FINAL}"
                )
            case _:
                result.custom[name] = _custom(name, parameter, kind)
    return result


def _correlation_id(parameter: InferParameter, kind: str | None) -> int | str:
    if kind == "string_param":
        return sequence_name(parameter.string_param)
    _expect(kind == "int64_param", "sequence_id", "int64_param or string_param.")
    # Correlation IDs are unsigned: a negative number names the sequence of its two's complement.
    return parameter.int64_param & _UINT64_MASK


def _custom(name: str, parameter: InferParameter, kind: str | None) -> ParameterValue:
    match kind:
        case "bool_param":
            return parameter.bool_param
        case "int64_param":
            return parameter.int64_param
        case "string_param":
            return parameter.string_param
        case "double_param":
            return parameter.double_param
        case _:
            raise _wrong_kind(name, "int64_param, bool_param, or string_param.")


def shared_memory_of(parameters: Parameters, tensor_name: str) -> SharedMemoryRef | None:
    """The span of shared memory that the parameters of one input or output name, if any."""
    region = offset = byte_size = None
    if "shared_memory_region" in parameters:
        region = _tensor_parameter(parameters, "shared_memory_region", tensor_name, "string_param")
    if "shared_memory_offset" in parameters:
        offset = _tensor_parameter(parameters, "shared_memory_offset", tensor_name, "int64_param")
    if "shared_memory_byte_size" in parameters:
        name = "shared_memory_byte_size"
        byte_size = _tensor_parameter(parameters, name, tensor_name, "int64_param")
    if region is None:
        for value, name in ((offset, "offset"), (byte_size, "byte_size")):
            if value is not None:
                raise invalid_arg(
                    f"'shared_memory_{name}' can not be specified without "
                    f"'shared_memory_region' parameter for tensor '{tensor_name}'"
                )
        return None
    if byte_size is None:
        raise invalid_arg(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' "
            f"parameter for tensor '{tensor_name}'"
        )
    # Sizes are unsigned: a negative one is huge, and the region's own bounds check refuses it.
    return SharedMemoryRef(
        str(region), int(offset or 0) & _UINT64_MASK, int(byte_size) & _UINT64_MASK
    )


def _tensor_parameter(
    parameters: Parameters, name: str, tensor_name: str, expected: str
) -> str | int:
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != expected:
        raise invalid_arg(
            f"invalid value type for '{name}' parameter for tensor '{tensor_name}', "
            f"expected {expected}."
        )
    value: str | int = getattr(parameter, expected)
    return value


def output_plan(name: str, parameters: Parameters) -> OutputPlan:
    """How the client wants the output `name` rendered."""
    shared_memory = shared_memory_of(parameters, name)
    if "classification" not in parameters:
        return OutputPlan(name, shared_memory=shared_memory)
    parameter = parameters["classification"]
    kind = parameter.WhichOneof("parameter_choice")
    _expect(kind == "int64_param", "classification", "int64_param")
    if parameter.int64_param <= 0:
        raise invalid_arg("invalid value for 'classification' parameter, expected >= 0")
    if shared_memory is not None:
        raise invalid_arg("output can't set both 'shared_memory_region' and 'classification'")
    return OutputPlan(name, classification=parameter.int64_param)


def _unsigned(name: str, value: int) -> int:
    if value < 0:
        raise invalid_arg(f"invalid value for '{name}', expected value >= 0.")
    return value


def _expect(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise _wrong_kind(name, expected)


def _wrong_kind(name: str, expected: str) -> ServerError:
    return invalid_arg(f"invalid value type for '{name}' parameter, expected {expected}")
