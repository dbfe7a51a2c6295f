"""W3C trace context: what is taken up, and what is passed on."""

from __future__ import annotations

import json

import pytest

from protocol.trace_context import SpanContext, parse_context, propagated

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-00 ",
        f"cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-bring",
    ],
)
def test_a_parent_is_found(header: str) -> None:
    assert parse_context(header) == SpanContext(int(TRACE, 16), int(SPAN, 16))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01\n",
        "0" * 100_000,
    ],
)
def test_what_is_malformed_is_not_there(header: str | None) -> None:
    if header is None or not header.endswith("\n"):
        assert parse_context(header) is None
    else:
        assert parse_context(header) is not None  # blanks around a value are no part of it


def test_the_state_goes_along_unless_it_is_too_long() -> None:
    parent = f"00-{TRACE}-{SPAN}-01"
    found = parse_context(parent, " a=1,b=2 ")
    assert found is not None
    assert found.state == "a=1,b=2"
    long = parse_context(parent, "a=" + "x" * 600)
    assert long is not None
    assert long.state == ""
    assert parse_context(None, "a=1") is None


def test_what_is_passed_on_is_read_back() -> None:
    context = SpanContext(42, 7, 'a="1"')
    carrier = json.loads(propagated(context))
    assert carrier == {"traceparent": f"00-{42:032x}-{7:016x}-01", "tracestate": 'a="1"'}
    assert parse_context(carrier["traceparent"], carrier["tracestate"]) == context
    assert list(json.loads(propagated(SpanContext(1, 1)))) == ["traceparent"]
