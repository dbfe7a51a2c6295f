"""Responses as REST bodies: key order, where each output goes, headers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from protocol.http1_response import JSON_HEADERS
from protocol.inference import (
    InferResponse,
    OutputPlan,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.status import ServerError, StatusCode
from protocol.v2_json_response import (
    REMEMBERED_HEADERS,
    InferEncoder,
    decoupled_over_http,
    not_a_single_response,
)

JSON, BINARY = ResponsePlan((), binary=False), ResponsePlan((), binary=True)


class Written:
    """Shared memory that keeps what was written to it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, SharedMemoryRef, bytes]] = []

    def read(self, ref: SharedMemoryRef) -> memoryview:
        raise AssertionError("a response reads nothing")

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        self.calls.append((output_name, ref, bytes(tensor.raw)))


def output(name: str = "O", *values: object, dtype: str = "<i4") -> Tensor:
    return Tensor.from_array(name, np.array([list(values)], dtype=dtype))


def response(*outputs: Tensor, **members: object) -> InferResponse:
    answer = InferResponse("M", "1", outputs=list(outputs))
    for name, value in members.items():
        setattr(answer, name, value)
    return answer


def test_json_outputs() -> None:
    answer = response(output("A", 1, 2), output("B", "x", dtype="O"), id="7", parameters={"k": 1.5})
    headers, parts = InferEncoder().encode(answer, JSON)
    assert headers == JSON_HEADERS
    assert b"".join(parts) == (
        b'{"id":"7","model_name":"M","model_version":"1","parameters":{"k":1.5},"outputs":['
        b'{"name":"A","datatype":"INT32","shape":[1,2],"data":[1,2]},'
        b'{"name":"B","datatype":"BYTES","shape":[1,1],"data":["x"]}]}'
    )


def test_members_that_are_empty_are_left_out() -> None:
    _, parts = InferEncoder().encode(response(), JSON)
    assert parts == [b'{"model_name":"M","model_version":"1","outputs":[]}']


def test_binary_outputs_follow_the_json_in_order() -> None:
    answer = response(output("A", 1, 2), output("B", 3))
    headers, (text, *raws) = InferEncoder().encode(answer, BINARY)
    assert text == (
        b'{"model_name":"M","model_version":"1","outputs":['
        b'{"name":"A","datatype":"INT32","shape":[1,2],"parameters":{"binary_data_size":8}},'
        b'{"name":"B","datatype":"INT32","shape":[1,1],"parameters":{"binary_data_size":4}}]}'
    )
    assert headers == (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(text))),
    )
    assert b"".join(raws) == np.array([1, 2, 3], "<i4").tobytes()
    assert raws[0] is answer.outputs[0].raw


def test_binary_outputs_that_are_all_empty_make_plain_json() -> None:
    for plan in (BINARY, ResponsePlan((OutputPlan("O"), OutputPlan("P", classification=0)))):
        headers, parts = InferEncoder().encode(response(output(), output("P")), plan)
        assert headers == JSON_HEADERS
        outputs = json.loads(b"".join(parts))["outputs"]
        assert [each["parameters"]["binary_data_size"] for each in outputs] == [0, 0]


def test_each_listed_output_goes_its_own_way() -> None:
    ref = SharedMemoryRef("R", 2, 64)
    plan = ResponsePlan(
        (
            OutputPlan("J", binary=False),
            OutputPlan("B", binary=True),
            OutputPlan("S", binary=False, shared_memory=ref),
        )
    )
    answer = response(*(output(name, 1, 2) for name in ("S", "B", "UNASKED", "J")))
    regions = Written()
    headers, (text, raw) = InferEncoder().encode(answer, plan, regions=regions)
    assert json.loads(bytes(text))["outputs"] == [
        {"name": "S", "datatype": "INT32", "shape": [1, 2]},
        {"name": "B", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {"name": "J", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]},
    ]
    assert headers[1] == ("Inference-Header-Content-Length", str(len(text)))
    assert bytes(raw) == answer.outputs[1].raw
    assert regions.calls == [("S", ref, bytes(answer.outputs[0].raw))]


def test_shared_memory_that_nobody_registered() -> None:
    plan = ResponsePlan((OutputPlan("O", shared_memory=SharedMemoryRef("R", 0, 8)),))
    with pytest.raises(ServerError) as caught:
        InferEncoder().encode(response(output("O", 1)), plan)
    assert caught.value.status is StatusCode.NOT_FOUND
    assert caught.value.message == "Unable to find shared memory region: 'R'"


