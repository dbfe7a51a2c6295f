"""The REST body of an infer request: framing, members, tensor data and every error text."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from protocol.inference import (
    InferRequest,
    OutputPlan,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.status import ServerError, StatusCode, not_found
from protocol.v2_json import InferDecoder

INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG


class Regions:
    """Shared memory that holds one region of these bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    def read(self, ref: SharedMemoryRef) -> memoryview:
        if ref.region != "R":
            raise not_found(f"Unable to find shared memory region: '{ref.region}'")
        return memoryview(self.content)[ref.offset : ref.offset + ref.byte_size]

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        self.content[ref.offset : ref.offset + tensor.byte_size] = tensor.raw


def entry(**members: object) -> dict[str, object]:
    return {"name": "I", "datatype": "INT32", "shape": [2], **members}


def binary(size: object, **members: object) -> dict[str, object]:
    return entry(parameters={"binary_data_size": size}, **members)


def decode(
    root: object, tail: bytes = b"", *, decoder: InferDecoder | None = None
) -> tuple[InferRequest, ResponsePlan]:
    text = root if isinstance(root, bytes) else json.dumps(root).encode()
    used = decoder or InferDecoder()
    regions = Regions(bytes(range(64)))
    return used.decode("M", "1", text + tail, str(len(text)), regions=regions)


def request_of(*inputs: object, **members: object) -> InferRequest:
    return decode({"inputs": list(inputs), **members})[0]


def refusal(
    root: object, tail: bytes = b"", *, decoder: InferDecoder | None = None
) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        decode(root, tail, decoder=decoder)
    return caught.value.status, caught.value.message


# Framing


def test_json_alone() -> None:
    body = json.dumps({"inputs": [entry(data=[1, -2])]}).encode()
    for given in (body, memoryview(body)):
        request, plan = InferDecoder().decode("M", "3", given, None)
        assert (request.model_name, request.model_version, request.id) == ("M", "3", "")
        assert request.requested_outputs == ()
        assert plan == ResponsePlan((), binary=False)
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype, tensor.shape) == ("I", "INT32", (2,))
        assert tensor.raw == struct.pack("<2i", 1, -2)
        assert not request.raw_input


def test_binary_tensors_follow_in_the_order_of_inputs() -> None:
    inputs = [
        binary(8, name="B"),
        entry(name="J", data=[5, 6]),
        binary(0, name="E", shape=[0]),
        binary(3, name="A", datatype="UINT8", shape=[3]),
    ]
    request, _ = decode({"inputs": inputs}, b"12345678abc")
    assert [(each.name, bytes(each.raw)) for each in request.inputs] == [
        ("B", b"12345678"),
        ("J", struct.pack("<2i", 5, 6)),
        ("E", b""),
        ("A", b"abc"),
    ]


def test_binary_tensors_of_a_view_are_views() -> None:
    text = json.dumps({"inputs": [binary(8)]}).encode()
    body = memoryview(text + bytes(range(8)))
    request, _ = InferDecoder().decode("M", "", body, str(len(text)))
    raw = request.inputs[0].raw
    assert isinstance(raw, memoryview)
    assert np.shares_memory(np.frombuffer(raw, np.uint8), np.frombuffer(body, np.uint8))


def test_too_few_and_too_many_binary_bytes() -> None:
    assert refusal({"inputs": [binary(8)]}, b"12345") == (
        INVALID,
        "unexpected size for input 'I', expecting 3 additional bytes for model 'M'",
    )
    for inputs, tail in (([binary(8)], b"123456789"), ([entry(data=[1, 2])], b"x")):
        assert refusal({"inputs": inputs}, tail) == (
            INVALID,
            "unexpected additional input data for model 'M'",
        )
    assert refusal({"inputs": [binary(2**64 - 1)]})[0] is INVALID


