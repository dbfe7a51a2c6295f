"""Tensor data as JSON: the `data` member of an input to wire bytes, and an output's back to text.

Owns the element kinds that each datatype accepts, their range, and Triton's texts for data that do
not fit. Data may be nested in any way; only the number of elements is compared with the shape.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from itertools import chain
from typing import Final

import numpy as np

from protocol.datatypes import BYTES, ELEMENT_SIZE, Array, numpy_dtype
from protocol.inference import Tensor
from protocol.json_plain import number_array
from protocol.json_text import (
    MAX_INT64,
    MAX_UINT64,
    MIN_INT64,
    NESTING_LIMIT,
    TOO_DEEP,
    JsonPairs,
    JsonValue,
    as_array,
    dumps,
    kind_mismatch,
    to_bytes,
)
from protocol.status import ServerError, internal, invalid_arg

# Datatypes that have no JSON form; clients send and ask for them in binary.
BINARY_ONLY: Final = frozenset(("FP16", "BF16"))

_LENGTH: Final = struct.Struct("<I")
_SIGNED_RANGE: Final = {
    "INT8": (-(2**7), 2**7 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (MIN_INT64, MAX_INT64),
}
_UNSIGNED_RANGE: Final = {
    "UINT8": (0, 2**8 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, MAX_UINT64),
}


def decode_data(
    name: str,
    datatype: str,
    element_count: int,
    data: JsonValue,
    *,
    max_byte_size: int,
    reject_oversized: Callable[[], None],
) -> bytes:
    """The wire bytes of `element_count` elements given as JSON; no data are wanted for none.

    `reject_oversized` is called if a number was read as infinity: it raises if a literal was too
    big for a double. Raises ServerError: INVALID_ARG or INTERNAL, as Triton does.
    """
    if datatype in BINARY_ONLY:
        raise invalid_arg(
            f"receiving {datatype} data via JSON is not supported. "
            f"Please use the binary data format for input {name}"
        )
    if datatype != BYTES and datatype not in ELEMENT_SIZE:
        raise invalid_arg(f"invalid datatype for input {name}")
    if element_count == 0:
        return b""
    if datatype != BYTES:
        check_json_byte_size(name, element_count * ELEMENT_SIZE[datatype], max_byte_size)
    elements = flatten(as_array(data, "data"))
    if datatype == BYTES:
        raw = _decode_strings(elements, element_count)
        check_json_byte_size(name, len(raw), max_byte_size)
        return raw
    _check_elements(elements, element_count, datatype)
    if datatype in ("FP32", "FP64"):
        return _to_floats(elements, numpy_dtype(datatype), reject_oversized).tobytes()
    return _to_integers(name, datatype, elements).tobytes()


def check_json_byte_size(name: str, byte_size: int, limit: int) -> None:
    if byte_size > limit:
        raise invalid_arg(
            f"JSON input '{name}' has a byte_size ({byte_size} bytes) that exceeds the maximum "
            f"allowed value of {limit} bytes. Use --http-max-input-size to increase the limit."
        )


def flatten(data: list[JsonValue]) -> list[JsonValue]:
    """The elements of nested arrays, in order. Raises INVALID_ARG at 100 levels.

    Goes level by level, so that it needs no recursion and costs little for flat data.
    """
    elements = data
    for _ in range(NESTING_LIMIT - 1):
        kinds = set(map(type, elements))
        if list not in kinds:
            return elements
        if len(kinds) == 1:
            elements = list(chain.from_iterable(elements))  # type: ignore[arg-type]  # all lists
        else:
            mixed: list[JsonValue] = []
            for element in elements:
                if isinstance(element, list) and not isinstance(element, JsonPairs):
                    mixed.extend(element)
                else:
                    mixed.append(element)
            elements = mixed
    raise invalid_arg(f"Unable to parse 'data': {TOO_DEEP}")


def _too_many(word: str = "Shape") -> ServerError:
    return internal(f"Unable to parse 'data': {word} does not match true shape of 'data' field")


def _too_few() -> ServerError:
    return internal("Failed to parse 'data' field: shape does not match true shape")


def _wrong_element(kind: str) -> ServerError:
    return internal(f"Unable to parse 'data': {kind_mismatch(kind)}")


def _accepts(datatype: str) -> tuple[str, Callable[[JsonValue], bool], frozenset[type]]:
    """Triton's word for the kind of element, the test of one, and types that all pass unseen."""
    if datatype == "BOOL":
        return "boolean", lambda element: isinstance(element, bool), frozenset((bool,))
    if datatype in ("FP32", "FP64"):
        return "number", lambda element: type(element) in (int, float), frozenset((int, float))
    signed = datatype in _SIGNED_RANGE
    low, high = (MIN_INT64, MAX_INT64) if signed else (0, MAX_UINT64)
    return (
        "signed-integer" if signed else "unsigned-integer",
        lambda element: type(element) is int and low <= element <= high,
        frozenset(),
    )


