"""The response cache: keys, the byte budget, and identical requests in flight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.caching import (
    MAX_FOLLOWERS,
    ResponseCache,
    Role,
    cache_key,
    detached,
    insertion_failure,
    response_bytes,
)
from protocol.inference import InferResponse, Tensor


def tensor(name: str = "IN", raw: bytes = bytes(4), shape: tuple[int, ...] = (1,)) -> Tensor:
    return Tensor(name, "FP32", shape, raw=raw)


def response(count: int) -> InferResponse:
    """A response that counts `count` bytes."""
    return InferResponse("m", "1", outputs=[Tensor("", "", (), raw=bytes(count))])


def test_a_key_depends_on_all_that_the_response_depends_on() -> None:
    keys = {
        cache_key("m", "1", [tensor("A"), tensor("B")], []),
        cache_key("n", "1", [tensor("A"), tensor("B")], []),
        cache_key("m", "2", [tensor("A"), tensor("B")], []),
        cache_key("m", "1", [tensor("A"), tensor("C")], []),
        cache_key("m", "1", [tensor("A")], []),
        cache_key("m", "1", [tensor("A"), tensor("B", b"\1\0\0\0")], []),
        cache_key("m", "1", [tensor("A"), tensor("B", shape=(1, 1))], []),
        cache_key("m", "1", [tensor("A"), Tensor("B", "INT32", (1,), raw=bytes(4))], []),
        cache_key("m", "1", [tensor("A"), tensor("B")], ["OUT"]),
        cache_key("m", "1", [tensor("A"), tensor("B")], ["OUT", "ALSO"]),
    }
    assert len(keys) == 10
    assert all(len(key) == 16 for key in keys)


def test_a_key_does_not_depend_on_order_or_on_the_form_of_a_tensor() -> None:
    array = Tensor.from_array("A", np.zeros(1, np.float32))
    assert cache_key("m", "1", [tensor("A"), tensor("B")], ["X", "Y"]) == cache_key(
        "m", "1", [tensor("B"), array], ["Y", "X"]
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [(("ab", "c"), ("a", "bc")), (("a", ""), ("", "a"))],
)
def test_neighbouring_parts_of_a_key_do_not_run_together(
    left: tuple[str, str], right: tuple[str, str]
) -> None:
    assert cache_key(*left, [], []) != cache_key(*right, [], [])


def test_71_the_second_identical_request_is_a_hit() -> None:
    cache: ResponseCache[str] = ResponseCache(1000)
    assert cache.lookup(b"k", "a") is Role.LEAD
    completion = cache.complete(b"k", response(10))
    assert completion.followers == []
    assert completion.problem is None
    found = cache.lookup(b"k", "b")
    assert isinstance(found, InferResponse)
    assert bytes(found.outputs[0].raw) == bytes(10)
    assert (cache.counters.lookups, cache.counters.hits, cache.counters.misses) == (2, 1, 1)
    assert (cache.used_bytes, cache.entry_count) == (10, 1)


def test_72_a_response_larger_than_the_cache_is_a_miss_each_time() -> None:
    cache: ResponseCache[str] = ResponseCache(200)
    for _ in range(2):
        assert cache.lookup(b"\xab", "a") is Role.LEAD
        problem = cache.complete(b"\xab", response(256)).problem
        assert problem == "Requested byte_size: 256 is greater than total cache size: 200"
    assert (cache.counters.hits, cache.counters.misses, cache.counters.refused) == (0, 2, 2)
    assert problem is not None
    assert insertion_failure(b"\xab", problem) == (
        "Failed to insert key [ab] into response cache: Requested byte_size: 256 is greater than "
        "total cache size: 200"
    )


def test_the_least_recently_used_entries_go_first() -> None:
    cache: ResponseCache[str] = ResponseCache(30, coalesces=False)
    for name in (b"a", b"b", b"c"):
        assert cache.insert(name, response(10)) is None
    assert isinstance(cache.lookup(b"a", ""), InferResponse)
    cache.insert(b"d", response(15))
    assert cache.lookup(b"b", "") is Role.ALONE
    assert cache.lookup(b"c", "") is Role.ALONE
    assert isinstance(cache.lookup(b"a", ""), InferResponse)
    assert cache.counters.evictions == 2
    assert cache.used_bytes == 25
    cache.insert(b"e", response(30))
    assert (cache.entry_count, cache.used_bytes) == (1, 30)
    cache.forget_all()
    assert (cache.entry_count, cache.used_bytes) == (0, 0)


@given(
    budget=st.integers(0, 12),
    events=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 8)), max_size=60),
)
def test_the_cache_agrees_with_a_plain_list(
    budget: int, events: list[tuple[bool, int, int]]
) -> None:
    cache: ResponseCache[str] = ResponseCache(budget, coalesces=False)
    kept: list[tuple[bytes, int]] = []  # least recently used first
    for inserts, name, size in events:
        key = bytes([name])
        known = [entry for entry in kept if entry[0] == key]
        if inserts:
            refused = cache.insert(key, response(size))
            assert (refused is not None) == (not known and size > budget)
            if not known and size <= budget:
                while sum(bytes_kept for _, bytes_kept in kept) + size > budget:
                    kept.pop(0)
                kept.append((key, size))
        else:
            found = cache.lookup(key, "")
            assert isinstance(found, InferResponse) == bool(known)
            for entry in known:
                kept.remove(entry)
                kept.append(entry)
        assert cache.entry_count == len(kept)
        assert cache.used_bytes == sum(bytes_kept for _, bytes_kept in kept) <= budget


def test_the_loser_of_two_concurrent_misses_counts_as_neither() -> None:
    cache: ResponseCache[str] = ResponseCache(100, coalesces=False)
    first = response(10)
    assert cache.lookup(b"k", "a") is Role.ALONE
    assert cache.lookup(b"k", "b") is Role.ALONE
    assert cache.insert(b"k", first) is None
    assert cache.insert(b"k", response(20)) is None
    assert cache.used_bytes == 10
    assert (cache.counters.hits, cache.counters.misses) == (0, 1)


def test_identical_requests_in_flight_execute_once() -> None:
    """Triton executes every one of them and keeps the first response."""
    cache: ResponseCache[str] = ResponseCache(100)
    assert cache.lookup(b"k", "leader") is Role.LEAD
    assert cache.lookup(b"k", "one") is Role.FOLLOW
    assert cache.lookup(b"k", "two") is Role.FOLLOW
    assert cache.lookup(b"other", "else") is Role.LEAD
    assert cache.complete(b"k", response(10)).followers == ["one", "two"]
    assert (cache.counters.hits, cache.counters.misses) == (2, 1)


def test_followers_are_answered_also_when_the_response_cannot_be_kept() -> None:
    cache: ResponseCache[str] = ResponseCache(5)
    cache.lookup(b"k", "leader")
    cache.lookup(b"k", "one")
    completion = cache.complete(b"k", response(10))
    assert completion.followers == ["one"]
    assert completion.problem is not None


def test_a_failed_leader_is_replaced_and_its_failure_is_not_kept() -> None:
    """Triton's source does not look at the status before it inserts."""
    cache: ResponseCache[str] = ResponseCache(100)
    cache.lookup(b"k", "leader")
    cache.lookup(b"k", "one")
    cache.lookup(b"k", "two")
    assert cache.fail(b"k") == "one"
    assert cache.lookup(b"k", "three") is Role.FOLLOW
    assert cache.complete(b"k", response(10)).followers == ["two", "three"]