@pytest.mark.parametrize(("body", "length"), [(b"raw bytes", "0"), (b"", None), (b"x", "+0")])
def test_a_header_length_of_zero_makes_the_body_the_input(body: bytes, length: str | None) -> None:
    request, plan = InferDecoder().decode("M", "", body, length)
    assert request.raw_input
    assert request.inputs[0].raw is body
    assert plan == ResponsePlan((), binary=True)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ("11", "inference header size should be in range (0, 10), got: 11"),
        ("-5", "inference header size should be in range (0, 10), got: -5"),
        *[
            (text, f"Unable to parse Inference-Header-Content-Length, got: {text}")
            for text in ("abc", "", "10abc", "0x10", "1e3", "1.0", "5, 5", " 5", "\u0665", "--1")
        ],
        *[
            (
                text,
                (
                    "Unable to parse Inference-Header-Content-Length, value is out of range "
                    f"[ -2147483648, 2147483647 ], got: {text}"
                ),
            )
            for text in ("2147483648", "-2147483649", "99999999999", "9" * 5000)
        ],
    ],
)
def test_a_bad_header_length(length: str, text: str) -> None:
    with pytest.raises(ServerError) as caught:
        InferDecoder().decode("M", "", b"0123456789", length)
    assert (caught.value.status, caught.value.message) == (INVALID, text)


def test_limits_on_json_and_on_a_raw_body() -> None:
    decoder = InferDecoder(max_input_size=100)
    assert refusal(b" " * 101, decoder=decoder) == (
        INVALID,
        (
            "request JSON size of 101 bytes exceeds the maximum allowed input size of 100 bytes. "
            "Use --http-max-input-size to increase the limit."
        ),
    )
    with pytest.raises(ServerError) as caught:
        decoder.decode("M", "", b"x" * 101, "0")
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        (
            "Raw input has a byte_size (101 bytes) that exceeds the maximum allowed value of 100 "
            "bytes. Use --http-max-input-size to increase the limit."
        ),
    )
    assert refusal(b" " * 5000, decoder=decoder)[0] is INVALID
    # Neither limit concerns binary tensors behind a JSON header.
    text = {"inputs": [binary(8000)]}
    request, _ = decode(text, bytes(8000), decoder=InferDecoder(max_input_size=200))
    assert request.inputs[0].byte_size == 8000


@pytest.mark.parametrize(
    ("datatype", "element", "count", "size", "limit"),
    [("INT64", 1, 20, 160, 150), ("BYTES", "", 200, 800, 700)],
)
def test_the_limit_on_json_tensors(
    datatype: str, element: object, count: int, size: int, limit: int
) -> None:
    root = {"inputs": [entry(datatype=datatype, shape=[count], data=[element] * count)]}
    text = json.dumps(root, separators=(",", ":")).encode()
    assert len(text) <= limit
    assert refusal(text, decoder=InferDecoder(max_input_size=limit)) == (
        INVALID,
        (
            f"JSON input 'I' has a byte_size ({size} bytes) that exceeds the maximum allowed value "
            f"of {limit} bytes. Use --http-max-input-size to increase the limit."
        ),
    )
    assert decode(text, decoder=InferDecoder(max_input_size=size))[0].inputs[0].byte_size == size


# Members


def missing(name: str) -> tuple[StatusCode, str]:
    return INTERNAL, (
        f"Unable to parse '{name}': attempt to access non-existing object member '{name}'"
    )


def wrong(name: str, kind: str) -> tuple[StatusCode, str]:
    return INTERNAL, f"Unable to parse '{name}': attempt to access JSON non-{kind} as {kind}"


