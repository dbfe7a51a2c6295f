"""Triton's datatypes: their names on the wire and in a configuration, numpy dtypes, byte sizes,
and the element codec of BYTES tensors.

BF16 has no numpy dtype: its arrays hold the raw 16 bits as uint16.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

BYTES: Final = "BYTES"

# Wire name → (numpy dtype, bytes per element).
_FIXED: Final[dict[str, tuple[np.dtype[np.generic], int]]] = {
    "BOOL": (np.dtype(np.bool_), 1),
    "UINT8": (np.dtype("u1"), 1),
    "UINT16": (np.dtype("<u2"), 2),
    "UINT32": (np.dtype("<u4"), 4),
    "UINT64": (np.dtype("<u8"), 8),
    "INT8": (np.dtype("i1"), 1),
    "INT16": (np.dtype("<i2"), 2),
    "INT32": (np.dtype("<i4"), 4),
    "INT64": (np.dtype("<i8"), 8),
    "FP16": (np.dtype("<f2"), 2),
    "FP32": (np.dtype("<f4"), 4),
    "FP64": (np.dtype("<f8"), 8),
    "BF16": (np.dtype("<u2"), 2),
}

# Every datatype name, in the order of the DataType enum of model_config.proto (1 = BOOL).
DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES", "BF16",
)  # fmt: skip

ELEMENT_SIZE: Final[dict[str, int]] = {name: size for name, (_, size) in _FIXED.items()}

_FROM_DTYPE: Final[dict[np.dtype[np.generic], str]] = {
    dtype: name for name, (dtype, _) in _FIXED.items() if name != "BF16"
}

_LENGTH = struct.Struct("<I")


def numpy_dtype(datatype: str) -> np.dtype[np.generic]:
    """The numpy dtype of a wire datatype; BYTES is `object`. KeyError for an unknown name."""
    return np.dtype(np.object_) if datatype == BYTES else _FIXED[datatype][0]


def datatype_of(array: Array) -> str:
    """The wire name of an array's dtype (uint16 is UINT16, never BF16).

    Raises ValueError for a dtype that Triton has no name for.
    """
    name = _FROM_DTYPE.get(array.dtype)
    if name is not None:
        return name
    if array.dtype.kind in "OS":
        return BYTES
    name = _FROM_DTYPE.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"numpy dtype {array.dtype} has no Triton datatype")
    return name


def config_name(datatype: str) -> str:
    """`FP32` → `TYPE_FP32`, `BYTES` → `TYPE_STRING`: the name a model configuration uses."""
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def wire_name(config_type: str) -> str:
    """`TYPE_FP32` → `FP32`, `TYPE_STRING` → `BYTES`; an invalid type prints as `<invalid>`."""
    if config_type == "TYPE_STRING":
        return BYTES
    name = config_type.removeprefix("TYPE_")
    return name if name in ELEMENT_SIZE else "<invalid>"


def encode_bytes(array: Array) -> bytes:
    """Every element as a little-endian u32 length and its bytes, row-major.

    Elements that are not bytes are encoded as the UTF-8 of their `str()`, as Triton does.
    """
    parts: list[bytes] = []
    for element in array.ravel():
        value = element if isinstance(element, bytes) else str(element).encode("utf-8")
        parts.append(_LENGTH.pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def decode_bytes(raw: bytes | memoryview, shape: tuple[int, ...]) -> Array:
    """The object array of `shape` whose elements `encode_bytes` wrote into `raw`.

    Raises ValueError when `raw` does not hold exactly the number of elements of `shape`.
    """
    elements: list[bytes] = []
    view = memoryview(raw)
    offset, end = 0, len(view)
    while offset < end:
        if end - offset < 4:
            raise ValueError("incomplete string length indicator")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += 4
        if length > end - offset:
            raise ValueError(
                f"incomplete string data, expecting string of length {length} "
                f"but only {end - offset} bytes available"
            )
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(shape)
