"""Responses as the export and the validation see them."""

from __future__ import annotations

import json

import pytest

from perf_analyzer.inputs import Step, TensorData
from perf_analyzer.requests import Payload
from perf_analyzer.responses import (
    WRONG_OUTPUT,
    WRONG_SIZE,
    Output,
    error_text,
    http_outputs,
    mismatch,
    shown,
)


@pytest.mark.parametrize(
    ("datatype", "raw", "value"),
    [
        ("INT32", b"\x05\0\0\0", 5),
        ("INT32", b"\x05\0\0\0\x06\0\0\0", [5, 6]),
        ("FP32", b"\0\0\x80?", 1.0),
        ("BOOL", b"\1", True),
        ("BYTES", b"\2\0\0\0hi\1\0\0\0x", "hi"),
        ("BYTES", b"\1\0\0\0\xff", "\ufffd"),
        ("INT32", b"", ""),
        ("INT32", None, ""),
        ("FP16", b"\0\0", None),
    ],
)
def test_tensors_are_shown_as_the_original_shows_them(
    datatype: str, raw: bytes | None, value: object
) -> None:
    assert shown(datatype, raw) == value


def test_outputs_of_rest_are_binary_or_json() -> None:
    text = json.dumps(
        {
            "outputs": [
                {"name": "A", "datatype": "INT8", "parameters": {"binary_data_size": 2}},
                {"name": "B", "datatype": "INT16", "data": [1]},
                {"name": "C", "datatype": "BYTES", "data": ["x"]},
                {"name": "D", "datatype": "INT8"},
            ]
        }
    ).encode()

    assert http_outputs((len(text), text + b"hi")) == [
        Output("A", "INT8", b"hi"),
        Output("B", "INT16", b"\1\0"),
        Output("C", "BYTES", b"\1\0\0\0x"),
        Output("D", "INT8", None),
    ]


def test_expected_rows_are_joined() -> None:
    rows = [Step({}, {"OUT": TensorData(each, ())}) for each in (b"a", b"b")]
    payload = Payload(0, 0, rows)

    assert mismatch(payload, [Output("OUT", "INT8", b"ab"), Output("X", "INT8", b"?")]) is None
    assert mismatch(payload, [Output("OUT", "INT8", b"ax")]) == WRONG_OUTPUT
    assert mismatch(payload, [Output("OUT", "INT8", b"abc")]) == WRONG_SIZE
    assert mismatch(payload, [Output("OUT", "INT8", None)]) is None


def test_errors_say_what_the_server_said() -> None:
    assert error_text(b'{"error":"no"}', 400) == "no"
    assert error_text(b"<html>", 502) == "HTTP status 502"
    assert error_text(b"[]", 500) == "HTTP status 500"
