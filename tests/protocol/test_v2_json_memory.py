"""A remembered header says what it says when parsed again, whatever its text leaves out."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.inference import InferRequest
from protocol.status import ServerError
from protocol.v2_json import InferDecoder
from protocol.v2_json_header import parse_header
from protocol.v2_json_memory import REMEMBERED_HEADERS, HeaderMemory

LIMIT = 1 << 20


def said(text: bytes, decoder: InferDecoder) -> object:
    """What a decoder makes of a document, in comparable form."""
    try:
        request, plan = decoder.decode("m", "", text, None)
    except ServerError as error:
        return error.status, error.message
    return seen(request), plan


def seen(request: InferRequest) -> object:
    tensors = [(one.name, one.datatype, one.shape, bytes(one.raw)) for one in request.inputs]
    return request.id, tensors, request.parameters, request.requested_outputs, request.priority


def document(
    *data: object, datatype: str = "FP32", shape: object = (2,), **members: object
) -> bytes:
    inputs = [
        {"name": f"I{index}", "shape": shape, "datatype": datatype, "data": each}
        for index, each in enumerate(data)
    ]
    return json.dumps({**members, "inputs": inputs}).encode()


def test_numbers_are_left_out_of_what_is_remembered() -> None:
    memory = HeaderMemory(LIMIT)
    first = memory.read(document([1, 2.5], [3, 4]))
    second = memory.read(document([5, 6], [7.25, -0.0]))
    assert first[2] == [struct.pack("<2f", 1, 2.5), struct.pack("<2f", 3, 4)]
    assert second[2] == [struct.pack("<2f", 5, 6), struct.pack("<2f", 7.25, -0.0)]
    assert len(memory) == 1
    third = memory.read(document([0, 0], [7, 8]))
    assert third[0] is second[0]
    assert not any(each.data for each in third[0].inputs), "what is kept is small"


def test_an_id_in_front_is_left_out_as_well() -> None:
    memory = HeaderMemory(LIMIT)
    memory.read(document([1, 2], id="a"))
    assert memory.read(document([3, 4], id="b"))[1:] == ("b", [struct.pack("<2f", 3, 4)])
    assert len(memory) == 1
    assert not memory.read(document([3, 4]))[1]
    assert len(memory) == 2


DATATYPES = {
    "FP32": "f", "FP64": "d", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_kind_of_number(datatype: str) -> None:
    memory = HeaderMemory(LIMIT)
    for numbers in ([1, 2], [3, 100]):
        header, _, data = memory.read(document(numbers, datatype=datatype))
        assert data == [struct.pack(f"<2{DATATYPES[datatype]}", *numbers)]
        assert header.inputs[0].datatype == datatype


UNUSUAL = (
    b"[1, 2, 3]", b"[1]", b"[]", b"[1, true]", b"[1, null]", b'[1, "2"]', b"[[1, 2]]", b"[1, [2]]",
    b"[1, 2.5]", b"[1, -3]", b"[1, 300]", b"[1, 1e39]", b"[1, 1e999]", b"[1, NaN]", b"[1, 2,]",
    b"[01, 2]", b"[1 2]", b"[1, 1e400]", b"[1, 99999999999999999999]", b"[1, {}]", b'["]", 2]',
    b"[1, 2", b"1", b"[ 1 ,\n2 ]",
)  # fmt: skip


@pytest.mark.parametrize("datatype", [*DATATYPES, "BOOL", "BYTES", "FP16"])
def test_a_header_that_is_known_refuses_and_takes_the_same(datatype: str) -> None:
    template = document("DATA", datatype=datatype)
    used = InferDecoder()
    said(template.replace(b'"DATA"', b"[1, 2]"), used)
    for data in UNUSUAL:
        text = template.replace(b'"DATA"', data)
        assert said(text, used) == said(text, InferDecoder()), text


TRAPS = (
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"x\\"data":[5],"data": %b}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":  [9],"data":%b}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":%b,"data":[1]}]}',
    b'{"inputs":[{"name":"\\"data\\":[1]","datatype":"FP32","shape":[1],"data":%b}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":%b}],"data":[7]}',
    b'{"data":%b,"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[3]}]}',
    b'{"parameters":{"data":1},"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":%b}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[0],"data":%b}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":%b}],"a":"\\"data\\":*"}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":*},{"data":%b}]}',
)  # fmt: skip


@pytest.mark.parametrize("template", TRAPS)
def test_what_looks_like_data_is_not_taken_for_it(template: bytes) -> None:
    used = InferDecoder()
    for array in (b"[1]", b"[2]", b"[]", b"[1,2]", b"*", b'["an array of numbers"]', b"[4]"):
        text = template % array
        assert said(text, used) == said(text, InferDecoder()), text


def test_a_text_that_is_remembered_in_part_is_no_document() -> None:
    used = InferDecoder()
    whole = document([1, 2], [3, 4])
    said(whole, used)
    for text in (
        whole.replace(b'"data": [1, 2]', b'"data":*'),
        whole.replace(b'"data": [1, 2]', b'"data":*').replace(b'"data": [3, 4]', b'"data":*'),
        whole[1:],
    ):
        assert isinstance(said(text, used), tuple)
        assert said(text, used) == said(text, InferDecoder())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(st.integers(-300, 300), st.floats(width=32, allow_nan=False)), max_size=3
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([*DATATYPES, "BOOL"]),
)
def test_any_numbers_are_read_alike(lists: list[list[int | float]], datatype: str) -> None:
    used = InferDecoder()
    for numbers in lists:
        text = document(numbers, datatype=datatype)
        assert said(text, used) == said(text, InferDecoder())


def test_what_is_remembered_is_bounded() -> None:
    memory = HeaderMemory(LIMIT)
    for index in range(REMEMBERED_HEADERS + 10):
        memory.read(document([1, 2], parameters={"n": index}))
    assert 0 < len(memory) <= REMEMBERED_HEADERS
    memory = HeaderMemory(LIMIT)
    memory.read(document([1, 2], parameters={"long": "x" * 5000}))
    memory.read(document([1, 2], parameters={"sequence_id": 7}))
    assert len(memory) == 0
    long = document([1.5] * 5000, shape=[5000])
    for _ in range(2):
        assert memory.read(long)[2] == [parse_header(long, LIMIT).inputs[0].data]
    assert len(memory) == 1, "numbers do not count as text"
    with pytest.raises(ServerError, match="exceeds the maximum allowed input size of 100 bytes"):
        HeaderMemory(100).read(long)