def _check_elements(elements: list[JsonValue], count: int, datatype: str) -> None:
    """Raise what Triton's element by element reader would have met first."""
    kind, accepts, all_pass = _accepts(datatype)
    if len(elements) == count:
        kinds = set(map(type, elements))
        if kinds <= all_pass:
            return
        if kinds == {int} and accepts(min(elements)) and accepts(max(elements)):  # type: ignore[type-var]  # all are int
            return
    for element in elements[:count]:
        if not accepts(element):
            raise _wrong_element(kind)
    raise _too_many() if len(elements) > count else _too_few()


def _to_floats(
    elements: list[JsonValue], dtype: np.dtype[np.generic], reject_oversized: Callable[[], None]
) -> Array:
    try:
        doubles = np.array(elements, dtype=np.float64)
        suspicious = not math.isfinite(sum(elements))  # type: ignore[arg-type]  # all numbers
    except OverflowError:  # an integer literal beyond the doubles, which is refused below
        doubles, suspicious = np.array([np.inf]), True
    if suspicious and np.isinf(doubles).any():
        reject_oversized()
    with np.errstate(over="ignore"):
        return doubles.astype(dtype)


def _to_integers(name: str, datatype: str, elements: list[JsonValue]) -> Array:
    """A little-endian array of elements that `_check_elements` has passed; BOOL too."""
    dtype = numpy_dtype(datatype)
    if datatype == "BOOL":
        return np.array(elements, dtype=dtype)
    low, high = (_SIGNED_RANGE if datatype in _SIGNED_RANGE else _UNSIGNED_RANGE)[datatype]
    wide = np.array(elements, dtype=np.int64 if low < 0 else np.uint64)
    for extreme in (int(wide.min()), int(wide.max())):
        if not low <= extreme <= high:
            # Triton keeps the low bits silently; a wrong number is worse than an error.
            raise invalid_arg(
                f"JSON input '{name}' has value {extreme}, which does not fit datatype {datatype}"
            )
    return wide.astype(dtype)


def _decode_strings(elements: list[JsonValue], count: int) -> bytes:
    parts: list[bytes] = []
    for element in elements[:count]:
        if not isinstance(element, str):
            raise internal(f"Unable to parse JSON bytes array: {kind_mismatch('string')}")
        value = to_bytes(element)
        parts.append(_LENGTH.pack(len(value)))
        parts.append(value)
    if len(elements) > count:
        raise _too_many("shape")
    if len(elements) < count:
        raise _too_few()
    return b"".join(parts)


def encode_data(tensor: Tensor) -> str:
    """A tensor's elements as one flat JSON array. Raises INVALID_ARG for FP16 and BF16.

    A float is written as the double that it is, so that no reader rounds it again.
    """
    if tensor.datatype in ELEMENT_SIZE and tensor.datatype not in BINARY_ONLY:
        text = number_array(tensor.array)
        if text is not None:
            return text
    return dumps(elements_of(tensor))


def elements_of(tensor: Tensor) -> list[bool | int | float | str]:
    """A tensor's elements, row-major, as JSON values. Raises INVALID_ARG for FP16 and BF16.

    Bytes that are not UTF-8 become surrogates, which `json_text.to_bytes` turns back into them.
    """
    if tensor.datatype in BINARY_ONLY:
        raise invalid_arg(
            f"sending {tensor.datatype} data via JSON is not supported. "
            "Please use the binary data format for output"
        )
    flat = tensor.array.ravel()
    if tensor.datatype != BYTES:
        elements: list[bool | int | float | str] = flat.tolist()
        return elements
    return [
        element.decode("utf-8", "surrogateescape") if isinstance(element, bytes) else str(element)
        for element in flat
    ]