def test_a_failed_leader_without_followers_leaves_nothing_behind() -> None:
    cache: ResponseCache[str] = ResponseCache(100)
    cache.lookup(b"k", "leader")
    assert cache.fail(b"k") is None
    assert cache.lookup(b"k", "next") is Role.LEAD


def test_a_follower_may_leave() -> None:
    cache: ResponseCache[str] = ResponseCache(100)
    cache.lookup(b"k", "leader")
    cache.lookup(b"k", "one")
    assert cache.leave(b"k", "one")
    assert not cache.leave(b"k", "one")
    assert not cache.leave(b"k", "leader")
    assert not cache.leave(b"unknown", "one")
    assert cache.complete(b"k", response(1)).followers == []


def test_followers_are_bounded() -> None:
    cache: ResponseCache[int] = ResponseCache(100)
    cache.lookup(b"k", -1)
    for caller in range(MAX_FOLLOWERS):
        assert cache.lookup(b"k", caller) is Role.FOLLOW
    assert cache.lookup(b"k", MAX_FOLLOWERS) is Role.ALONE


def test_an_entry_owns_its_bytes_and_nothing_of_the_request() -> None:
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    view = InferResponse("m", "1", id="7", outputs=[Tensor.from_array("OUT", batch[1:2])])
    view.parameters["p"] = 1
    copy = detached(view)
    batch[:] = 0
    assert copy.outputs[0].array.tolist() == [[2.0, 3.0]]
    assert (copy.id, copy.parameters) == ("", {})


def test_the_size_of_a_response_counts_names_shapes_and_bytes() -> None:
    outputs = [Tensor("OUT", "FP32", (1, 2), raw=bytes(8))]
    assert response_bytes(InferResponse("m", "1", outputs=outputs)) == 8 + 3 + 4 + 16
