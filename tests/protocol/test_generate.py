"""The generate extension: flat JSON both ways, events, and the load report."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from protocol.generate import (
    EVENT_STREAM_HEADERS,
    NOT_EXACTLY_ONE,
    GenerateReply,
    InputSpec,
    check_content_encoding,
    decode_generate_request,
    encode_event,
    encode_generate_response,
    orca_headers,
)
from protocol.http1_response import JSON_HEADERS
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode, unavailable

INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG
LLM = {"PROMPT": InputSpec("BYTES", (1,)), "STREAM": InputSpec("BOOL", (1,))}
FLOATS = {"I": InputSpec("FP32", (-1,))}


def decode(
    root: object, inputs: dict[str, InputSpec] | None = None, limit: int = 1000
) -> InferRequest:
    body = root if isinstance(root, bytes) else json.dumps(root).encode()
    return decode_generate_request("M", "2", body, inputs or LLM, max_input_size=limit)


def refusal(
    root: object, inputs: dict[str, InputSpec] | None = None, limit: int = 1000
) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        decode(root, inputs, limit)
    return caught.value.status, caught.value.message


def response(**outputs: tuple[list[object], str]) -> InferResponse:
    """Outputs by name, each as its values and their numpy dtype."""
    tensors = [
        Tensor.from_array(name, np.array(values, dtype=dtype))
        for name, (values, dtype) in outputs.items()
    ]
    return InferResponse("M", "1", outputs=tensors)


def test_keys_are_inputs_or_parameters() -> None:
    request = decode({"PROMPT": "hi", "STREAM": False, "id": "7", "temperature": 0.1})
    assert (request.model_name, request.model_version, request.id) == ("M", "2", "7")
    prompt, stream = request.inputs
    assert (prompt.name, prompt.datatype, prompt.shape) == ("PROMPT", "BYTES", (1,))
    assert prompt.raw == b"\2\0\0\0hi"
    assert (stream.shape, stream.raw) == ((1,), b"\0")
    assert request.parameters == {"id": "7", "temperature": 0.1}


def test_members_of_parameters_are_treated_likewise() -> None:
    request = decode({"parameters": {"PROMPT": ["a"], "triton_x": 1, "timeout": 5}})
    assert request.inputs[0].raw == b"\1\0\0\0a"
    assert request.parameters == {"triton_x": 1, "timeout": 5}
    assert request.timeout_us == 0


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((1,), 1, (1,)),
        ((-1, 1), 1, (1, 1)),
        ((-1,), 5, (5,)),
        ((-1, -1), 5, (1, 5)),
        ((-1, 4), 8, (2, 4)),
        ((-1, 4, -1), 8, (1, 4, 2)),
        ((2, 3), 6, (2, 3)),
        ((1,), 2, None),
        ((-1, 4), 6, None),
        ((0,), 1, None),
        ((-1, 0), 4, None),
        ((-2,), 2, None),
        ((), 1, ()),
        ((), 2, None),
    ],
)
def test_the_shape_is_deduced_from_the_number_of_elements(
    shape: tuple[int, ...], count: int, expected: tuple[int, ...] | None
) -> None:
    inputs = {"I": InputSpec("INT8", shape)}
    if expected is None:
        assert refusal({"I": [1] * count}, inputs) == (
            INVALID,
            "The schema can not convert input 'I' to tensor with proper shape",
        )
    else:
        (tensor,) = decode({"I": [1] * count}, inputs).inputs
        assert (tensor.shape, tensor.raw) == (expected, b"\1" * count)


def test_an_empty_value_is_a_tensor_of_no_elements() -> None:
    (tensor,) = decode({"I": []}, FLOATS).inputs
    assert (tensor.shape, tensor.raw) == ((0,), b"")


def test_an_empty_value_does_not_fit_a_fixed_shape() -> None:
    assert refusal({"I": []}, {"I": InputSpec("FP32", (2,))}) == (
        INVALID,
        "The schema can not convert input 'I' to tensor with proper shape",
    )


@pytest.mark.parametrize(
    ("root", "outcome"),
    [
        (
            b'{"PROMPT":"a","id":"q","PROMPT":"b"}',
            (INVALID, "[request id: q] input 'PROMPT' already exists in request"),
        ),
        (
            {"PROMPT": "a", "parameters": {"PROMPT": "b"}},
            (
                INVALID,
                (
                    "Converting keyword: 'parameters': [request id: <id_unknown>] "
                    "input 'PROMPT' already exists in request"
                ),
            ),
        ),
        (
            {"parameters": 7},
            (
                INTERNAL,
                (
                    "Expected JSON object for keyword: 'parameters': "
                    "attempt to access JSON non-object as object"
                ),
            ),
        ),
        (
            {"parameters": {"x": None}},
            (
                INVALID,
                (
                    "Converting keyword: 'parameters': parameter 'x' has invalid type. "
                    "It should be either 'int', 'bool', or 'string'."
                ),
            ),
        ),
        (
            {"x": {}},
            (
                INVALID,
                "parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'.",
            ),
        ),
        (
            {"id": 7},
            (INTERNAL, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ),
        (
            {"STREAM": {"a": True}},
            (INTERNAL, "Unable to parse 'data': attempt to access JSON non-boolean as boolean"),
        ),
        (
            {"STREAM": 1},
            (INTERNAL, "Unable to parse 'data': attempt to access JSON non-boolean as boolean"),
        ),
        (
            {"PROMPT": [["a", "b"]]},
            (
                INTERNAL,
                "Unable to parse 'data': shape does not match true shape of 'data' field",
            ),
        ),
        ([], (INTERNAL, "attempt to get members for non-object")),
        (
            b'{"x":1e999}',
            (
                INTERNAL,
                (
                    "failed to parse the request JSON buffer: "
                    "Number too big to be stored in double. at 5"
                ),
            ),
        ),
        (b"[" * 250_000, (INVALID, "JSON nesting depth exceeds maximum allowed limit (100)")),
    ],
)
def test_bad_requests(root: object, outcome: tuple[StatusCode, str]) -> None:
    assert refusal(root, limit=1 << 20) == outcome


def test_a_model_may_have_an_input_called_parameters() -> None:
    assert refusal({"parameters": {}}, {"parameters": InputSpec("FP32", (1,))}) == (
        INVALID,
        "Keyword 'parameters' for nested schema also given as input tensor name",
    )


def test_the_limit_is_on_all_inputs_together() -> None:
    inputs = {name: InputSpec("FP64", (-1,)) for name in ("I", "J")}
    request = decode({"I": [1] * 5, "J": [2] * 5}, inputs, limit=80)
    assert request.inputs[1].raw == struct.pack("<5d", *[2] * 5)
    assert refusal({"I": [1] * 5, "J": [2] * 6}, inputs, limit=80) == (
        INVALID,
        (
            "request size of 88 bytes with input 'J' of size 48 bytes exceeds the maximum allowed "
            "input size of 80. Use --http-max-input-size to increase the limit."
        ),
    )
    many = json.dumps({"S": [""] * 30}, separators=(",", ":")).encode()
    strings = {"S": InputSpec("BYTES", (-1,))}
    assert "input 'S' of size 120 bytes" in refusal(many, strings, limit=119)[1]
    assert refusal(b" " * 81, inputs, limit=80)[1].startswith("request JSON size of 81 bytes")


def test_compressed_requests_are_refused() -> None:
    for encoding in (None, "", "identity"):
        check_content_encoding(encoding)
    with pytest.raises(ServerError) as caught:
        check_content_encoding("gzip")
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        "Unsupported content-encoding, only 'identity' is supported.",
    )


def test_a_response_is_flat() -> None:
    answer = response(TEXT=(["hi"], "O"), LOGITS=([[0.5, 1]], "<f4"), NONE=([], "<i4"))
    answer.id = "7"
    answer.parameters["k"] = True
    assert encode_generate_response(answer) == (
        b'{"id":"7","model_name":"M","model_version":"1","k":true,"TEXT":"hi",'
        b'"LOGITS":[0.5,1.0],"NONE":[]}'
    )


def test_generate_wants_exactly_one_response() -> None:
    one = GenerateReply()
    one.add(response(TEXT=(["hi"], "O")))
    assert one.finish() == (
        200,
        JSON_HEADERS,
        b'{"model_name":"M","model_version":"1","TEXT":"hi"}',
    )
    failed = GenerateReply()
    failed.add(unavailable("busy"))
    assert failed.finish() == (503, JSON_HEADERS, b'{"error":"busy"}')
    none, two = GenerateReply(), GenerateReply()
    two.add(response())
    two.add(unavailable("busy"))
    error = json.dumps({"error": NOT_EXACTLY_ONE}, separators=(",", ":")).encode()
    assert none.finish() == two.finish() == (200, JSON_HEADERS, error)
    assert NOT_EXACTLY_ONE == (
        "generate expects model to produce exactly 1 response, use generate stream for model "
        "that generates various number of responses"
    )


def test_events() -> None:
    assert EVENT_STREAM_HEADERS == (("Content-Type", "text/event-stream; charset=utf-8"),)
    assert encode_event(response(TEXT=(["a\n\nb"], "O"))) == (
        200,
        b'data: {"model_name":"M","model_version":"1","TEXT":"a\\n\\nb"}\n\n',
    )
    assert encode_event(unavailable("b\nusy")) == (503, b'data: {"error":"b\\nusy"}\n\n')
    half = InferResponse("M", "1", outputs=[Tensor("O", "FP16", (1,), raw=b"\0\0")])
    status, event = encode_event(half)
    assert status == 400
    assert event.startswith(b'data: {"error":"sending FP16 data via JSON is not supported.')


def test_the_load_report() -> None:
    blocks = {"tokens_per": 64.0, "used": 8.0, "max": 16.0, "free": 8.0}
    assert orca_headers("text", blocks) == (
        (
            "endpoint-load-metrics",
            (
                "TEXT named_metrics.kv_cache_utilization=0.500000, "
                "named_metrics.max_token_capacity=1024"
            ),
        ),
    )
    assert orca_headers("json", blocks) == (
        (
            "endpoint-load-metrics",
            'JSON {"named_metrics":{"kv_cache_utilization":0.5,"max_token_capacity":1024}}',
        ),
    )
    assert "utilization=0.000000" in orca_headers("text", {**blocks, "max": 0.0})[0][1]
    for wanted in (None, "", "xml", "TEXT"):
        assert orca_headers(wanted, blocks) == ()
    assert orca_headers("text", {"used": 1.0, "max": 2.0}) == ()
    assert orca_headers("text", {**blocks, "max": float("inf")}) == ()
