"""The bytes between the server and a worker: every message, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import datatypes
from repo.backends.python import layout, wire
from repo.backends.python.extras import (
    NO_EXTRAS,
    RequestExtras,
    pack_call,
    pack_error,
    pack_request_extras,
    pack_trace,
    parse_call,
    parse_error,
    parse_request_extras,
    parse_trace,
)
from repo.backends.python.layout import WireError

MESSAGES: tuple[wire.Message, ...] = (
    wire.Load(
        "m", 1, "/r/m", "/r/m/1", "/r/m/1", "model.py", "{}", "GPU", "m_0", 3, 1, 0, 32, 1, 2, 0
    ),
    wire.Loaded(1),
    wire.LoadFailed("ValueError: é"),
    wire.AutoCompleted(""),
    wire.Finalize(),
    wire.Spilled(1, 4096, 70_000),
    wire.Segment(2),
    wire.ForgetSegment(2),
    wire.Cancel(7),
    wire.Credit(7, 4, b"\0\1"),
    wire.Dropped(7),
    wire.CheckReady(),
    wire.Readiness(0),
    wire.Log(3, "line\nline"),
    wire.BlsCredit(1, 4),
    wire.BlsCancel(1),
    wire.BlsAbandon(1),
    wire.LoadModel(1, "m", "{}", {"file:1/x": b"\xff", "file:y": b""}),
    wire.UnloadModel(1, "m", 1),
    wire.AskModelReady(1, "m", ""),
    wire.OpenFamily(1, "f", "d", 2),
    wire.CloseFamily("f"),
    wire.OpenMetric(1, 2, "f", {"l": b"v"}, b"12345678"),
    wire.CloseMetric(2),
    wire.UpdateMetric(2, wire.OBSERVE, -0.5),
    wire.AskMetric(1, 2),
    wire.Answer(1, "", 2.5),
)


def test_every_message_is_what_it_was() -> None:
    assert {type(message) for message in MESSAGES} == set(wire._TAGS)
    for message in MESSAGES:
        decoded = wire.decode(wire.encode(message))
        assert decoded == message
        assert type(decoded) is type(message)


def test_a_packet_that_is_too_short_or_too_long_is_no_message() -> None:
    for message in MESSAGES:
        packet = wire.encode(message)
        for end in range(len(packet)):
            with pytest.raises(WireError):
                wire.decode(packet[:end])
        with pytest.raises(WireError):
            wire.decode(packet + b"\0")


@given(st.binary(max_size=64))
def test_no_bytes_do_more_than_raise(packet: bytes) -> None:
    try:
        message = wire.decode(packet)
    except WireError:
        return
    assert wire.encode(wire.decode(wire.encode(message))) == wire.encode(message)


@given(
    st.text(max_size=20),
    st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=9)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.text(max_size=9),
)
def test_request_extras_are_what_they_were(
    request_id: str, correlation_id: int | str, flags: int, timeout_us: int, parameters: str
) -> None:
    packed = pack_request_extras(request_id, correlation_id, flags, timeout_us, parameters)
    extras = parse_request_extras(packed)
    expected = RequestExtras(request_id, correlation_id or 0, flags, timeout_us, parameters)
    assert extras == expected
    assert bool(packed) == (expected != NO_EXTRAS)
    call = parse_call(pack_call("m", -1, "trace", packed))
    assert call == ("m", -1, "trace", expected)


def test_a_request_carries_the_name_and_the_context_of_its_trace() -> None:
    packed = pack_request_extras("q", 0, 0, 0, "", trace=pack_trace("17", '{"a":";"}'))
    extras = parse_request_extras(packed)
    assert (extras.id, parse_trace(extras.trace)) == ("q", ("17", '{"a":";"}'))


def test_an_error_keeps_its_code() -> None:
    assert parse_error(pack_error(3, "bad é")) == (3, "bad é")
    with pytest.raises(WireError, match="without a code"):
        parse_error(b"")


@given(st.binary(max_size=40))
def test_no_extras_do_more_than_raise(extras: bytes) -> None:
    for parse in (parse_request_extras, parse_call):
        try:
            parse(extras)
        except WireError:
            continue


def test_both_sides_number_datatypes_alike() -> None:
    assert layout.DATATYPES == datatypes.DATATYPES
    assert layout.ELEMENT_SIZE == datatypes.ELEMENT_SIZE