@pytest.mark.parametrize(
    ("root", "outcome"),
    [
        ({}, missing("inputs")),
        ([], missing("inputs")),
        (b"7", missing("inputs")),
        ({"inputs": {}}, wrong("inputs", "array")),
        ({"inputs": None}, wrong("inputs", "array")),
        ({"id": 7, "inputs": []}, wrong("id", "string")),
        ({"inputs": [7]}, missing("name")),
        ({"inputs": [{}]}, missing("name")),
        ({"inputs": [{"name": 1}]}, wrong("name", "string")),
        ({"inputs": [{"name": "I"}]}, missing("datatype")),
        ({"inputs": [{"name": "I", "datatype": None}]}, wrong("datatype", "string")),
        ({"inputs": [{"name": "I", "datatype": "FP32"}]}, missing("shape")),
        ({"inputs": [entry(shape="x", data=[])]}, wrong("shape", "array")),
        *[
            ({"inputs": [entry(shape=[2, dim], data=[])]}, wrong("shape", "unsigned-integer"))
            for dim in (-5, 1.0, True, "1", None, 2**64)
        ],
        ({"inputs": [binary(-1)]}, wrong("binary_data_size", "unsigned-integer")),
        ({"inputs": [binary(1.5)]}, wrong("binary_data_size", "unsigned-integer")),
        ({"inputs": [], "outputs": 1}, wrong("outputs", "array")),
        ({"inputs": [], "outputs": [{}]}, missing("name")),
        ({"inputs": [], "outputs": [{"name": 1}]}, wrong("name", "string")),
        ({"inputs": [entry(data=7)]}, wrong("data", "array")),
        ({"inputs": [entry(data={})]}, wrong("data", "array")),
    ],
)
def test_a_missing_or_mistyped_member(root: object, outcome: tuple[StatusCode, str]) -> None:
    assert refusal(root) == outcome


@pytest.mark.parametrize(
    ("members", "ending"),
    [
        ({}, "But no field is set"),
        ({"parameters": {}}, "But no field is set"),
        ({"parameters": 7}, "But no field is set"),
        ({"parameters": {"custom": 1}}, "But no field is set"),
        (
            {"data": [], "parameters": {"binary_data_size": 1}},
            "But set 'data' 'binary_data_size'",
        ),
        (
            {"data": [], "parameters": {"shared_memory_region": "R", "binary_data_size": 1}},
            "But set 'data' 'binary_data_size' 'shared_memory_region'",
        ),
    ],
)
def test_an_input_has_exactly_one_source(members: dict[str, object], ending: str) -> None:
    assert refusal({"inputs": [entry(**members)]}) == (
        INVALID,
        (
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            f"'parameters', 'shared_memory_region' in 'parameters'. {ending}"
        ),
    )


def test_data_may_come_with_other_parameters() -> None:
    assert request_of(entry(data=[1, 2], parameters={"x": 1})).inputs[0].byte_size == 8


def test_an_input_or_output_twice() -> None:
    twice = [entry(data=[1, 2]), entry(data=[1, 2])]
    assert refusal({"id": "q", "inputs": twice}) == (
        INVALID,
        "[request id: q] input 'I' already exists in request",
    )
    assert refusal({"inputs": [], "outputs": [{"name": "O"}, {"name": "O"}]}) == (
        INVALID,
        "[request id: <id_unknown>] output 'O' already exists in request",
    )


def test_the_first_of_repeated_keys_wins() -> None:
    text = (
        b'{"id":"first","id":"second","inputs":[{"name":"I","name":"J","datatype":"INT8",'
        b'"shape":[1],"data":[1],"data":[2]}]}'
    )
    request, _ = decode(text)
    assert request.id == "first"
    assert (request.inputs[0].name, request.inputs[0].raw) == ("I", b"\x01")


