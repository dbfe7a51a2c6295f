"""Tensor data in JSON, both ways, for every datatype."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from protocol.datatypes import DATATYPES, numpy_dtype
from protocol.inference import Tensor
from protocol.json_text import JsonValue, parse, to_bytes
from protocol.status import ServerError, StatusCode, internal
from protocol.v2_json_tensors import decode_data, encode_data, flatten

INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG
GOOD: dict[str, JsonValue] = {"BOOL": True, "BYTES": "x"}  # an element; of the others it is 1


def decode(datatype: str, data: JsonValue, count: int, limit: int = 1 << 20) -> bytes:
    return decode_data(
        "I", datatype, count, data, max_byte_size=limit, reject_oversized=lambda: None
    )


def refusal(datatype: str, data: JsonValue, count: int) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        decode(datatype, data, count)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("datatype", "data", "raw"),
    [
        ("BOOL", [True, False], b"\x01\x00"),
        ("INT8", [-128, 127], b"\x80\x7f"),
        ("UINT8", [0, 255], b"\x00\xff"),
        ("INT16", [-(2**15), 2**15 - 1], struct.pack("<2h", -(2**15), 2**15 - 1)),
        ("UINT16", [0, 2**16 - 1], struct.pack("<2H", 0, 2**16 - 1)),
        ("INT32", [-(2**31), 2**31 - 1], struct.pack("<2i", -(2**31), 2**31 - 1)),
        ("UINT32", [0, 2**32 - 1], struct.pack("<2I", 0, 2**32 - 1)),
        ("INT64", [-(2**63), 2**63 - 1], struct.pack("<2q", -(2**63), 2**63 - 1)),
        ("UINT64", [0, 2**64 - 1], struct.pack("<2Q", 0, 2**64 - 1)),
        ("FP32", [1, 0.1], struct.pack("<2f", 1, 0.1)),
        ("FP64", [-1, 0.1], struct.pack("<2d", -1, 0.1)),
        ("FP32", [float("inf"), 1e300], struct.pack("<2f", float("inf"), float("inf"))),
        ("BYTES", ["", "aé\0"], b"\0\0\0\0\x04\0\0\0a\xc3\xa9\0"),
        ("BYTES", ["\udcff", "x"], b"\x01\0\0\0\xff\x01\0\0\0x"),
    ],
)
def test_elements_become_little_endian_bytes(
    datatype: str, data: list[JsonValue], raw: bytes
) -> None:
    assert decode(datatype, data, 2) == raw
    nested: list[JsonValue] = [[data[0]], [[[]], [data[1]]]]
    assert decode(datatype, nested, 2) == raw
    mixed: list[JsonValue] = [data[0], [data[1]]]
    assert decode(datatype, mixed, 2) == raw


def test_not_a_number_is_a_number() -> None:
    assert np.isnan(np.frombuffer(decode("FP32", parse(b"[NaN]"), 1), "<f4")).all()


@pytest.mark.parametrize("datatype", DATATYPES)
def test_the_number_of_elements_must_fit_the_shape(datatype: str) -> None:
    if datatype in ("FP16", "BF16"):
        return
    one = GOOD.get(datatype, 1)
    word = "shape" if datatype == "BYTES" else "Shape"
    too_many = f"Unable to parse 'data': {word} does not match true shape of 'data' field"
    too_few = "Failed to parse 'data' field: shape does not match true shape"
    assert refusal(datatype, [one] * 3, 2) == (INTERNAL, too_many)
    assert refusal(datatype, [one], 2) == (INTERNAL, too_few)
    assert refusal(datatype, [], 1000) == (INTERNAL, too_few)
    assert decode(datatype, [one], 0) == b""
    assert decode(datatype, None, 0) == b""


@pytest.mark.parametrize(
    ("datatypes", "bad", "text"),
    [
        (
            ("INT8", "INT16", "INT32", "INT64"),
            (1.0, True, "1", None, {}, 2**63, -(2**63) - 1, 10**400),
            "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
        ),
        (
            ("UINT8", "UINT16", "UINT32", "UINT64"),
            (1.0, True, "1", None, -1, 2**64, 10**400),
            (
                "Unable to parse 'data': attempt to access JSON non-unsigned-integer as "
                "unsigned-integer"
            ),
        ),
        (
            ("BOOL",),
            (0, 1, "true", None),
            "Unable to parse 'data': attempt to access JSON non-boolean as boolean",
        ),
        (
            ("FP32", "FP64"),
            (True, "1.0", None, {}),
            "Unable to parse 'data': attempt to access JSON non-number as double",
        ),
        (
            ("BYTES",),
            (1, True, None, {}),
            "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
        ),
    ],
)
def test_an_element_of_the_wrong_kind(
    datatypes: tuple[str, ...], bad: tuple[JsonValue, ...], text: str
) -> None:
    for datatype in datatypes:
        good = GOOD.get(datatype, 1)
        for element in bad:
            assert refusal(datatype, [good, element], 2) == (INTERNAL, text)
            # Whichever comes first is told: a wrong element, or one too many.
            assert refusal(datatype, [good, element, good], 2) == (INTERNAL, text)
            assert "does not match" in refusal(datatype, [good, good, element], 2)[1]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 300), ("INT8", -129), ("UINT8", 256), ("INT32", 2**31), ("UINT32", 2**32)],
)
def test_an_integer_that_does_not_fit_is_refused_not_cut(datatype: str, value: int) -> None:
    assert refusal(datatype, [value, 1], 2) == (
        INVALID,
        f"JSON input 'I' has value {value}, which does not fit datatype {datatype}",
    )


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_json_form(datatype: str) -> None:
    assert refusal(datatype, [1.0], 1) == (
        INVALID,
        (
            f"receiving {datatype} data via JSON is not supported. "
            "Please use the binary data format for input I"
        ),
    )
    with pytest.raises(ServerError) as caught:
        encode_data(Tensor("O", datatype, (1,), raw=b"\0\0"))
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        (
            f"sending {datatype} data via JSON is not supported. "
            "Please use the binary data format for output"
        ),
    )


@pytest.mark.parametrize("datatype", ["", "FP8", "fp32", "TYPE_FP32", "<invalid>"])
def test_an_unknown_datatype(datatype: str) -> None:
    assert refusal(datatype, [1], 1) == (INVALID, "invalid datatype for input I")


def test_nesting_is_limited() -> None:
    text = "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)"
    assert decode("INT8", json.loads("[" * 99 + "1" + "]" * 99), 1) == b"\x01"
    for depth in (100, 500):
        data = json.loads("[" * depth + "1" + "]" * depth)
        assert refusal("INT8", data, 1) == (INVALID, text)
        assert refusal("INT8", [1, data], 2) == (INVALID, text)


def test_flattening_keeps_the_order() -> None:
    assert flatten([1, [2, [3, [], 4]], [[5]], 6]) == [1, 2, 3, 4, 5, 6]


def test_elements_are_printed_flat() -> None:
    def printed(array: object, dtype: str) -> str:
        return encode_data(Tensor.from_array("O", np.array(array, dtype=dtype)))

    assert printed([[1, 2], [3, 4]], "<i4") == "[1,2,3,4]"
    assert printed([True, False], "?") == "[true,false]"
    assert printed([0.1, 1, np.nan, np.inf, -np.inf], "<f4") == (
        "[0.10000000149011612,1.0,NaN,Infinity,-Infinity]"
    )
    assert printed([0.1], "<f8") == "[0.1]"
    assert printed([2**64 - 1], "<u8") == "[18446744073709551615]"
    assert printed([], "<f4") == "[]"
    array = np.array(['a"b', b"\xff\xfe\0", "é"], dtype=object)
    text = encode_data(Tensor.from_array("O", array))
    assert to_bytes(text) == b'["a\\"b","\xff\xfe\\u0000","\xc3\xa9"]'


@pytest.mark.parametrize("datatype", [each for each in DATATYPES if each not in ("FP16", "BF16")])
def test_what_is_printed_is_read_back(datatype: str) -> None:
    rng = np.random.default_rng(7)
    raw = rng.bytes(64)
    if datatype == "BOOL":
        raw = bytes(each & 1 for each in raw)
    if datatype == "BYTES":
        raw = b"".join(struct.pack("<I", 8) + raw[start : start + 8] for start in range(0, 64, 8))
    count = 8 if datatype == "BYTES" else 64 // numpy_dtype(datatype).itemsize
    tensor = Tensor("I", datatype, (count,), raw=raw)
    printed = to_bytes(encode_data(tensor))
    again = decode(datatype, parse(printed), count)
    if datatype.startswith("FP"):
        np.testing.assert_array_equal(np.frombuffer(again, numpy_dtype(datatype)), tensor.array)
    else:
        assert again == raw


@pytest.mark.parametrize("element", [10**400, -(10**400), 1e309])
def test_a_number_that_no_double_holds_is_looked_up_in_the_document(element: float) -> None:
    def reject() -> None:
        raise internal("found it")

    for datatype in ("FP32", "FP64"):
        with pytest.raises(ServerError, match="found it"):
            decode_data("I", datatype, 2, [1.0, element], max_byte_size=99, reject_oversized=reject)
