"""preserve_ordering: responses leave in dispatch order."""

from __future__ import annotations

import pytest

from actors.policy.ordering import Resequencer


def test_34_the_second_batch_is_withheld_until_the_first_has_answered() -> None:
    """Triton makes the slot when a response arrives, so its order is that of completion."""
    order: Resequencer[str] = Resequencer()
    for number in range(4):
        order.reserve(number)
    assert order.offer(2, "c", final=True) == []
    assert order.offer(3, "d", final=True) == []
    assert order.held == 2
    assert order.offer(0, "a", final=True) == ["a"]
    assert order.offer(1, "b", final=True) == ["b", "c", "d"]
    assert order.open_slots == 0
    assert order.held == 0


def test_the_head_streams_its_responses() -> None:
    """In Triton a non-final response leaves an empty head that blocks all later ones."""
    order: Resequencer[str] = Resequencer()
    order.reserve(1)
    order.reserve(2)
    assert order.offer(1, "a0", final=False) == ["a0"]
    assert order.offer(2, "b0", final=False) == []
    assert order.offer(1, "a1", final=False) == ["a1"]
    assert order.offer(1, "a2", final=True) == ["a2", "b0"]
    assert order.offer(2, "b1", final=False) == ["b1"]
    assert order.offer(2, "b2", final=True) == ["b2"]


def test_a_flush_stops_at_the_first_open_slot() -> None:
    order: Resequencer[str] = Resequencer()
    for number in range(4):
        order.reserve(number)
    order.offer(1, "b", final=True)
    order.offer(2, "c0", final=False)
    order.offer(3, "d", final=True)
    assert order.offer(0, "a", final=True) == ["a", "b", "c0"]
    assert order.open_slots == 2
    assert order.held == 1
    assert order.offer(2, "c1", final=True) == ["c1", "d"]


def test_a_request_that_was_refused_in_the_queue_answers_at_once() -> None:
    order: Resequencer[str] = Resequencer()
    order.reserve(1)
    assert order.offer(9, "Request timeout expired", final=True) == ["Request timeout expired"]
    assert order.open_slots == 1


def test_an_answer_after_the_final_one_is_a_defect() -> None:
    order: Resequencer[str] = Resequencer()
    order.reserve(1)
    order.reserve(2)
    order.offer(2, "b", final=True)
    with pytest.raises(AssertionError, match="nothing follows"):
        order.offer(2, "again", final=True)
    with pytest.raises(AssertionError, match="dispatched once"):
        order.reserve(1)


def test_giving_up_hands_back_what_was_held_in_order() -> None:
    order: Resequencer[str] = Resequencer()
    for number in range(3):
        order.reserve(number)
    assert order.offer(2, "c", final=True) == []
    assert order.offer(1, "b1", final=False) == []
    assert order.offer(1, "b2", final=True) == []
    assert order.give_up() == ["b1", "b2", "c"]
    assert order.open_slots == 0
    assert order.held == 0
