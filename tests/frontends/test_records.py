"""The records between the core and its frontends: all comes through, and nonsense is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.frontends import records
from protocol.status import ServerError, StatusCode, unavailable
from repo.backends.python.layout import WireError

NUMBERS = st.integers(0, 2**64 - 1)
REST = st.dictionaries(
    st.sampled_from(("parameters", "model_version", "correlation_id")),
    st.integers() | st.text(),
    max_size=3,
)
READERS: tuple[Callable[[bytes], object], ...] = (
    records.read_submit,
    records.read_response,
    records.read_error,
    records.read_numbered,
    records.read_credit,
    records.read_message,
)


@given(
    number=NUMBERS,
    level=st.integers(0, 2**31 - 1),
    left=st.floats(allow_nan=False),
    request_id=st.text(),
    rest=REST,
)
def test_a_request_comes_through(
    number: int, level: int, left: float, request_id: str, rest: dict[str, object]
) -> None:
    said = records.Submitted(number, 7, level, 3, (1, (2,)), left, 8, 3, request_id, rest)

    heard = records.read_submit(records.pack_submit(said))

    assert heard == said._replace(shape_key=repr((1, (2,))).encode())


@given(number=NUMBERS, final=st.booleans(), response_id=st.none() | st.text(), rest=REST)
def test_a_response_comes_through(
    number: int, final: bool, response_id: str | None, rest: dict[str, object]
) -> None:
    said = records.Responded(number, final, response_id, rest)

    assert records.read_response(records.pack_response(*said)) == said


@pytest.mark.parametrize("status", StatusCode)
def test_an_error_comes_through(status: StatusCode) -> None:
    error = ServerError(status, "lone \udc80 surrogate")

    number, heard, final = records.read_error(records.pack_error(9, error, final=True))

    assert (number, heard.status, heard.message, final) == (9, status, error.message, True)


def test_small_records_come_through() -> None:
    assert records.read_numbered(records.pack_numbered(records.CANCEL, 5)) == 5
    assert records.read_credit(records.pack_credit(5, 3)) == (5, 3)
    assert records.read_message(records.pack_message({"drain": True})) == {"drain": True}


@pytest.mark.parametrize("read", READERS)
def test_hostile_bytes_are_refused_and_nothing_else(read: Callable[[bytes], object]) -> None:
    whole = [
        records.pack_submit(
            records.Submitted(1, 2, 3, 4, (5,), math.inf, 6, 1, "id", {"priority": 1})
        ),
        records.pack_response(1, True, "id", {"parameters": {"a": 1}}),
        records.pack_error(1, unavailable("why"), final=False),
        records.pack_credit(1, 2),
        records.pack_message({"synced": 1}),
    ]
    dice = random.Random(23)
    for _ in range(3000):
        extras = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(4)):
            extras[dice.randrange(len(extras))] = dice.randrange(256)
        cut = dice.randrange(len(extras) + 1)
        try:
            read(bytes(extras[:cut]))
        except WireError:
            continue


def test_a_record_has_a_kind() -> None:
    with pytest.raises(WireError, match="without a kind"):
        records.kind_of(b"")
