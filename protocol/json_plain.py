"""The plain cases of JSON, which are nearly all of it, by a parser that is ten times as fast.

orjson is strict where Triton is lenient (NaN, bytes that are not UTF-8) and keeps the last of
repeated keys where Triton keeps the first. So nothing is decided here: each function says so if a
case is not plain, and `protocol.json_text` does it thoroughly then. It does everything where there
is no orjson.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from protocol.datatypes import Array

orjson: Any  # or None: a platform without wheels of it gives the same answers, only later
try:
    import orjson
except ImportError:
    orjson = None

# Messages have their objects at most this deep: root, inputs, an input, its parameters, and spare.
PLAIN_DEPTH: Final = 8
NOT_PLAIN: Final = object()
"""Stands for the value of a document that has to be parsed thoroughly."""


# What can be written with these is a number or an array.
_OF_NUMBERS: Final = b"0123456789+-.eE, \t\r\n[]"


def parse_plain(document: bytes | memoryview) -> object:
    """The value of a document in strict JSON whose keys are all different, or NOT_PLAIN.

    A colon outside a string makes a member, so if there are as many colons as members were found
    then no key has replaced another. A colon inside a string only costs the thorough parser's time.
    """
    if orjson is None:
        return NOT_PLAIN
    try:
        value: object = orjson.loads(document)
    except orjson.JSONDecodeError:
        return NOT_PLAIN
    colons = (document if isinstance(document, bytes) else bytes(document)).count(b":")
    members = _count_members(value, PLAIN_DEPTH) if isinstance(value, dict) else 0
    return value if members == colons else NOT_PLAIN


def _count_members(members: dict[str, object], depth: int) -> int:
    """Members of an object, those of objects and arrays of objects in it included.

    Those that lie deeper than `depth`, or in other arrays, are not found. So an array of numbers
    costs nothing.
    """
    count = len(members)
    for value in members.values():
        inner: Sequence[object]
        if isinstance(value, dict):
            inner = (value,)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner = value
        else:
            continue
        if depth:
            count += sum(
                [_count_members(each, depth - 1) for each in inner if isinstance(each, dict)]
            )
    return count


def plain_numbers(text: bytes) -> list[int | float] | None:
    """The elements of a JSON array of finite numbers; None if it is anything else.

    `text` has one closing bracket, so that no element is an array.
    """
    if orjson is None or text.translate(None, _OF_NUMBERS):
        return None
    try:
        numbers: list[int | float] = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return numbers


def number_array(array: Array) -> str | None:
    """Numbers or booleans as one flat JSON array, or None if a NaN or an infinity is among them.

    A float is written as the double that it is, so that no reader rounds it again.
    """
    if orjson is None:
        return None
    flat = array.ravel()
    if flat.dtype == np.float32:
        flat = flat.astype(np.float64)
    text: bytes = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    return None if b"null" in text else text.decode("ascii")
