"""The JSON value that a tree stands for, as protobuf's JSON mapping takes it.

Owns what a plain word of YAML means, which its field decides.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, Literal

from google.protobuf.descriptor import FieldDescriptor

from protocol.proto import messages
from repo.config_json import AnyDescriptor, AnyField, Json
from repo.config_text.nodes import Fields, Listing, MalformedText, Node, Scalar
from repo.config_text.schema import BOOLEANS, INTEGER, NULLS, field_names, integer_of

_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = {
    ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan,
}  # fmt: skip
_FLOATS: Final = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


def json_value(root: Fields, syntax: Literal["json", "yaml"]) -> dict[str, Json]:
    """The value that the tree stands for, for protobuf's JSON mapping. Raises MalformedText."""
    return _json_message(root, messages.ModelConfig.DESCRIPTOR, syntax)


def _json_message(
    node: Fields, descriptor: AnyDescriptor | None, syntax: Literal["json", "yaml"]
) -> dict[str, Json]:
    names = {} if descriptor is None else field_names(descriptor, syntax)
    made: dict[str, Json] = {}
    for entry in node.entries:
        key = entry.key
        if key.text in made:
            reason = f'"{key.text}" is given twice'
            raise MalformedText(reason, key.place.line, key.place.column)
        one = names.get(key.text)
        is_map = (
            one is not None
            and one.message_type is not None
            and (one.message_type.GetOptions().map_entry)
        )
        if is_map and isinstance(entry.value, Fields):
            assert one is not None
            assert one.message_type is not None
            made[key.text] = _json_map(
                entry.value, one.message_type.fields_by_name["value"], syntax
            )
        else:
            made[key.text] = _json(entry.value, one, syntax)
    return made


def _json_map(
    node: Fields, value_field: AnyField, syntax: Literal["json", "yaml"]
) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for entry in node.entries:
        place = entry.key.place
        if entry.key.text in made:
            raise MalformedText(f'"{entry.key.text}" is given twice', place.line, place.column)
        made[entry.key.text] = _json(entry.value, value_field, syntax)
    return made


def _json(node: Node, one: AnyField | None, syntax: Literal["json", "yaml"]) -> Json:
    if isinstance(node, Fields):
        return _json_message(node, None if one is None else one.message_type, syntax)
    if isinstance(node, Listing):
        return [_json(item, one, syntax) for item in node.items]
    if syntax == "json":
        value: Json = node.text if node.quoted else json.loads(node.text)
        return value
    return _yaml_scalar(node, one)


def _yaml_scalar(node: Scalar, one: AnyField | None) -> Json:
    text = node.text
    if node.quoted:
        return text
    if text in NULLS:
        return None
    if one is None or one.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    if one.cpp_type == FieldDescriptor.CPPTYPE_BOOL and text in BOOLEANS["yaml"]:
        return text.lower() == "true"
    if one.cpp_type in _FLOATS:
        if text.lower() in _NOT_FINITE:
            return _NOT_FINITE[text.lower()]
        return float(text) if _NUMBER.fullmatch(text) else text
    return integer_of(text) if INTEGER.fullmatch(text) else text
