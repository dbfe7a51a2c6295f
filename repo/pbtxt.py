"""`config.pbtxt`: protobuf text format → the typed model configuration.

Owns the two texts with which a configuration file fails, and the size limit of such a file. It
never judges what a configuration says: an unknown field, a wrong type, a singular field given
twice or two schedulers at once are refused by protobuf's own parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import Message

from protocol.proto import messages
from protocol.status import internal
from repo.model_config import ModelConfig

# Real configurations are a few KiB; ensembles with thousands of steps stay below 1 MiB. protobuf's
# text parser is pure Python, so a larger file would stall a load for minutes.
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024

# protobuf quotes the whole offending line, which may be the whole file.
MAX_REASON_LENGTH: Final = 500

# A comment, so that quotes in it mean nothing, or a string.
_LITERAL = re.compile(r"""#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""")

_ESCAPE = re.compile(
    r"""\\(?:[abfnrtv\\'"?]|[0-3]?[0-7]{1,2}(?![0-7])|[0-3][0-7]{2}|[xX](?=[0-9a-fA-F])"""
    r"""|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|(?P<unknown>.))"""
)

_RESPELLED: Final = {r"\?": "?", r"\X": r"\x"}


def parse_config(raw: bytes | str, source: str) -> ModelConfig:
    """The configuration in `raw`; `source` names the file in messages.

    Raises ServerError INTERNAL `failed to read text proto from <source>[:line:column]: <reason>`.
    """
    failure = f"failed to read text proto from {source}"
    if len(raw) > MAX_CONFIG_BYTES:
        raise internal(f"{failure}: file exceeds the maximum of {MAX_CONFIG_BYTES} bytes")
    message = messages.ModelConfig()
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        text = _checked_escapes(text)
        text_format.Parse(text, message, descriptor_pool=messages.POOL)
        return from_proto(message)
    except text_format.ParseError as error:
        place = "".join(f":{n}" for n in (error.GetLine(), error.GetColumn()) if n is not None)
        # protobuf prints "line:column : reason".
        reason = str(error).split(" : ", 1)[-1]
        raise internal(f"{failure}{place}: {reason[:MAX_REASON_LENGTH]}") from error
    except ValueError as error:  # bytes that are no UTF-8, or an enum's number out of range
        raise internal(f"{failure}: {error}") from error


def _checked_escapes(text: str) -> str:
    """`text` with its escapes as Python's parser spells them.

    It lets unknown escapes pass with a warning, and does not know two that protobuf has. Raises
    ParseError for what protobuf's own C++ parser refuses.
    """

    def escape(found: re.Match[str]) -> str:
        if found["unknown"] is not None:
            start = literal.start() + found.start()
            line = text.count("\n", 0, start) + 1
            column = start - text.rfind("\n", 0, start)
            raise text_format.ParseError("Invalid escape sequence in string literal.", line, column)
        return _RESPELLED.get(found[0], found[0])

    parts: list[str] = []
    end = 0
    for literal in _LITERAL.finditer(text):
        if "\\" in literal[0] and not literal[0].startswith("#"):
            parts += (text[end : literal.start()], _ESCAPE.sub(escape, literal[0]))
            end = literal.end()
    return "".join((*parts, text[end:]))


def from_proto(message: messages.ModelConfig) -> ModelConfig:
    """A protobuf (upb) message as the typed configuration, every field kept.

    Raises ValueError for an enum value without a name: protobuf keeps such numbers.
    """
    _refuse_unnamed_enums(message)
    # protobuf has its maps in another order in every process; who follows one must not.
    config: ModelConfig = ModelConfig().parse(message.SerializeToString(deterministic=True))
    return config


def to_proto(config: ModelConfig) -> messages.ModelConfig:
    """The typed configuration as a protobuf (upb) message."""
    return messages.ModelConfig.FromString(bytes(config))


def _refuse_unnamed_enums(message: Message) -> None:
    for field, value in message.ListFields():
        repeated = value.values() if isinstance(value, Mapping) else value
        values = repeated if field.is_repeated else [value]
        if field.message_type is not None:
            for one in values:
                if isinstance(one, Message):  # a map may hold scalars
                    _refuse_unnamed_enums(one)
        elif field.enum_type is not None:
            for number in values:
                if number not in field.enum_type.values_by_number:
                    raise ValueError(
                        f'Enum type "{field.enum_type.full_name}" has no value with number '
                        f"{number}."
                    )