@pytest.mark.parametrize("binary", [False, True])
def test_classes_replace_an_output(binary: bool) -> None:
    plan = ResponsePlan((OutputPlan("O", binary=binary, classification=2),))
    scores = Tensor.from_array("O", np.array([[0.25, 0.5, 0.125], [0, 0.5, 1]], "<f4"))
    _, parts = InferEncoder().encode(
        response(scores),
        plan,
        labels=lambda name: ["cat", "dog", "cow"] if name == "O" else None,
        has_batch_dim=True,
    )
    expected = ["0.500000:1:dog", "0.250000:0:cat", "1.000000:2:cow", "0.500000:1:dog"]
    text, *_ = parts
    (told,) = json.loads(bytes(text))["outputs"]
    assert (told["datatype"], told["shape"]) == ("BYTES", [2, 2])
    if binary:
        raw = Tensor("O", "BYTES", (4,), raw=bytes(parts[1]))
        assert [each.decode() for each in raw.array] == expected
    else:
        assert told["data"] == expected
    _, (text, *_) = InferEncoder().encode(response(scores), plan)
    assert json.loads(bytes(text))["outputs"][0]["shape"] == [2]


def test_bytes_that_are_not_utf_8_are_sent_as_they_are() -> None:
    answer = response(Tensor("O", "BYTES", (1,), raw=b"\x02\0\0\0\xff\xfe"))
    _, parts = InferEncoder().encode(answer, JSON)
    assert b'"data":["\xff\xfe"]' in b"".join(parts)


def test_names_are_escaped() -> None:
    answer = response(output('a"\n', 1), id='"')
    for plan in (JSON, BINARY):
        _, parts = InferEncoder().encode(answer, plan)
        assert json.loads(bytes(parts[0]))["outputs"][0]["name"] == 'a"\n'


def test_the_json_of_binary_outputs_is_remembered_by_what_it_says() -> None:
    encoder = InferEncoder()
    first = encoder.encode(response(output("O", 1)), BINARY)
    second = encoder.encode(response(output("O", 2)), BINARY)
    assert first[1][0] is second[1][0]
    assert bytes(second[1][1]) == b"\2\0\0\0"
    for other in (
        response(output("P", 1)),
        response(output("O", 1, 2)),
        response(output("O", 1, dtype="<u4")),
        response(output("O", 1), id="x"),
        response(output("O", 1), parameters={"a": True}),
        InferResponse("N", "1", outputs=[output("O", 1)]),
        InferResponse("M", "2", outputs=[output("O", 1)]),
        InferResponse("M", "1", outputs=[Tensor("O", "INT32", (1,), raw=b"\1\0\0\0")]),
    ):
        assert encoder.encode(other, BINARY)[1][0] != first[1][0]
    for index in range(REMEMBERED_HEADERS + 10):
        encoder.encode(response(output(str(index), 1)), BINARY)
    assert len(encoder._remembered) <= REMEMBERED_HEADERS


def test_a_remembered_response_names_its_request_all_the_same() -> None:
    encoder = InferEncoder()
    _, (anonymous, _) = encoder.encode(response(output("O", 1)), BINARY)
    for name in ("x", 'é"\n', "y" * 300):
        headers, parts = encoder.encode(response(output("O", 1), id=name), BINARY)
        text = bytes(parts[0])
        assert headers[1] == ("Inference-Header-Content-Length", str(len(text)))
        assert list(json.loads(text).items()) == [
            ("id", name), *json.loads(bytes(anonymous)).items(),
        ]  # fmt: skip
        assert InferEncoder().encode(response(output("O", 1), id=name), BINARY) == (headers, parts)
    assert len(encoder._remembered) == 1


def test_what_surrounds_data_in_json_is_remembered() -> None:
    encoder = InferEncoder()
    answers = (
        response(output("O", 1, 2), output('a"\0', 3)),
        response(output("O", 4, 5), output('a"\0', 6)),
        response(output("O", 7, 8), output('a"\0', 9), id='é"\0'),
        response(output("O", 7, 8), output('a"\0', 9), parameters={"p": "\0"}),
        response(),
    )
    for answer in answers:
        assert encoder.encode(answer, JSON) == InferEncoder().encode(answer, JSON)
    assert len(encoder._pieces) == 2
    text = bytes(encoder.encode(answers[2], JSON)[1][0])
    root = json.loads(text)
    assert list(root) == ["id", "model_name", "model_version", "outputs"]
    assert root["id"] == 'é"\0'
    assert [(each["name"], each["data"]) for each in root["outputs"]] == [
        ("O", [7, 8]), ('a"\0', [9]),
    ]  # fmt: skip
    for index in range(REMEMBERED_HEADERS + 10):
        encoder.encode(response(output(str(index), 1)), JSON)
    assert len(encoder._pieces) <= REMEMBERED_HEADERS


def test_the_texts_of_responses_that_there_cannot_be() -> None:
    assert decoupled_over_http().http_status == 501
    assert decoupled_over_http().message == (
        "HTTP end point doesn't support models with decoupled transaction policy"
    )
    assert not_a_single_response(2).status is StatusCode.INTERNAL
    assert not_a_single_response(2).message == "expected a single response, got 2"
