"""Trace settings and sampling: which requests are traced, and when their traces are complete."""

from __future__ import annotations

import pytest

from actors.policy.tracing import (
    OPENTELEMETRY,
    Close,
    Setting,
    TraceDefaults,
    TracePolicy,
    TraceValues,
)
from protocol.status import ServerError, StatusCode
from protocol.v2_json_control import Clear, TraceUpdate

ON = ("TIMESTAMPS",)
CLEAR = Clear.CLEAR


def policy(
    level: tuple[str, ...] = ON,
    rate: int = 1,
    count: int = -1,
    frequency: int = 0,
    *,
    file: str = "t",
    mode: str = "triton",
) -> TracePolicy:
    return TracePolicy(TraceDefaults(TraceValues(level, rate, count, frequency), mode, file))


def hits(tracing: TracePolicy, requests: int, model: str = "m") -> list[int]:
    """The numbers, from 1, of the requests that are traced."""
    return [
        number
        for number in range(1, requests + 1)
        if tracing.sample(model, has_context=False) is not None
    ]


def sampled(tracing: TracePolicy, model: str = "m") -> Setting:
    setting = tracing.sample(model, has_context=False)
    assert setting is not None
    return setting


def refusal(tracing: TracePolicy, model: str, update: TraceUpdate) -> str:
    with pytest.raises(ServerError) as caught:
        tracing.update(model, update)
    assert caught.value.status is StatusCode.INVALID_ARG
    return caught.value.message


# --- sampling ------------------------------------------------------------------------------------


def test_every_so_many_th_request_is_traced() -> None:
    assert hits(policy(rate=3), 10) == [3, 6, 9]
    assert hits(policy(rate=1), 3) == [1, 2, 3]


def test_50_a_count_shrinks_to_zero_and_ends_the_tracing() -> None:
    tracing = policy(rate=2, count=3)
    assert hits(tracing, 10) == [2, 4, 6]
    assert tracing.of("m").count == 0
    assert not tracing.is_active


@pytest.mark.parametrize(
    "tracing",
    [policy(level=()), policy(rate=0), policy(file=""), policy(count=0)],
    ids=["off", "no rate", "no file", "no count"],
)
def test_what_can_trace_nothing_is_not_active(tracing: TracePolicy) -> None:
    assert not tracing.is_active
    assert hits(tracing, 5) == []


def test_all_models_share_a_count_until_one_has_its_own() -> None:
    tracing = policy(rate=2)
    assert [bool(hits(tracing, 1, model)) for model in "abab"] == [False, True, False, True]
    tracing.update("a", TraceUpdate(rate=3))
    assert hits(tracing, 6, "a") == [3, 6]
    assert hits(tracing, 4, "b") == [2, 4]


def test_a_client_s_own_trace_is_always_taken_up_by_opentelemetry() -> None:
    tracing = policy(rate=0, mode=OPENTELEMETRY, file="")
    assert tracing.is_active
    assert tracing.sample("m", has_context=False) is None
    assert tracing.sample("m", has_context=True) is not None
    counted = policy(rate=2, count=1, mode=OPENTELEMETRY, file="")
    assert all(counted.sample("m", has_context=True) is not None for _ in range(5))
    assert counted.of("m").count == 0
    off = policy(level=(), mode=OPENTELEMETRY)
    assert off.sample("m", has_context=True) is None
    assert policy(rate=2).sample("m", has_context=True) is None


# --- settings ------------------------------------------------------------------------------------


def test_51_a_model_falls_back_to_the_global_setting_and_that_to_the_command_line() -> None:
    tracing = policy(rate=1000)
    tracing.update("m", TraceUpdate(rate=5))
    assert tracing.of("m") == TraceValues(ON, 5)
    tracing.update("", TraceUpdate(level=(), count=7))
    assert tracing.of("") == TraceValues((), 1000, 7)
    assert tracing.of("m") == TraceValues((), 5, 7)
    tracing.update("m", TraceUpdate(rate=CLEAR))
    assert tracing.of("m") == tracing.of("")
    tracing.update("", TraceUpdate(level=CLEAR, count=CLEAR))
    assert tracing.of("m") == TraceValues(ON, 1000)


