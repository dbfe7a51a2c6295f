"""InferTensorContents, the typed form of an input's numbers, turned into raw tensor bytes.

Owns which field belongs to which datatype. It does not compare the number of elements with the
shape: admission does, for every form of input alike.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from protocol.datatypes import BYTES, DATATYPES, numpy_dtype
from protocol.proto.messages import InferTensorContents
from protocol.status import invalid_arg

# Field → (the datatype that it implies when it is the wrong one, all that it may hold).
_FIELDS: Final[dict[str, tuple[str, frozenset[str]]]] = {
    "bool_contents": ("BOOL", frozenset({"BOOL"})),
    "int_contents": ("INT32", frozenset({"INT8", "INT16", "INT32"})),
    "int64_contents": ("INT64", frozenset({"INT64"})),
    "uint_contents": ("UINT32", frozenset({"UINT8", "UINT16", "UINT32"})),
    "uint64_contents": ("UINT64", frozenset({"UINT64"})),
    "fp32_contents": ("FP32", frozenset({"FP32"})),
    "fp64_contents": ("FP64", frozenset({"FP64"})),
    "bytes_contents": (BYTES, frozenset({BYTES})),
}

# These stand in a packed field exactly as they stand in a raw tensor.
_WIRE_IS_RAW: Final = {"bool_contents": 1, "fp32_contents": 4, "fp64_contents": 8}

_LENGTH: Final = struct.Struct("<I")


def raw_contents(
    contents: InferTensorContents, input_name: str, datatype: str, model_name: str
) -> bytes:
    """The raw bytes of an input that came as typed numbers; none when no field is filled.

    INT8, INT16 and their unsigned kin take the low bytes of each number, as Triton does. Raises
    INVALID_ARG when a field does not belong to `datatype`, or when more than one is filled.
    """
    subject = (
        f"unexpected explicit tensor data for input tensor '{input_name}' for model '{model_name}'"
    )
    filled = [name for name in _FIELDS if getattr(contents, name)]
    if not filled:
        return b""
    implied, allowed = _FIELDS[filled[0]]
    if datatype not in allowed:
        expected = datatype if datatype in DATATYPES else "<invalid>"
        raise invalid_arg(f"{subject} of type '{implied}', expected datatype '{expected}'")
    if len(filled) > 1:
        raise invalid_arg(f"{subject}, binary data was already supplied.")
    return _raw(contents, filled[0], datatype)


def _raw(contents: InferTensorContents, field: str, datatype: str) -> bytes:
    if field == "bytes_contents":
        return b"".join(
            part
            for element in contents.bytes_contents
            for part in (_LENGTH.pack(len(element)), element)
        )
    values = getattr(contents, field)
    count = len(values)
    element_size = _WIRE_IS_RAW.get(field)
    if element_size is not None:
        # Serializing copies the packed numbers 300 times faster than Python can iterate them.
        contents.DiscardUnknownFields()
        return contents.SerializeToString()[-count * element_size :]
    wide = "<u8" if field.startswith("uint") else "<i8"
    return np.fromiter(values, dtype=wide, count=count).astype(numpy_dtype(datatype)).tobytes()
