"""Request parameters over HTTP, and headers forwarded as such."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest

from protocol.inference import InferRequest, SequenceFlag
from protocol.status import ServerError, StatusCode
from protocol.v2_json import InferDecoder
from protocol.v2_json_parameters import HeaderForwarding

INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG


RESERVED = (
    "parameter keys starting with 'triton_' are reserved for Triton usage and should not be "
    "specified."
)
INVALID_TYPE = "parameter 'e' has invalid type. It should be either 'int', 'bool', or 'string'."
TOO_LONG = (
    StatusCode.UNSUPPORTED,
    "string correlation ID cannot be longer than 128 characters",
)
NOT_AN_OBJECT = "failed to get request params.: attempt to get members for non-object"


def decode(text: bytes, decoder: InferDecoder | None = None) -> InferRequest:
    return (decoder or InferDecoder()).decode("M", "", text, None)[0]


def parameters_of(parameters: object) -> InferRequest:
    return decode(json.dumps({"inputs": [], "parameters": parameters}).encode())


def refusal(text: bytes) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        decode(text)
    return caught.value.status, caught.value.message


def wrong(name: str, kind: str) -> tuple[StatusCode, str]:
    return INTERNAL, f"Unable to parse '{name}': attempt to access JSON non-{kind} as {kind}"


def test_parameters_with_a_meaning() -> None:
    request = parameters_of(
        {
            "sequence_id": 7,
            "sequence_start": True,
            "sequence_end": True,
            "priority": 2**63,
            "timeout": 5,
        }
    )
    assert request.correlation_id == 7
    assert request.sequence_flags == SequenceFlag.START | SequenceFlag.END
    assert (request.priority, request.timeout_us) == (2**63, 5)
    assert request.parameters == {}
    assert parameters_of({"sequence_id": "s"}).correlation_id == "s"
    assert parameters_of({"sequence_id": 64 * "é"}).correlation_id == 64 * "é"
    assert parameters_of({"sequence_start": False}).sequence_flags == SequenceFlag.NONE


def test_custom_parameters_keep_their_kind() -> None:
    given: Mapping[str, object] = {
        "a": 1, "b": True, "c": 1.5, "d": "x", "headers": "h", "min": -(2**63), "id": "z",
    }  # fmt: skip
    request = parameters_of(given)
    assert request.parameters == given
    assert [type(value) for value in request.parameters.values()] == [
        type(value) for value in given.values()
    ]
    assert request.id == ""
    big = parameters_of({"a": 2**63}).parameters["a"]
    assert isinstance(big, float)
    assert big == 2.0**63
    (infinite,) = parameters_of({"a": math.inf}).parameters.values()
    assert infinite == math.inf


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        ({"sequence_id": -1}, wrong("sequence_id", "string")),
        ({"sequence_id": 129 * "s"}, TOO_LONG),
        ({"sequence_id": 65 * "é"}, TOO_LONG),
        ({"sequence_id": 1.0}, wrong("sequence_id", "string")),
        ({"sequence_id": True}, wrong("sequence_id", "string")),
        ({"sequence_start": 1}, wrong("sequence_start", "boolean")),
        ({"sequence_end": "true"}, wrong("sequence_end", "boolean")),
        ({"priority": -1}, wrong("priority", "unsigned-integer")),
        ({"timeout": 1.5}, wrong("timeout", "unsigned-integer")),
        ({"binary_data_output": 0}, wrong("binary_data_output", "boolean")),
        ({"triton_": 1}, (INVALID, RESERVED)),
        ({"triton_enable_empty_final_response": 1}, (INVALID, RESERVED)),
        ({"e": None}, (INVALID, INVALID_TYPE)),
        ({"e": []}, (INVALID, INVALID_TYPE)),
        ({"e": {}}, (INVALID, INVALID_TYPE)),
        (None, (INTERNAL, NOT_AN_OBJECT)),
        (7, (INTERNAL, NOT_AN_OBJECT)),
        ([], (INTERNAL, NOT_AN_OBJECT)),
    ],
)
def test_bad_parameters(parameters: object, outcome: tuple[StatusCode, str]) -> None:
    text = json.dumps({"inputs": [], "parameters": parameters}).encode()
    assert refusal(text) == outcome


@pytest.mark.parametrize("literal", [b"1e999", b"-1e999", b"1" + b"0" * 400, b"1" + b"0" * 5000])
def test_a_number_beyond_the_doubles(literal: bytes) -> None:
    text = b'{"inputs":[],"parameters":{"a":"1e999","b":' + literal + b"}}"
    assert refusal(text) == (
        INTERNAL,
        "failed to parse the request JSON buffer: Number too big to be stored in double. at 43",
    )


def forwarded(pattern: str, *lines: tuple[str, str]) -> dict[str, object]:
    decoder = InferDecoder(forwarding=HeaderForwarding(pattern))
    request, _ = decoder.decode("M", "", b'{"inputs":[]}', None, header_lines=lines)
    return dict(request.parameters)


def test_matching_headers_become_parameters() -> None:
    lines = (("My_H", "v"), ("other", "w"), ("x-my_h", "u"))
    assert forwarded("my_.*", *lines) == {"My_H": "v", "x-my_h": "u"}
    assert forwarded("^my_", *lines) == {"My_H": "v"}
    assert forwarded("(?-i)my_", *lines) == {"x-my_h": "u"}
    assert forwarded("", *lines) == {}
    assert forwarded(".*", ("Timeout", "1"), ("host", "a")) == {"Timeout": "1", "host": "a"}


def test_headers_reach_a_raw_request_too() -> None:
    decoder = InferDecoder(forwarding=HeaderForwarding("a"))
    request, _ = decoder.decode("M", "", b"xyz", "0", header_lines=[("a", "b")])
    assert request.parameters == {"a": "b"}


@pytest.mark.parametrize(
    "name",
    [
        "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers",
        "binary_data_output", "triton_x",
    ],
)  # fmt: skip
def test_a_reserved_header_is_refused_if_it_matches(name: str) -> None:
    with pytest.raises(ServerError) as caught:
        forwarded(".*", (name, "1"))
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        f"Header '{name}' is reserved for Triton usage and cannot be forwarded.",
    )
    assert forwarded("other", (name, "1")) == {}


def test_a_malformed_pattern_is_told() -> None:
    with pytest.raises(ValueError, match="invalid header forward pattern"):
        HeaderForwarding("(")
