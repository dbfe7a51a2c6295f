"""Responses as they came, turned into outputs: for validation, the export and streams.

Owns how either protocol spells an output. Only what is asked for is parsed: a load that neither
validates nor exports looks at nothing but the status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from perf_analyzer.calls import Body, Buffer
from perf_analyzer.requests import Payload
from protocol.datatypes import BYTES, numpy_dtype
from protocol.proto.messages import ModelInferResponse

WRONG_OUTPUT: Final = "Output doesn't match expected output"
WRONG_SIZE: Final = "Output size doesn't match expected size"

# What an export shows of a tensor.
Shown = str | int | float | bool | None | list[int] | list[float] | list[bool]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a response; `raw` is None where it went to shared memory."""

    name: str
    datatype: str
    raw: bytes | None


def error_text(body: Buffer, status: int) -> str:
    """What a REST error says; the status where it says nothing."""
    try:
        document = json.loads(bytes(body))
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return f"HTTP status {status}"


def http_outputs(body: Body) -> list[Output]:
    """The outputs of a REST response. Raises ValueError for what is none."""
    json_bytes, octets = body
    view = memoryview(octets)
    head = view if json_bytes < 0 else view[:json_bytes]
    position = len(head)
    document = json.loads(bytes(head))
    outputs = []
    for each in document.get("outputs", ()):
        size = each.get("parameters", {}).get("binary_data_size")
        raw: bytes | None = None
        if size is not None:
            raw = bytes(view[position : position + size])
            position += size
        elif "data" in each:
            raw = _encoded(each["datatype"], each["data"])
        outputs.append(Output(each["name"], each["datatype"], raw))
    return outputs


def _encoded(datatype: str, data: list[Any]) -> bytes:
    if datatype == BYTES:
        strings = [str(each).encode("utf-8", "surrogateescape") for each in data]
        return b"".join(len(each).to_bytes(4, "little") + each for each in strings)
    return np.array(data, dtype=numpy_dtype(datatype)).tobytes()


def grpc_outputs(body: Body) -> list[Output]:
    """The outputs of a ModelInferResponse. Raises DecodeError for what is none."""
    message = ModelInferResponse.FromString(bytes(body[1]))
    raw = message.raw_output_contents
    return [
        Output(each.name, each.datatype, raw[place] if place < len(raw) else None)
        for place, each in enumerate(message.outputs)
    ]


def mismatch(payload: Payload, outputs: list[Output]) -> str | None:
    """What is wrong with `outputs`, compared byte by byte with what the data expects."""
    for output in outputs:
        expected = payload.expected(output.name)
        if expected is None or output.raw is None:
            continue
        if len(output.raw) != len(expected):
            return WRONG_SIZE
        if output.raw != expected:
            return WRONG_OUTPUT
    return None


def shown(datatype: str, raw: bytes | None) -> Shown:
    """A tensor as the export has it: a string, a scalar, a flat list, or None if it cannot be."""
    if not raw:
        return ""
    if datatype == BYTES:
        size = int.from_bytes(raw[:4], "little")
        return raw[4 : 4 + size].decode("utf-8", "replace")
    if datatype in {"FP16", "BF16"}:
        return None
    values: list[Any] = np.frombuffer(raw, dtype=numpy_dtype(datatype)).tolist()
    return values[0] if len(values) == 1 else values


def shown_inputs(payload: Payload, datatypes: Mapping[str, str]) -> dict[str, Shown]:
    """The inputs of a request as the export has them."""
    names = payload.rows[0].inputs
    return {
        name: shown(datatypes[name], b"".join(row.inputs[name].raw for row in payload.rows))
        for name in names
    }
