"""The fast way through JSON: it says what the thorough one says, or leaves it to that."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import json_plain
from protocol.datatypes import Array
from protocol.inference import Tensor
from protocol.json_plain import NOT_PLAIN, PLAIN_DEPTH, number_array, parse_plain
from protocol.json_text import _parse_thoroughly, parse
from protocol.status import ServerError
from protocol.v2_json_tensors import elements_of, encode_data

STRINGS = st.text(st.sampled_from('ab:"\\{}[],é\u0000\U0001f600 '), max_size=6)
SCALARS = st.one_of(
    st.none(), st.booleans(), STRINGS,
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip


def written(value: object) -> str:
    """JSON of a value in which an object is a tuple of pairs, so that keys may repeat."""
    if isinstance(value, tuple):
        members = (f"{json.dumps(key)} :{written(each)}" for key, each in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def narrowed(value: object) -> object:
    """The value with doubles for integers that need more than 64 bits."""
    if isinstance(value, dict):
        return {key: narrowed(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(narrowed, value))
    return float(value) if type(value) is int and not -(2**63) <= value < 2**64 else value


def outcome(parser: Callable[..., object], document: bytes) -> object:
    """What is read, or why nothing is."""
    try:
        return parser(document, pairs=False)
    except ServerError as error:
        return str(error.status), error.message


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.tuples(STRINGS, inner), max_size=4).map(tuple),
    ),
    max_leaves=20,
)


@settings(deadline=None)  # a busy machine is no failure
@given(VALUES)
def test_what_is_plain_is_what_the_thorough_parser_reads(value: object) -> None:
    document = written(value).encode()
    thorough = _parse_thoroughly(document, pairs=False)
    plain = parse_plain(document)
    assert plain is NOT_PLAIN or repr(plain) == repr(thorough)
    assert repr(parse(document)) == repr(thorough)
    assert repr(parse(memoryview(document))) == repr(thorough)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=12), VALUES, st.integers(0, 200))
def test_what_is_malformed_is_refused_in_the_same_words(
    noise: bytes, value: object, position: int
) -> None:
    text = written(value).encode()
    document = text[:position] + noise + text[position + len(noise) :]
    thorough, read = outcome(_parse_thoroughly, document), outcome(parse, document)
    assert repr(read) in (repr(thorough), repr(narrowed(thorough)))


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'[{"a":1,"a":2}]',
        b'{"a":":"}', b"[NaN]", b'"\xff"', b"", b"[1,]", b"1e400", b'"\\ud800"',
        b'[1,{"a":1}]', b'[{"a":1}]', b'{"a":[1,{"a":1}]}',
        b'{"a":' * (PLAIN_DEPTH + 2) + b"1" + b"}" * (PLAIN_DEPTH + 2),
    ],
)  # fmt: skip
def test_what_is_not_plain(document: bytes) -> None:
    assert parse_plain(document) is NOT_PLAIN


@pytest.mark.parametrize(
    "document",
    [b'{"a":1,"b":{"a":2},"c":[{"a":1},{"a":2,"b":[1,2]}]}', b"[1,2.5]", b" {} ", b"null"],
)
def test_what_is_plain(document: bytes) -> None:
    assert parse_plain(document) == json.loads(document)


def test_an_integer_beyond_64_bits_is_a_double() -> None:
    assert repr(parse(b"[18446744073709551615,18446744073709551616]")) == (
        "[18446744073709551615, 1.8446744073709552e+19]"
    )


@pytest.mark.parametrize(
    "extremes",
    [
        *(np.array([0, np.iinfo(kind).min, 1, np.iinfo(kind).max], kind)
          for kind in (np.int8, np.int16, np.int32, np.int64)),
        *(np.array([0, np.iinfo(kind).min, 1, np.iinfo(kind).max], kind)
          for kind in (np.uint8, np.uint16, np.uint32, np.uint64)),
        *(np.array([0, np.finfo(kind).min, 0.1, np.finfo(kind).max], kind)
          for kind in (np.float32, np.float64)),
    ],
    ids=lambda array: str(array.dtype),
)  # fmt: skip
def test_numbers_are_written_as_what_they_are(extremes: Array) -> None:
    square = extremes.reshape(2, 2)
    text = number_array(square)
    assert text is not None
    assert json.loads(text) == extremes.tolist()
    transposed = number_array(square.T)
    assert transposed is not None
    assert json.loads(transposed) == square.T.ravel().tolist()
    assert number_array(square[:0]) == "[]"


def test_a_float_is_the_double_that_it_is() -> None:
    tensor = Tensor.from_array("O", np.array([0.1], np.float32))
    assert encode_data(tensor) == "[0.10000000149011612]"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_left_to_the_thorough_writer(
    number: float, dtype: type[np.floating]
) -> None:
    array = np.array([1, number], dtype)
    assert number_array(array) is None
    assert encode_data(Tensor.from_array("O", array)) == json.dumps(
        array.tolist(), separators=(",", ":")
    )


def test_booleans() -> None:
    tensor = Tensor.from_array("O", np.array([True, False]))
    assert encode_data(tensor) == "[true,false]"


def test_without_the_fast_parser_everything_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.array([1.5, -2], np.float32)
    fast = encode_data(Tensor.from_array("O", array))
    monkeypatch.setattr(json_plain, "orjson", None)
    assert parse_plain(b"{}") is NOT_PLAIN
    assert number_array(array) is None
    assert parse(b'{"a":[1]}') == {"a": [1]}
    tensor = Tensor.from_array("O", array)
    assert encode_data(tensor) == fast == json.dumps(elements_of(tensor), separators=(",", ":"))
