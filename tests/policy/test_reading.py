"""How much a port reads in a turn, by what became of what it read."""

from __future__ import annotations

from actors.policy.reading import (
    LEAST_REQUESTS,
    MOST_REQUESTS,
    REQUESTS_PER_REFUSAL,
    ReadingPace,
)


def test_a_port_reads_all_it_may_while_there_is_room() -> None:
    pace = ReadingPace()
    pace.after(MOST_REQUESTS, 0)
    pace.after(0, 0)
    assert pace.requests == MOST_REQUESTS


def test_a_port_whose_requests_are_refused_reads_half_as_many_each_time() -> None:
    pace = ReadingPace()
    read = []
    while pace.requests > LEAST_REQUESTS:
        pace.after(pace.requests, pace.requests)
        read.append(pace.requests)
    pace.after(pace.requests, pace.requests)
    assert read == [32, 16, 8]
    assert pace.requests == LEAST_REQUESTS


def test_refusals_count_though_nothing_was_read() -> None:
    pace = ReadingPace()
    pace.after(0, 1)
    assert pace.requests == MOST_REQUESTS // 2


def test_a_refusal_now_and_then_changes_nothing() -> None:
    pace = ReadingPace()
    pace.after(REQUESTS_PER_REFUSAL, 1)
    assert pace.requests == MOST_REQUESTS
    pace.after(REQUESTS_PER_REFUSAL - 1, 1)
    assert pace.requests == MOST_REQUESTS // 2


def test_reading_grows_by_one_request_where_there_was_more_to_read() -> None:
    pace = ReadingPace()
    pace.after(1, 1)
    pace.after(pace.requests - 1, 0)
    assert pace.requests == MOST_REQUESTS // 2
    for _ in range(MOST_REQUESTS):
        pace.after(pace.requests, 0)
    assert pace.requests == MOST_REQUESTS
