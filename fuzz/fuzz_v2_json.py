"""Fuzz every REST body: `python fuzz/fuzz_v2_json.py --seconds 60`.

The first byte of an input chooses the body's kind, the next two the length of its JSON header:
0xFFFF for none, 0xFFFE for one that ends at the first line end, which mutations do not displace.
From 64 on, the bytes choose the members of a document that is JSON at least.

Invariants: whatever a client sends, decoding returns or raises ServerError or HttpError, nothing
else; the form of the buffer, and whether its header is remembered, change nothing; a decoded
request says what Python's own JSON reader sees, and its binary tensors account for every byte of
the body; inflating stays within its limit; and what was decoded can be encoded as its plan asks,
into JSON that Python reads back.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json
import math
from collections.abc import Callable, Sequence
from typing import Final

from fuzz.mutations import Fuzzer, main
from protocol.datatypes import ELEMENT_SIZE
from protocol.generate import InputSpec, decode_generate_request, encode_event
from protocol.http1_error import HttpError
from protocol.http_compression import decode_body
from protocol.inference import (
    InferRequest,
    InferResponse,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.status import ServerError, not_found
from protocol.v2_json import InferDecoder
from protocol.v2_json_control import (
    parse_index,
    parse_load,
    parse_log_update,
    parse_trace_update,
    parse_unload,
)
from protocol.v2_json_response import InferEncoder
from protocol.v2_json_shared_memory import parse_register

LIMIT = 2048
MOST_DIMENSIONS = 32  # of any version of numpy
INPUTS = {
    "PROMPT": InputSpec("BYTES", (1,)),
    "INPUT0": InputSpec("FP32", (-1, 4)),
    "ids": InputSpec("INT64", (-1, -1)),
    "none": InputSpec("BOOL", (0,)),
}

CONTROL: tuple[Callable[[bytes], object], ...] = (
    lambda body: parse_index(body, LIMIT),
    lambda body: parse_load(body, LIMIT),
    lambda body: parse_unload(body, LIMIT),
    lambda body: parse_trace_update(body, LIMIT),
    lambda body: parse_log_update(body, LIMIT),
    lambda body: parse_register("system", "R", body, LIMIT),
    lambda body: parse_register("cuda", "R", body, LIMIT),
)

TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"false", b"NaN", b"-Infinity",
    b"1e999", b"-1", b"1.0", b"0", b"9223372036854775808", b"18446744073709551616", b"\\ud800",
    b"\\udc80", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"[[[[[[[[", b'"id":"x",', b'"data":[1,2]',
    b'"parameters":{"binary_data_size":4}', b'"shared_memory_region":"R"', b'"inputs":[',
    b'"shared_memory_byte_size":4', b'"classification":2', b'"binary_data":true', b'"outputs":[',
    b'{"name":"INPUT0","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}', b'"BYTES"', b'"FP16"',
    b'"BOOL"', b'"INT8"', b'"UINT64"', b'"shape":[0]', b'"shape":[]', b"\x1f\x8b\x08", b"\x78\x9c",
)  # fmt: skip


# Another request of the same client, more or less: other numbers, the same length.
OTHER_NUMBERS: Final = bytes.maketrans(b"15", b"51")


class OneRegion:
    """Shared memory with 16 zero bytes as `R`."""

    def __init__(self) -> None:
        self.content = bytearray(16)

    def read(self, ref: SharedMemoryRef) -> memoryview:
        if ref.region != "R" or ref.offset + ref.byte_size > len(self.content):
            raise not_found("no such region")
        return memoryview(self.content)[ref.offset : ref.offset + ref.byte_size]

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        if tensor.byte_size > ref.byte_size:
            raise not_found("no such region")


def fuzz_one(data: bytes) -> None:
    """Feed one input to the decoder that it chooses; raises if an invariant does not hold."""
    if len(data) < 3:
        return
    kind, length, body = data[0], int.from_bytes(data[1:3], "little"), data[3:]
    if kind < 128 and length == 0xFFFE:
        text, _, tail = body.partition(b"\n")
        _infer(text + tail, str(len(text)))
    elif 64 <= kind < 128:
        text, tail = _document(_Choices(body))
        _infer(text + tail, str(len(text)))
    elif kind < 128:
        _infer(body, None if length == 0xFFFF else str(length))
    elif kind < 192:
        _expect_an_answer(CONTROL[kind % len(CONTROL)], body)
    elif kind < 224:
        _generate(body)
    else:
        for encoding in ("gzip", "deflate"):
            inflated = _expect_an_answer(lambda given: decode_body(given, encoding, LIMIT), body)  # noqa: B023  # called at once
            assert not isinstance(inflated, (bytes, memoryview)) or len(inflated) <= LIMIT


class _Choices:
    """One decision per byte; without bytes left it is the first choice."""

    def __init__(self, data: bytes) -> None:
        self._stream = iter(data)

    def number(self, below: int) -> int:
        return next(self._stream, 0) % below

    def mostly(self, good: Sequence[object], bad: Sequence[object]) -> object:
        """One of `good`, or every sixteenth time one of `bad`."""
        choice = next(self._stream, 0)
        return bad[choice % len(bad)] if choice >= 240 else good[choice % len(good)]


def _document(choices: _Choices) -> tuple[bytes, bytes]:
    """(JSON header, binary tensors): valid JSON, and a plausible request for the most part."""
    tail = bytearray()
    inputs = [_input(choices, index, tail) for index in range(choices.number(4))]
    root: dict[str, object] = {"inputs": inputs}
    if choices.number(2):
        kinds: list[object] = [{}, {"binary_data": True}, {"classification": 1}]
        bad_kinds: list[object] = [{"classification": 2**65}, {"binary_data": 1}, 7]
        root["outputs"] = [
            {
                "name": choices.mostly((f"i{index}", f"j{index}"), ("i0", 7)),
                "parameters": choices.mostly(kinds, bad_kinds),
            }
            for index in range(choices.number(4))
        ]
    if choices.number(2):
        values: list[object] = [True, 1, 2**63, 2**64, 1.5, "x", math.inf, math.nan]
        names = ("a", "b", "sequence_id", "sequence_start", "priority", "binary_data_output")
        root["parameters"] = {
            str(choices.mostly(names, ("triton_x",))): choices.mostly(values, (None, [], {}, -1))
            for _ in range(choices.number(4))
        }
    if choices.number(2):
        root["id"] = choices.mostly(("", "7", "\u00e9\x00"), (7, None))
    return json.dumps(root).encode(), bytes(tail)


def _input(choices: _Choices, index: int, tail: bytearray) -> dict[str, object]:
    datatypes = ("FP32", "INT8", "UINT64", "BOOL", "BYTES", "INT64", "UINT16", "FP64")
    datatype = str(choices.mostly(datatypes, ("FP16", "nope")))
    shapes: list[object] = [[2], [1, 2], [2, 1], [1, 1, 2]]
    shape = choices.mostly(shapes, ([0], [], [2**33, 2**33], [2**62, 2], [-1], [1.0], "x"))
    given: dict[str, object] = {
        "name": choices.mostly((f"i{index}", f"j{index}"), ("i0", "", 7)),
        "datatype": datatype,
        "shape": shape,
    }
    size = 2 * ELEMENT_SIZE.get(datatype, 6)
    match choices.number(4):
        case 0:
            given["parameters"] = {"binary_data_size": size}
            tail += bytes(size)
        case 1:
            given["parameters"] = {
                "shared_memory_region": choices.mostly(("R",), ("S", 7)),
                "shared_memory_byte_size": min(size, 8),
                "shared_memory_offset": choices.mostly((0, 8), (2**64 - 1, 2**64, "0")),
            }
        case 2:
            good: object = {"BOOL": True, "BYTES": "x\u00e9"}.get(datatype, 1)
            data: list[object] = [
                choices.mostly((good,), (-1, 300, 2**64, 0.5, None, "\x00", [])) for _ in range(2)
            ]
            given["data"] = choices.mostly(
                (data, [data], [[data[0]], data[1]]), (None, {}, data * 2)
            )
        case _:
            given["data"] = [choices.mostly(("x",), (1,))] * 2
    return given


def _expect_an_answer(decode: Callable[[bytes], object], body: bytes) -> object:
    try:
        return decode(body)
    except (ServerError, HttpError) as error:
        return error.message


def _infer(body: bytes, header_length: str | None) -> None:
    decoder = InferDecoder(max_input_size=LIMIT)
    outcomes = [_decode(decoder, form, header_length) for form in (body, memoryview(body), body)]
    shown = [_shown(outcome) for outcome in outcomes]
    assert shown[0] == shown[1] == shown[2], "the form of a buffer matters"
    other = body.translate(OTHER_NUMBERS)
    fresh = InferDecoder(max_input_size=LIMIT)
    assert _shown(_decode(decoder, other, header_length)) == _shown(
        _decode(fresh, other, header_length)
    ), "what has come before matters"
    if not isinstance(outcomes[0], ServerError):
        request, plan = outcomes[0]
        if request.raw_input:
            assert request.inputs[0].raw == body
            return
        _compare(body, header_length, request)
        _encode(request, plan, OneRegion())


def _decode(
    decoder: InferDecoder, body: bytes | memoryview, header_length: str | None
) -> tuple[InferRequest, ResponsePlan] | ServerError:
    try:
        return decoder.decode("M", "", body, header_length, regions=OneRegion())
    except ServerError as error:
        return error


def _shown(outcome: tuple[InferRequest, ResponsePlan] | ServerError) -> object:
    """In comparable form."""
    if isinstance(outcome, ServerError):
        return outcome.status, outcome.message
    request, plan = outcome
    tensors = [(t.name, t.datatype, t.shape, bytes(t.raw)) for t in request.inputs]
    return (
        request.id, tensors, request.requested_outputs, repr(request.parameters),
        request.correlation_id, request.sequence_flags, request.priority, request.timeout_us, plan,
    )  # fmt: skip


def _first_wins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(reversed(pairs))


def _compare(body: bytes, header_length: str | None, request: InferRequest) -> None:
    length = len(body) if header_length is None else int(header_length)
    text = body[:length].decode("utf-8", "surrogateescape")
    root = json.loads(text, object_pairs_hook=_first_wins)
    assert request.id == root.get("id", "")
    sizes = 0
    for tensor, given in zip(request.inputs, root["inputs"], strict=True):
        assert (tensor.name, tensor.datatype) == (given["name"], given["datatype"])
        assert list(tensor.shape) == given["shape"]
        parameters = given.get("parameters")
        if isinstance(parameters, dict) and "binary_data_size" in parameters:
            assert tensor.byte_size == parameters["binary_data_size"]
            sizes += tensor.byte_size
        elif "data" in given and tensor.datatype in ELEMENT_SIZE and tensor.shape:
            assert tensor.byte_size == tensor.element_count * ELEMENT_SIZE[tensor.datatype]
    assert length + sizes == len(body), "a byte belongs to nothing"


def _encode(request: InferRequest, plan: ResponsePlan, regions: OneRegion) -> None:
    outputs = [tensor for tensor in request.inputs if _is_whole(tensor)]
    response = InferResponse("M", "1", request.id, outputs, dict(request.parameters))
    try:
        headers, (text, *raws) = InferEncoder().encode(response, plan, regions=regions)
    except ServerError:
        return
    root = json.loads(bytes(text).decode("utf-8", "surrogateescape"))
    assert root["model_name"] == "M"
    told = dict(headers).get("Inference-Header-Content-Length")
    assert told == (str(len(text)) if any(raws) else None)
    sizes = [
        each["parameters"]["binary_data_size"] for each in root["outputs"] if "parameters" in each
    ]
    assert sizes == [len(raw) for raw in raws]


def _is_whole(tensor: Tensor) -> bool:
    """Whether admission would let this tensor through to a model, whose ranks are numpy's."""
    size = ELEMENT_SIZE.get(tensor.datatype)
    return (
        size is not None
        and tensor.byte_size == tensor.element_count * size
        and len(tensor.shape) <= MOST_DIMENSIONS
    )


def _generate(body: bytes) -> None:
    try:
        request = decode_generate_request("M", "", body, INPUTS, max_input_size=LIMIT)
    except ServerError:
        return
    assert sum(tensor.byte_size for tensor in request.inputs) <= LIMIT
    for tensor in request.inputs:
        assert tensor.shape == () or _is_whole(tensor) or tensor.datatype == "BYTES"
    outputs = [tensor for tensor in request.inputs if tensor.shape]
    response = InferResponse("M", "1", request.id, outputs, request.parameters)
    status, event = encode_event(response)
    assert status == 200
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2, "an event is one line"
    json.loads(event[6:].decode("utf-8", "surrogateescape"))


FUZZER = Fuzzer("v2_json", fuzz_one, TOKENS)

if __name__ == "__main__":
    main(FUZZER, __doc__)