def test_shared_memory_inputs() -> None:
    where = {"shared_memory_region": "R", "shared_memory_byte_size": 8}
    request = request_of(entry(parameters=where))
    assert bytes(request.inputs[0].raw) == bytes(range(8))
    request = request_of(entry(parameters={**where, "shared_memory_offset": 4}))
    assert bytes(request.inputs[0].raw) == bytes(range(4, 12))
    unknown = {"inputs": [entry(parameters={**where, "shared_memory_region": "X"})]}
    text = "Unable to find shared memory region: 'X'"
    assert refusal(unknown) == (StatusCode.NOT_FOUND, text)
    with pytest.raises(ServerError, match=text):
        InferDecoder().decode("M", "", json.dumps(unknown).encode(), None)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"shared_memory_region": 1}, wrong("shared_memory_region", "string")),
        ({"shared_memory_offset": -1}, wrong("shared_memory_offset", "unsigned-integer")),
        ({"shared_memory_byte_size": "8"}, wrong("shared_memory_byte_size", "unsigned-integer")),
    ],
)
def test_mistyped_shared_memory(change: dict[str, object], outcome: tuple[StatusCode, str]) -> None:
    where = {"shared_memory_region": "R", "shared_memory_byte_size": 8, **change}
    assert refusal({"inputs": [entry(parameters=where)]}) == outcome
    assert refusal({"inputs": [], "outputs": [{"name": "O", "parameters": where}]}) == outcome


def test_shared_memory_needs_its_size() -> None:
    where = {"shared_memory_region": "R"}
    assert refusal({"inputs": [entry(parameters=where)]}) == missing("shared_memory_byte_size")


# Shapes


@pytest.mark.parametrize("source", [{"data": []}, {"parameters": {"binary_data_size": 0}}])
@pytest.mark.parametrize(
    ("shape", "datatype", "text"),
    [
        (
            [16, 2**60 + 2],
            "INT32",
            (
                "invalid shape for input 'I': shape [16,1152921504606846978] causes total element "
                "count to exceed maximum size of 9223372036854775807"
            ),
        ),
        (
            [2, 2**63],
            "INT8",
            (
                "invalid shape for input 'I': shape [2,9223372036854775808] contains one or more "
                "invalid dimensions"
            ),
        ),
        (
            [0, 2**64 - 1],
            "INT8",
            (
                "invalid shape for input 'I': shape [0,18446744073709551615] contains one or more "
                "invalid dimensions"
            ),
        ),
        (
            [4, 2**59 + 2],
            "INT32",
            (
                "byte size overflow for input 'I': element count (2305843009213693960) * data type "
                "size (4) exceeds maximum allowed size (9223372036854775807)"
            ),
        ),
    ],
)
def test_shapes_beyond_64_bits(
    shape: list[int], datatype: str, text: str, source: dict[str, object]
) -> None:
    given = entry(shape=shape, datatype=datatype, **source)
    assert refusal({"inputs": [given]}) == (INVALID, text)


def test_a_large_shape_without_data_allocates_nothing() -> None:
    assert refusal({"inputs": [entry(shape=[2**50], datatype="INT8", data=[1])]})[0] is INVALID
    assert refusal({"inputs": [entry(shape=[2**20], datatype="INT8", data=[1])]}) == (
        INTERNAL,
        "Failed to parse 'data' field: shape does not match true shape",
    )


@pytest.mark.parametrize("shape", [[], [0], [3, 0]])
def test_data_of_an_empty_shape_are_ignored(shape: list[int]) -> None:
    (tensor,) = request_of(entry(shape=shape, data=[1, 2, 3])).inputs
    assert (tensor.shape, tensor.raw) == (tuple(shape), b"")


# Outputs


def plan_of(*outputs: object, **members: object) -> ResponsePlan:
    return decode({"inputs": [], "outputs": list(outputs), **members})[1]


def test_listed_outputs_are_json_unless_they_say_binary() -> None:
    request, plan = decode(
        {
            "inputs": [],
            "parameters": {"binary_data_output": True},
            "outputs": [
                {"name": "A", "parameters": {"binary_data": True}},
                {"name": "B"},
                {"name": "C", "parameters": {"classification": 3}},
                {"name": "D", "parameters": {"classification": 2, "binary_data": True}},
                {"name": "E", "parameters": {"classification": 0, "binary_data": False}},
            ],
        }
    )
    assert request.requested_outputs == ("A", "B", "C", "D", "E")
    assert plan.outputs == (
        OutputPlan("A", binary=True),
        OutputPlan("B", binary=False),
        OutputPlan("C", binary=False, classification=3),
        OutputPlan("D", binary=True, classification=2),
        OutputPlan("E", binary=False),
    )


