"""Model configurations that say anything which the schema allows, for tests of what reads them."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from protocol.proto import messages
from repo.config_json import AnyField

# Words that a YAML reader may take for something else, and names that a JSON path may.
TRAPS = ("no", "null", "~", "1.0", "1e3", "0x10", "", " x ", "a: b", "# x", "- x", "'", '"', "\\n",
         "2020-01-01", "<<", "=", "&a", "*a", "!t", "%", "@", "`", "{", "[", "\x85", "\u2028", "é",
         "\ufeff", "\U0001f600", "a\nb\n", "\t", "\x00", "\x7f", "true", "|", ">")  # fmt: skip
TEXTS = st.one_of(st.sampled_from(TRAPS), st.text(st.characters(codec="utf-8"), max_size=6))
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def value(draw: st.DrawFn, field: AnyField) -> object:
    if field.message_type is not None:
        return filled(draw, messages.message_class(field.message_type.full_name)())
    if field.enum_type is not None:
        return draw(st.sampled_from([one.number for one in field.enum_type.values]))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return draw(st.booleans())
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return draw(TEXTS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return draw(st.floats(width=32, allow_nan=False))
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return draw(st.floats(allow_nan=False))
    return draw(st.integers(*RANGES[field.cpp_type]))


def filled(draw: st.DrawFn, message: Message) -> Message:
    fields: list[AnyField] = list(message.DESCRIPTOR.fields)
    if not fields:
        return message
    places = draw(st.lists(st.integers(0, len(fields) - 1), max_size=4, unique=True))
    for field in (fields[place] for place in places):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            parts = field.message_type.fields_by_name
            key, content = value(draw, parts["key"]), value(draw, parts["value"])
            if isinstance(content, Message):
                getattr(message, field.name)[key].CopyFrom(content)
            else:
                getattr(message, field.name)[key] = content
        elif field.is_repeated:
            getattr(message, field.name).append(value(draw, field))
        elif field.message_type is not None:
            content = value(draw, field)
            assert isinstance(content, Message)
            getattr(message, field.name).CopyFrom(content)
        else:
            setattr(message, field.name, value(draw, field))
    return message


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    return filled(draw, messages.ModelConfig()).SerializeToString(deterministic=True)
