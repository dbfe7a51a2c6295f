"""Triton's trace file: a JSON array of small objects, several for each trace.

Owns the format: which object says what, and how a tensor's elements are spelled. It turns records
into text; files are somebody else's. Instants become nanoseconds by adding `offset_ns`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, cast

import numpy as np

from protocol.datatypes import BYTES, decode_bytes, numpy_dtype
from protocol.tracing import REQUEST_START, Stamp, Trace, TracedTensor, TraceGroup

_NS: Final = 1_000_000_000


def encode_groups(groups: Iterable[TraceGroup], *, offset_ns: int) -> str:
    """The objects of these groups, separated by commas, without the array's brackets."""
    return ",".join(
        json.dumps(item, separators=(",", ":"))
        for group in groups
        for item in _objects(group, offset_ns)
    )


def _objects(group: TraceGroup, offset_ns: int) -> Iterator[dict[str, object]]:
    for trace in group.traces:
        is_root = trace is group.traces[0]
        if is_root:
            yield from _stamps(trace.id, _before(trace, group.frontend), offset_ns)
        yield _head(trace)
        yield from _stamps(trace.id, trace.stamps, offset_ns)
        if is_root:
            yield from _stamps(trace.id, _after(trace, group.frontend), offset_ns)
        for tensor in trace.tensors:
            yield {"id": trace.id, "activity": tensor.activity, "tensor": _tensor(tensor)}


def _began_at(trace: Trace) -> float:
    return next((at for name, at in trace.stamps if name == REQUEST_START), 0.0)


def _before(trace: Trace, frontend: Iterable[Stamp]) -> Iterator[Stamp]:
    return (stamp for stamp in frontend if stamp[1] <= _began_at(trace))


def _after(trace: Trace, frontend: Iterable[Stamp]) -> Iterator[Stamp]:
    return (stamp for stamp in frontend if stamp[1] > _began_at(trace))


def _head(trace: Trace) -> dict[str, object]:
    head: dict[str, object] = {
        "id": trace.id,
        "model_name": trace.model_name,
        "model_version": trace.model_version,
    }
    if trace.request_id:
        head["request_id"] = trace.request_id
    if trace.parent_id:
        head["parent_id"] = trace.parent_id
    return head


def _stamps(number: int, stamps: Iterable[Stamp], offset_ns: int) -> Iterator[dict[str, object]]:
    for name, at in stamps:
        yield {"id": number, "timestamps": [{"name": name, "ns": round(at * _NS) + offset_ns}]}


def _tensor(tensor: TracedTensor) -> dict[str, str]:
    try:
        data = ",".join(_elements(tensor))
    except (KeyError, ValueError):
        data = ""  # the bytes do not fit the shape, or the datatype is none
    return {
        "name": tensor.name,
        "data": data,
        "shape": ",".join(map(str, tensor.shape)),
        "dtype": tensor.datatype,
    }


def _elements(tensor: TracedTensor) -> Iterator[str]:
    """Numbers as they are read back, truths as 1 and 0, strings in quotes of their own."""
    if tensor.datatype == BYTES:
        for element in decode_bytes(tensor.raw, tuple(tensor.shape)).ravel():
            yield json.dumps(cast("bytes", element).decode("utf-8", "backslashreplace"))
        return
    array = np.frombuffer(tensor.raw, dtype=numpy_dtype(tensor.datatype))
    if tensor.datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif tensor.datatype == "BOOL":
        array = array.astype(np.int8)
    for number in array:
        yield str(number).removesuffix(".0")
