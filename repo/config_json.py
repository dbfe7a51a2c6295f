"""The JSON form of a model configuration: what `/config` and Python models see, and what a load
request may send.

Owns which keys are present, in which order, and which numbers are strings. It never judges a
configuration: a load override passes `config_rules` like a file does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from google._upb._message import Descriptor as UpbDescriptor
from google._upb._message import FieldDescriptor as UpbField
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from protocol.proto import messages
from protocol.status import ServerError, invalid_arg
from repo.model_config import ModelConfig
from repo.pbtxt import MAX_CONFIG_BYTES, from_proto, to_proto

AnyDescriptor = Descriptor | UpbDescriptor
AnyField = FieldDescriptor | UpbField
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

# protobuf's JSON has 64-bit integers as strings. Triton turns all but these back into numbers.
_LEFT_AS_STRINGS: Final = frozenset(
    {
        "inference.ModelInstanceGroup.SecondaryDevice.device_id",
        "inference.ModelOptimizationPolicy.Cuda.GraphSpec.Shape.dim",
    }
)
_SIXTY_FOUR_BITS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


def to_json(config: ModelConfig) -> str:
    """The compact JSON text."""
    return json.dumps(to_dict(config), ensure_ascii=False, separators=(",", ":"))


def to_dict(config: ModelConfig) -> dict[str, Json]:
    """The JSON object: scalars, lists and maps always present, messages only where set."""
    return _object(to_proto(config))


def equal_but_for_instances(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two configurations differ in nothing but instance groups and version policy.

    Then a loaded version can be updated without loading it anew.
    """

    def rest(config: ModelConfig) -> dict[str, Json]:
        ignored = {"instance_group", "version_policy"}
        return {key: value for key, value in to_dict(config).items() if key not in ignored}

    return rest(one) == rest(other)


def from_json(text: str | bytes) -> ModelConfig:
    """The configuration in a load request: numbers may be strings, enum names in any case.

    Raises ServerError INVALID_ARG `Invalid config override: <reason>`, also for unknown fields.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise _invalid(f"text exceeds the maximum of {MAX_CONFIG_BYTES} bytes")
    try:
        parsed = json.loads(text)
        if not isinstance(parsed, dict):
            raise _invalid("the text is no JSON object")
        message = messages.ModelConfig()
        spelled = spell_enums(parsed, message.DESCRIPTOR)
        json_format.ParseDict(spelled, message, descriptor_pool=messages.POOL)
        return from_proto(message)
    except (ValueError, json_format.ParseError) as error:
        raise _invalid(str(error)) from error
    except RecursionError as error:
        raise _invalid("the text is nested too deeply") from error


def _invalid(reason: str) -> ServerError:
    return invalid_arg(f"Invalid config override: {reason}")


def _object(message: Message) -> dict[str, Json]:
    fields: dict[str, Json] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            assert field.message_type is not None, "a map is a repeated entry message"
            entry = field.message_type.fields_by_name["value"]
            fields[field.name] = {str(key): _value(entry, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            fields[field.name] = [_value(field, one) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            fields[field.name] = _value(field, value)
    return fields


def set_fields(message: Message) -> dict[str, Json]:
    """The JSON object with only those fields that the message has set."""
    fields: dict[str, Json] = {}
    for field, value in message.ListFields():
        if isinstance(value, Mapping):
            assert field.message_type is not None, "a map is a repeated entry message"
            entry = field.message_type.fields_by_name["value"]
            fields[field.name] = {
                str(key): _value(entry, value[key], set_fields) for key in sorted(value)
            }
        elif field.is_repeated:
            fields[field.name] = [_value(field, one, set_fields) for one in value]
        else:
            fields[field.name] = _value(field, value, set_fields)
    return fields


def _value(
    field: AnyField, value: Any, of_message: Callable[[Message], dict[str, Json]] | None = None
) -> Json:
    if isinstance(value, Message):
        return (of_message or _object)(value)
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if isinstance(value, float):
        if not math.isfinite(value):  # JSON has no such number; protobuf writes the words
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
            # The shortest decimal that is this float32: 0.1, not 0.10000000149011612.
            return float(str(np.float32(value)))
    if field.cpp_type in _SIXTY_FOUR_BITS and field.full_name in _LEFT_AS_STRINGS:
        return str(value)
    return value  # type: ignore[no-any-return]  # protobuf's scalars are JSON's


def spell_enums(parsed: Mapping[str, object], descriptor: AnyDescriptor) -> dict[str, object]:
    """`parsed` with every enum name as the schema has it; protobuf refuses unknown ones."""
    fields = {name: one for one in descriptor.fields for name in (one.name, one.json_name)}
    return {
        key: _spell_field(value, fields[key]) if key in fields else value
        for key, value in parsed.items()
    }


def _spell_field(value: object, field: AnyField) -> object:
    if isinstance(value, list):
        return [_spell_field(one, field) for one in value]
    message_type, enum_type = field.message_type, field.enum_type
    if message_type is not None and isinstance(value, dict):
        if message_type.GetOptions().map_entry:
            entry = message_type.fields_by_name["value"]
            return {key: _spell_field(one, entry) for key, one in value.items()}
        return spell_enums(value, message_type)
    if enum_type is not None and isinstance(value, str):
        return next(
            (name for name in enum_type.values_by_name if same_enum_name(name, value)), value
        )
    return value


def same_enum_name(name: str, given: str) -> bool:
    """Whether `given` is how JSON may spell an enum's `name`."""
    # protobuf's case-insensitive parsing takes hyphens for underscores too.
    return name == given.upper().replace("-", "_")
