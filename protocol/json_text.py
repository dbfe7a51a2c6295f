"""JSON text as Triton reads and writes it.

Owns parsing with Triton's error texts (RapidJSON's reason and a byte offset, INTERNAL), the rule
that the first of repeated keys wins, typed access to members with the texts for a wrong kind, and
compact serialisation that lets bytes which are not UTF-8 through in both directions
(surrogateescape). NaN and Infinity are read and written. It knows no message of any protocol.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, TypeAlias, cast

from protocol.json_plain import NOT_PLAIN, parse_plain
from protocol.status import ServerError, internal, invalid_arg

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | JsonPairs | None"
)

NESTING_LIMIT: Final = 100
TOO_DEEP: Final = f"JSON nesting depth exceeds maximum allowed limit ({NESTING_LIMIT})"
MAX_UINT64: Final = 2**64 - 1
MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1

_BYTE_ORDER_MARK: Final = "\ufeff"  # some editors and shells begin every file with it
_WHITESPACE: Final = re.compile(r"[ \t\n\r]*")
_LONE_SURROGATE_HINT: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRING_OR_NUMBER: Final = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+\-]?[0-9]+)?', re.DOTALL
)
# A number without exponent that ends where the search does; nobody writes longer ones.
_COMPLETE_NUMBER: Final = re.compile(r"(?<![0-9.eE+\-])-?[0-9]+(\.[0-9]+)?\Z")
_LONGEST_NUMBER: Final = 400
_BEGUN_LITERAL: Final = re.compile(
    r"t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?|Na?"
    r"|-?(?:I(?:n(?:f(?:i(?:n(?:i(?:ty?)?)?)?)?)?)?)?"
)
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class JsonPairs(list[tuple[str, "JsonValue"]]):
    """An object with every occurrence of its keys, in order."""


def _first_wins(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        members = {}
        for key, value in pairs:
            members.setdefault(key, value)
    return members


# Only the scanners are used: JSONDecoder.decode adds two regular expression matches to a call.
_scan: Final = json.JSONDecoder(object_pairs_hook=_first_wins).scan_once  # type: ignore[attr-defined]  # typeshed leaves it out
_scan_pairs: Final = json.JSONDecoder(object_pairs_hook=JsonPairs).scan_once  # type: ignore[attr-defined]  # as above
_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def parse(document: bytes | memoryview, *, pairs: bool = False) -> JsonValue:
    """The value of a JSON document; objects are `JsonPairs` if `pairs`, else dicts.

    An integer beyond 64 bits may come as a double. A number literal too big for a double passes as
    infinity, because looking for one costs as much again as parsing: `reject_oversized_numbers`.
    Raises ServerError: INTERNAL with the reason and its byte offset, INVALID_ARG for a document too
    deep to be read.
    """
    if not pairs:
        value = parse_plain(document)
        if value is not NOT_PLAIN:
            return cast("JsonValue", value)
    return _parse_thoroughly(document, pairs=pairs)


def _parse_thoroughly(document: bytes | memoryview, *, pairs: bool) -> JsonValue:
    """As Triton does it, and with its texts for what is wrong."""
    text = str(document, "utf-8", "surrogateescape")
    start = 0
    if not text or text[0] not in "{[":
        start = _end_of_whitespace(text, 1 if text.startswith(_BYTE_ORDER_MARK) else 0)
        if start == len(text):
            raise _bad_json("The document is empty.", text, start)
    try:
        value, end = (_scan_pairs if pairs else _scan)(text, start)
    except StopIteration as error:
        raise _invalid_value(text, int(error.value)) from None
    except json.JSONDecodeError as error:
        raise _bad_json(*_reason(error.msg, text, error.pos)) from None
    except RecursionError:
        raise invalid_arg(TOO_DEEP) from None
    except ValueError:  # Python converts no integer of thousands of digits
        oversized = _oversized_number(document)
        assert oversized is not None, "such an integer is beyond the doubles"
        raise oversized from None
    if end != len(text):
        end = _end_of_whitespace(text, end)
        if end != len(text):
            raise _bad_json(*_reason("Extra data", text, end))
    if _LONE_SURROGATE_HINT.search(text) is not None:
        _reject_lone_surrogates(text)
    parsed: JsonValue = value
    return parsed


def reject_oversized_numbers(document: bytes | memoryview) -> None:
    """Raise INTERNAL if a well-formed document has a number literal beyond the doubles."""
    oversized = _oversized_number(document)
    if oversized is not None:
        raise oversized


def _oversized_number(document: bytes | memoryview) -> ServerError | None:
    for token in _STRING_OR_NUMBER.finditer(document):
        literal = token[0]
        if literal[:1] != b'"' and math.isinf(float(literal)):
            return internal(
                "failed to parse the request JSON buffer: "
                f"Number too big to be stored in double. at {token.start()}"
            )
    return None


def _end_of_whitespace(text: str, position: int) -> int:
    matched = _WHITESPACE.match(text, position)
    assert matched is not None, "the pattern matches the empty string"
    return matched.end()


def _bad_json(reason: str, text: str, position: int) -> ServerError:
    offset = len(text[:position].encode("utf-8", "surrogateescape"))
    return internal(f"failed to parse the request JSON buffer: {reason} at {offset}")


def _invalid_value(text: str, position: int) -> ServerError:
    """RapidJSON points behind what it could still take for a beginning of `null` and the like."""
    begun = _BEGUN_LITERAL.match(text, position)
    return _bad_json("Invalid value.", text, begun.end() if begun else position)


def _reason(message: str, text: str, position: int) -> tuple[str, str, int]:
    """RapidJSON's reason and position for what Python's parser says."""
    number = _COMPLETE_NUMBER.search(text, max(0, position - _LONGEST_NUMBER), position)
    if number is not None:
        if text.startswith(".", position) and number[1] is None:
            return "Miss fraction part in number.", text, position + 1
        if text.startswith(("e", "E"), position):
            position += 2 if text.startswith(("+", "-"), position + 1) else 1
            return "Miss exponent in number.", text, position
    match message.partition(":")[0].strip():
        case "Expecting property name enclosed in double quotes":
            reason = "Missing a name for object member."
        case "Illegal trailing comma before end of object":
            reason = "Missing a name for object member."
            position = _end_of_whitespace(text, position + 1)
        case "Illegal trailing comma before end of array":
            reason = "Invalid value."
            position = _end_of_whitespace(text, position + 1)
        case "Expecting '":  # partition cut "Expecting ':' delimiter" at its own colon
            reason = "Missing a colon after a name of object member."
        case "Expecting ',' delimiter":
            reason = (
                "Missing a comma or '}' after an object member."
                if _is_in_object(text, position)
                else "Missing a comma or ']' after an array element."
            )
        case "Extra data":
            reason = "The document root must not be followed by other values."
        case "Unterminated string starting at":
            reason, position = "Missing a closing quotation mark in string.", len(text)
        case "Invalid control character at":
            reason = "Invalid escape character in string."
        case "Invalid \\escape":
            reason = "Invalid escape character in string."
        case "Invalid \\uXXXX escape":
            reason = "Incorrect hex digit after \\u escape in string."
            position -= 1
        case _:
            reason = "Invalid value."
    return reason, text, position


def _is_in_object(text: str, position: int) -> bool:
    """Whether the innermost container open before `position` is an object."""
    opened: list[str] = []
    for token in _STRING_OR_BRACKET.finditer(text, 0, position):
        if token[0] in ("{", "["):
            opened.append(token[0])
        elif token[0] in ("}", "]"):
            opened.pop()
    return bool(opened) and opened[-1] == "{"


def _reject_lone_surrogates(text: str) -> None:
    """Half a surrogate pair names no character; let through it could pose as an escaped byte."""
    high_end = -1  # where a high surrogate that still lacks its low one ended
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        if high_end >= 0 and not (0xDC00 <= code <= 0xDFFF and escape.start() == high_end):
            break
        if 0xDC00 <= code <= 0xDFFF and high_end < 0:
            raise _bad_json("The surrogate pair in string is invalid.", text, escape.start())
        high_end = escape.end() if 0xD800 <= code <= 0xDBFF else -1
    if high_end >= 0:
        raise _bad_json("The surrogate pair in string is invalid.", text, high_end - 6)


def dumps(value: object) -> str:
    """Compact JSON text; non-ASCII characters stand for themselves."""
    return _compact(value)


def to_bytes(text: str) -> bytes:
    """Text as wire bytes; characters that stand for undecodable bytes become those bytes."""
    return text.encode("utf-8", "surrogateescape")


def missing_member(name: str) -> ServerError:
    return internal(
        f"Unable to parse '{name}': attempt to access non-existing object member '{name}'"
    )


def wrong_kind(name: str, kind: str) -> ServerError:
    """A member's value is not of `kind`, one of Triton's words for the kinds of JSON."""
    return internal(f"Unable to parse '{name}': {kind_mismatch(kind)}")


def kind_mismatch(kind: str) -> str:
    return f"attempt to access JSON non-{kind} as {'double' if kind == 'number' else kind}"


def members_of(value: JsonValue) -> dict[str, JsonValue]:
    """The members of an object; anything else has none, as in Triton's look-up."""
    return value if isinstance(value, dict) else {}


def member(members: dict[str, JsonValue], name: str) -> JsonValue:
    """A member that must be there. Raises INTERNAL."""
    try:
        return members[name]
    except KeyError:
        raise missing_member(name) from None


def as_string(value: JsonValue, name: str) -> str:
    if not isinstance(value, str):
        raise wrong_kind(name, "string")
    return value


def as_array(value: JsonValue, name: str) -> list[JsonValue]:
    if not isinstance(value, list) or isinstance(value, JsonPairs):
        raise wrong_kind(name, "array")
    return value


def as_bool(value: JsonValue, name: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_kind(name, "boolean")
    return value


def as_unsigned(value: JsonValue, name: str) -> int:
    """An integer literal in [0, 2⁶⁴); `1.0`, `-1` and `true` are not."""
    if type(value) is not int or not 0 <= value <= MAX_UINT64:
        raise wrong_kind(name, "unsigned-integer")
    return value