def test_what_a_model_says_itself_stays_when_the_global_setting_changes() -> None:
    tracing = policy()
    tracing.update("m", TraceUpdate(level=("TENSORS",), log_frequency=9))
    tracing.update("", TraceUpdate(level=(), rate=4, log_frequency=2))
    assert tracing.of("m") == TraceValues(("TENSORS",), 4, -1, 9)


def test_an_overlay_of_nothing_is_none() -> None:
    tracing = policy()
    tracing.update("m", TraceUpdate(rate=CLEAR))
    tracing.update("", TraceUpdate(rate=8))
    assert tracing.of("m").rate == 8


def test_a_count_that_was_given_goes_on_from_where_it_is() -> None:
    tracing = policy(count=5)
    hits(tracing, 2)
    tracing.update("", TraceUpdate(count=3))
    hits(tracing, 1)
    tracing.update("", TraceUpdate(rate=2))
    assert tracing.of("").count == 2
    tracing.update("", TraceUpdate(count=CLEAR))
    assert tracing.of("").count == 5


def test_a_change_begins_to_count_requests_anew() -> None:
    tracing = policy(rate=3)
    assert hits(tracing, 2) == []
    tracing.update("", TraceUpdate(rate=2))
    assert hits(tracing, 2) == [2]


def test_invalid_settings_say_why() -> None:
    text = "Attempting to set invalid trace setting :"
    assert refusal(policy(), "", TraceUpdate(rate=0)) == f"{text}sample rate must be non-zero"
    assert refusal(policy(), "m", TraceUpdate(rate=0)) == f"{text}sample rate must be non-zero"
    nowhere = policy(level=(), file="")
    assert refusal(nowhere, "", TraceUpdate(level=ON)) == f"{text}trace file name is not given"
    assert nowhere.of("") == TraceValues((), 1)


def test_what_leaves_tracing_off_is_taken() -> None:
    tracing = policy(level=(), file="")
    tracing.update("m", TraceUpdate(rate=0))
    assert tracing.of("m").rate == 0
    assert not tracing.is_active


def test_a_model_alone_can_be_traced() -> None:
    tracing = policy(level=())
    assert not tracing.is_active
    tracing.update("m", TraceUpdate(level=ON))
    assert tracing.is_active
    assert hits(tracing, 2, "other") == []
    assert hits(tracing, 2, "m") == [1, 2]
    tracing.update("m", TraceUpdate(level=CLEAR))
    assert not tracing.is_active


# --- when a setting's traces are complete --------------------------------------------------------


def test_the_last_of_a_count_closes_the_setting_into_an_indexed_file() -> None:
    tracing = policy(count=2)
    first, second = sampled(tracing), sampled(tracing)
    assert tracing.ended(first) == []
    assert tracing.ended(second) == [Close(first.collection.number, to_indexed_file=True)]
    assert tracing.update("", TraceUpdate(rate=2)) == [
        Close(first.collection.number, to_indexed_file=False)
    ]


def test_a_setting_that_was_replaced_closes_with_the_last_trace_of_its_own() -> None:
    tracing = policy()
    early = sampled(tracing)
    assert tracing.update("", TraceUpdate(rate=2)) == []
    assert hits(tracing, 1) == []
    late = sampled(tracing)
    assert late.collection.number != early.collection.number
    assert tracing.ended(early) == [Close(early.collection.number, to_indexed_file=False)]


def test_a_global_change_closes_what_models_had_of_it() -> None:
    tracing = policy()
    tracing.update("m", TraceUpdate(rate=2))
    hits(tracing, 1)
    one = sampled(tracing, "m")
    tracing.ended(one)
    closings = tracing.update("", TraceUpdate(log_frequency=3))
    assert Close(one.collection.number, to_indexed_file=False) in closings
    assert tracing.of("m") == TraceValues(ON, 2, -1, 3)


def test_no_change_closes_nothing() -> None:
    tracing = policy()
    sampled(tracing)
    assert tracing.update("", TraceUpdate()) == []