def test_unlisted_outputs_follow_binary_data_output() -> None:
    for value in (True, False):
        plan = decode({"inputs": [], "parameters": {"binary_data_output": value}})[1]
        assert plan == ResponsePlan((), binary=value)
    assert plan_of() == ResponsePlan((), binary=False)


def test_a_shared_memory_output_is_nothing_else() -> None:
    where = {
        "shared_memory_region": "R",
        "shared_memory_byte_size": 8,
        "shared_memory_offset": 2,
    }
    plan = plan_of({"name": "O", "parameters": {**where, "binary_data": False}})
    assert plan.outputs == (
        OutputPlan("O", binary=False, shared_memory=SharedMemoryRef("R", 2, 8)),
    )
    for other in ({"classification": 0}, {"binary_data": True}):
        parameters = {**where, **other}
        (field,) = other
        assert refusal({"inputs": [], "outputs": [{"name": "O", "parameters": parameters}]}) == (
            INVALID,
            f"Output can't set both 'shared_memory_region' and '{field}'",
        )


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        ({"binary_data": 1}, wrong("binary_data", "boolean")),
        ({"classification": -1}, wrong("classification", "unsigned-integer")),
        ({"classification": True}, wrong("classification", "unsigned-integer")),
    ],
)
def test_mistyped_output_parameters(
    parameters: dict[str, object], outcome: tuple[StatusCode, str]
) -> None:
    root = {"inputs": [], "outputs": [{"name": "O", "parameters": parameters}]}
    assert refusal(root) == outcome


# Remembering


def test_a_header_without_data_is_remembered_and_never_shared() -> None:
    decoder = InferDecoder()
    root = {"inputs": [binary(4)], "parameters": {"a": 1}}
    first, first_plan = decode(root, b"1234", decoder=decoder)
    second, second_plan = decode(root, b"5678", decoder=decoder)
    assert first_plan is second_plan
    assert first.parameters == second.parameters == {"a": 1}
    assert first.parameters is not second.parameters
    assert [bytes(each.inputs[0].raw) for each in (first, second)] == [b"1234", b"5678"]
    assert refusal(root, b"123", decoder=decoder)[0] is INVALID
    assert len(decoder._headers) == 1


def test_a_header_is_remembered_whatever_the_id_of_its_request() -> None:
    decoder = InferDecoder()
    rest = b'"inputs":[],"id":"later"}'
    for text in (b"1", b"", b"a b~", b"2"):
        for start in (b'{"id":"%b",', b'{"id": "%b",'):
            request, _ = decoder.decode("m", "", start % text + rest, None)
            assert request.id == text.decode()
    assert len(decoder._headers) == 1
    assert decoder.decode("m", "", b"{" + rest, None)[0].id == "later"
    with pytest.raises(ServerError, match="must not be followed by other values"):
        decoder.decode("m", "", rest, None)
    anonymous = b'{"inputs":[]}'
    assert decoder.decode("m", "", anonymous, None)[0].id == ""
    decoder.decode("m", "", b'{"id":"x",' + anonymous[1:], None)
    assert decoder.decode("m", "", anonymous, None)[0].id == ""


def test_headers_that_will_not_repeat_are_not_remembered() -> None:
    decoder = InferDecoder()
    for root in (
        {"inputs": [], "id": "x"},
        {"id": 'a"b', "inputs": []},
        {"id": "é", "inputs": []},
        {"inputs": [], "parameters": {"sequence_id": 4}},
        {"inputs": [], "parameters": {"long": "x" * 5000}},
    ):
        decode(root, decoder=decoder)
    assert len(decoder._headers) == 0
    for index in range(1100):
        decode({"inputs": [], "parameters": {"n": index}}, decoder=decoder)
    assert 0 < len(decoder._headers) <= 1024
