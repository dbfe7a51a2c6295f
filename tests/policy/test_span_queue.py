"""When spans are sent, and how many at once."""

from __future__ import annotations

import math

from actors.policy.span_queue import SpanQueue
from protocol.trace_spans import Span


def spans(*names: str) -> list[Span]:
    return [Span(name, 1, 2, 0, False, "", {}, (), 0.0, 0.0) for name in names]


def names(batches: list[list[Span]]) -> list[str]:
    return ["".join(span.name for span in batch) for batch in batches]


def queue(max_queue: int = 8, delay: float = 5.0, max_batch: int = 3) -> SpanQueue:
    return SpanQueue(max_queue=max_queue, delay_seconds=delay, max_batch=max_batch)


def test_the_first_span_waits_for_the_delay_and_takes_the_others_along() -> None:
    waiting = queue()
    assert waiting.next_wake == math.inf
    waiting.add(spans("a"), 1.0)
    waiting.add(spans("b"), 3.0)
    assert waiting.next_wake == 6.0
    assert waiting.take(5.75) == []
    assert names(waiting.take(6.0)) == ["ab"]
    assert waiting.next_wake == math.inf


def test_a_whole_batch_is_sent_at_once_and_what_is_left_waits() -> None:
    waiting = queue()
    waiting.add(spans("a", "b"), 0.0)
    waiting.add(spans("c", "d"), 2.0)
    assert waiting.next_wake == -math.inf
    assert names(waiting.take(2.0)) == ["abc"]
    assert waiting.next_wake == 7.0
    assert names(waiting.take(7.0)) == ["d"]


def test_what_is_due_goes_in_batches() -> None:
    waiting = queue(delay=1.0)
    waiting.add(spans(*"abcdefg"), 0.0)
    assert names(waiting.take(1.0)) == ["abc", "def", "g"]


def test_a_full_queue_drops_and_counts() -> None:
    waiting = queue(max_queue=4, max_batch=4)
    waiting.add(spans(*"abcdef"), 0.0)
    assert (len(waiting), waiting.dropped) == (4, 2)


def test_at_the_end_everything_goes() -> None:
    waiting = queue()
    waiting.add(spans("a"), 0.0)
    assert names(waiting.take(0.0, everything=True)) == ["a"]
    assert waiting.take(9.0, everything=True) == []
