"""JSON as Triton reads it: reasons, offsets, surrogates, and depth."""

from __future__ import annotations

import json

import pytest

from protocol.json_text import JsonPairs, _reason, parse, reject_oversized_numbers, to_bytes
from protocol.status import ServerError, StatusCode


def refusal(document: bytes) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        parse(document)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("document", "reason", "offset"),
    [
        (b"", "The document is empty.", 0),
        (b" \n", "The document is empty.", 2),
        (b"nul", "Invalid value.", 3),
        (b"[nux]", "Invalid value.", 3),
        (b"[-]", "Invalid value.", 2),
        (b"[1.5.2]", "Missing a comma or ']' after an array element.", 4),
        (b"[1e2e3]", "Missing a comma or ']' after an array element.", 4),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b" x", "Invalid value.", 1),
        (b"[1,]", "Invalid value.", 3),
        (b"[1,", "Invalid value.", 3),
        (b'{"a":}', "Invalid value.", 5),
        (b"\xef\xbb\xbf", "The document is empty.", 3),
        (b"\xef\xbb\xbf x", "Invalid value.", 4),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "Invalid value.", 3),
        (b"{} {}", "The document root must not be followed by other values.", 3),
        (b"[]]", "The document root must not be followed by other values.", 2),
        (b"{1:2}", "Missing a name for object member.", 1),
        (b'{"a":1,}', "Missing a name for object member.", 7),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b'{"a":1 "b":2}', "Missing a comma or '}' after an object member.", 7),
        (b'{"a":[1],"b":1', "Missing a comma or '}' after an object member.", 14),
        (b"[1 2]", "Missing a comma or ']' after an array element.", 3),
        (b'[{"]":"}"} 2]', "Missing a comma or ']' after an array element.", 11),
        (b"[1", "Missing a comma or ']' after an array element.", 2),
        (b'["a', "Missing a closing quotation mark in string.", 3),
        (b'["a\n"]', "Invalid escape character in string.", 3),
        (b'["\\x"]', "Invalid escape character in string.", 2),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e]", "Miss exponent in number.", 3),
        (b'["\xc3\xa9" x]', "Missing a comma or ']' after an array element.", 6),
        (b'["\xff" x]', "Missing a comma or ']' after an array element.", 5),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\udc80"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800x\\udc00"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800\\ud800\\udc00"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud83d\\ude00\\ude00"]', "The surrogate pair in string is invalid.", 14),
    ],
)
def test_a_malformed_document_is_told_with_reason_and_offset(
    document: bytes, reason: str, offset: int
) -> None:
    assert refusal(document) == (
        StatusCode.INTERNAL,
        f"failed to parse the request JSON buffer: {reason} at {offset}",
    )
    assert refusal(b" " + document)[0] is StatusCode.INTERNAL


@pytest.mark.parametrize(
    "document", [b"[" * 250_000, b'{"ready":' * 250_000, b'{"ready":' + b"[" * 250_000]
)
def test_a_document_too_deep_is_an_error_not_a_crash(document: bytes) -> None:
    assert refusal(document) == (
        StatusCode.INVALID_ARG,
        "JSON nesting depth exceeds maximum allowed limit (100)",
    )


def test_what_json_allows_is_read() -> None:
    assert parse(b' {"a":[1,-2.5,null,true,"\\u00e9"]} \r\n\t') == {"a": [1, -2.5, None, True, "é"]}
    assert parse(b" 7 ") == 7
    assert parse(memoryview(b'"\\ud83d\\ude00 \\\\udc00"')) == "\U0001f600 \\udc00"
    assert str(parse(b"[NaN,-Infinity]")) == "[nan, -inf]"


def test_bytes_that_are_not_utf_8_survive() -> None:
    text = parse(b'"\xff\xed\xa0\x80\xc3"')
    assert isinstance(text, str)
    assert to_bytes(text) == b"\xff\xed\xa0\x80\xc3"


def test_repeated_keys() -> None:
    document = b'{"a":1,"b":{"c":1,"c":2},"a":2}'
    assert parse(document) == {"a": 1, "b": {"c": 1}}
    pairs = parse(document, pairs=True)
    assert isinstance(pairs, JsonPairs)
    assert pairs == [("a", 1), ("b", [("c", 1), ("c", 2)]), ("a", 2)]


def test_an_oversized_number_is_found_outside_of_strings_only() -> None:
    reject_oversized_numbers(json.dumps(["1e999", '"1e999', 1e308, -5]).encode())
    with pytest.raises(ServerError, match=r"Number too big to be stored in double\. at 12"):
        reject_oversized_numbers(b'["1e999","",1e999]')


def test_reasons_that_other_versions_of_the_parser_give() -> None:
    of_object = "Illegal trailing comma before end of object"
    assert _reason(of_object, '{"a":1, }', 6)[::2] == ("Missing a name for object member.", 8)
    assert _reason("Illegal trailing comma before end of array", "[1,]", 2)[::2] == (
        "Invalid value.",
        3,
    )
    assert _reason("something new", "x", 0)[::2] == ("Invalid value.", 0)


def test_an_integer_of_thousands_of_digits_is_too_big() -> None:
    with pytest.raises(ServerError, match=r"Number too big to be stored in double\. at 7$"):
        parse(b'["1e9",' + b"9" * 5000 + b"]")


def test_a_byte_order_mark_is_passed_over() -> None:
    """PowerShell and some editors write one, and Triton takes it."""
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert parse(b"\xef\xbb\xbf [2]") == [2]
