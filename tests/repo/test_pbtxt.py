"""The text format: everything it may say is kept, everything else is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from google._upb._message import Descriptor as UpbDescriptor
from google._upb._message import FieldDescriptor as UpbField
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from protocol.proto import messages
from protocol.status import ServerError, StatusCode
from repo.config_files import read_config
from repo.model_config import (
    DataType,
    copy_config,
    dynamic_batching,
    is_set,
    scheduling_choice,
)
from repo.pbtxt import MAX_CONFIG_BYTES, from_proto, parse_config, to_proto

AnyDescriptor = Descriptor | UpbDescriptor
AnyField = FieldDescriptor | UpbField

_SCALARS: dict[int, tuple[object, object]] = {
    FieldDescriptor.TYPE_STRING: ('a "quoted"\nname', "ü"),
    FieldDescriptor.TYPE_BOOL: (True, True),
    FieldDescriptor.TYPE_FLOAT: (0.1, -2.5),
    FieldDescriptor.TYPE_DOUBLE: (0.1, 1e300),
    FieldDescriptor.TYPE_INT32: (-1, 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-1, 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (7, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (7, 2**64 - 1),
}


def _scalars(field: AnyField) -> tuple[object, object]:
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return numbers[-1], numbers[0]
    return _SCALARS[field.type]


def _fill(message: Message, turn: int) -> None:
    """Set every field; of a oneof set the member whose turn it is."""
    descriptor = message.DESCRIPTOR
    chosen = {oneof.fields[turn % len(oneof.fields)].name for oneof in descriptor.oneofs}
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.name not in chosen:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, entry = field.message_type.fields
            for map_key in _scalars(key):
                if entry.message_type is not None:
                    _fill(value[map_key], turn)
                else:
                    value[map_key] = _scalars(entry)[0]
        elif field.message_type is not None:
            for one in (value.add(), value.add()) if field.is_repeated else (value,):
                one.SetInParent()
                _fill(one, turn)
        elif field.is_repeated:
            value.extend(_scalars(field))
        else:
            setattr(message, field.name, _scalars(field)[0])


def _full_message(turn: int) -> messages.ModelConfig:
    message = messages.ModelConfig()
    _fill(message, turn)
    return message


# Three members has the largest oneof, and two the one inside its second member.
TURNS = range(6)


def _fields_set(message: Message) -> set[str]:
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(field.full_name)
        if field.message_type is None:
            continue
        values = value if field.is_repeated else [value]
        if field.message_type.GetOptions().map_entry:
            values = value.values()
        for one in values:
            if isinstance(one, Message):
                found |= _fields_set(one)
    return found


def _all_fields(descriptor: AnyDescriptor) -> set[str]:
    found: set[str] = set()
    for field in descriptor.fields:
        if field.enum_type is None or len(field.enum_type.values) > 1 or field.is_repeated:
            found.add(field.full_name)  # an enum with one value can only have its default
        if field.message_type is None:
            continue
        entry = field.message_type.fields_by_name.get("value")
        if not field.message_type.GetOptions().map_entry or entry is None:
            found |= _all_fields(field.message_type)
        elif entry.message_type is not None:
            found |= _all_fields(entry.message_type)
    return found


def test_the_filled_messages_set_every_field_of_the_schema() -> None:
    covered = set().union(*(_fields_set(_full_message(turn)) for turn in TURNS))

    assert covered == _all_fields(messages.ModelConfig.DESCRIPTOR)


@pytest.mark.parametrize("turn", TURNS)
def test_every_field_survives_text_and_dataclasses(turn: int) -> None:
    message = _full_message(turn)

    config = parse_config(text_format.MessageToString(message), "config.pbtxt")

    assert to_proto(config) == message
    assert to_proto(copy_config(config)) == message
    assert to_proto(from_proto(message)) == message


FORMS = """
# a comment
name: 'two ' "parts"; max_batch_size: -1,
input [ { name: "a", dims: [ 1, -1 ], data_type: TYPE_FP32 }, { name: "b" dims: 1 dims: 2 } ]
input: { name: "c\\n\\"\\101\\x42" optional: t allow_ragged_batch: True is_shape_tensor: 1 }
parameters { key: "x" value { string_value: "1" } }
parameters: { key: "y", value: { string_value: "2" } }
dynamic_batching { }
"""


def test_the_forms_that_are_used_in_the_wild_are_read() -> None:
    config = parse_config(FORMS, "config.pbtxt")

    assert config.name == "two parts"
    assert config.max_batch_size == -1
    assert [list(one.dims) for one in config.input] == [[1, -1], [1, 2], []]
    assert config.input[0].data_type == DataType.TYPE_FP32
    assert config.input[2].name == 'c\n"AB'
    assert config.input[2].optional
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "x": "1",
        "y": "2",
    }
    assert scheduling_choice(config) == "dynamic_batching"


def test_maps_have_the_order_of_their_keys() -> None:
    names = [f"key{number}" for number in (5, 3, 9, 1, 7, 2, 8, 4, 6, 0)]
    text = "".join(f'parameters {{ key: "{n}" value {{ string_value: "" }} }} ' for n in names)

    assert list(parse_config(text, "config.pbtxt").parameters) == sorted(names)


def test_an_empty_message_is_present_and_stays_so_in_a_copy() -> None:
    config = copy_config(parse_config("input { reshape { } } dynamic_batching { }", "x"))

    assert is_set(config.input[0].reshape)
    assert dynamic_batching(config) is not None
    assert not is_set(config.response_cache)


def _multiple(field: str) -> str:
    return f'Message type "inference.ModelConfig" should not have multiple "{field}" fields.'


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (
            'name: "a"\n  colour: 3',
            ":2:3: ",
            'Message type "inference.ModelConfig" has no field named "colour".',
        ),
        (
            'name: "a"\nname: "b"',
            ":2:7: ",
            _multiple("name"),
        ),
        (
            "max_batch_size: 8 max_batch_size: 9",
            ":1:35: ",
            _multiple("max_batch_size"),
        ),
        (
            "dynamic_batching {} dynamic_batching {}",
            ":1:38: ",
            _multiple("dynamic_batching"),
        ),
        (
            "dynamic_batching {}\nsequence_batching {}",
            ":2:1: ",
            (
                'Field "sequence_batching" is specified along with field "dynamic_batching", '
                'another member of oneof "scheduling_choice" for message type '
                '"inference.ModelConfig".'
            ),
        ),
        (
            "max_batch_size: many",
            ":1:17: ",
            "'max_batch_size: many': Couldn't parse integer: many",
        ),
        (
            "input { data_type: TYPE_X }",
            ":1:20: ",
            (
                "'input { data_type: TYPE_X }': "
                'Enum type "inference.DataType" has no value named TYPE_X.'
            ),
        ),
        (
            "input { data_type: 99 }",
            ": ",
            'Enum type "inference.DataType" has no value with number 99.',
        ),
        ("input {", ":1:7: ", 'Expected "}".'),
        (
            b"\xff",
            ": ",
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
    ],
)
def test_what_cannot_be_read_says_where_and_why(text: str | bytes, place: str, reason: str) -> None:
    with pytest.raises(ServerError) as failure:
        parse_config(text, "/m/config.pbtxt")

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == (
        f"failed to read text proto from /m/config.pbtxt{place}{reason}"
    )


def test_a_file_too_large_to_be_a_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))

    with pytest.raises(ServerError, match=f"exceeds the maximum of {MAX_CONFIG_BYTES} bytes"):
        read_config(path)


def test_a_long_line_is_not_quoted_whole() -> None:
    with pytest.raises(ServerError) as failure:
        parse_config(f'name: "{"x" * 10_000}', "x")

    assert len(failure.value.message) < 600


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"

    with pytest.raises(ServerError) as failure:
        read_config(path)

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == (
        f"failed to open text file for read {path}: No such file or directory"
    )


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "m"')

    assert read_config(path).name == "m"


@pytest.mark.parametrize(
    ("escape", "meaning"),
    [
        (r"\?", "?"),
        (r"\X41", "A"),
        (r"\x4", "\x04"),
        (r"\1012", "A2"),
        (r"\u0041", "A"),
        (r"\U0001F600", "\U0001f600"),
        (r"\\q", r"\q"),
    ],
)
def test_escapes_mean_what_protobuf_says(escape: str, meaning: str) -> None:
    assert parse_config(f'# "\\q\nname: "{escape}"', "x").name == meaning


@pytest.mark.parametrize(
    "escape", [r"\q", r"\{", r"\8", r"\xg", r"\777", r"\u004", r"\N{BULLET}", "\\ü"]
)
def test_an_unknown_escape_is_refused_where_it_stands(escape: str) -> None:
    with pytest.raises(ServerError) as failure:
        parse_config(f"# \"\nname: 'a{escape}'", "x")

    assert failure.value.message == (
        "failed to read text proto from x:2:9: Invalid escape sequence in string literal."
    )
