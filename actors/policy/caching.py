"""The response cache: what is kept, what is thrown out, and who waits for whose answer.

Owns the entries, at most a fixed number of bytes, least recently used first out; and the identical
requests in flight, of which one executes (the leader) while the others wait for its answer (the
followers). Never executes anything, and never keeps a failed response.
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from protocol.inference import InferResponse, Tensor

CallerT = TypeVar("CallerT")

# Followers stand outside the scheduler's queue and its limits; further ones queue there as usual.
MAX_FOLLOWERS: Final = 1024

_DIGEST_BYTES: Final = 16  # 128 bits: a collision would answer with somebody else's response
_LENGTH_BYTES: Final = 8


def cache_key(
    model_name: str,
    model_version: str,
    inputs: Iterable[Tensor],
    requested_outputs: Sequence[str],
) -> bytes:
    """Names everything the response depends on: two equal requests have equal keys.

    Inputs count by name, whatever their order, with datatype, shape and bytes. Parameters, request
    id and priority do not count, as in Triton.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def add(part: bytes | memoryview) -> None:
        # Lengths keep neighbours apart: "ab" + "c" is not "a" + "bc".
        digest.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
        digest.update(part)

    add(model_name.encode())
    add(model_version.encode())
    for tensor in sorted(inputs, key=lambda tensor: tensor.name):
        add(tensor.name.encode())
        add(tensor.datatype.encode())
        add(repr(tensor.shape).encode())
        add(tensor.raw)
    add(b"outputs")
    for name in sorted(requested_outputs):
        add(name.encode())
    return digest.digest()


def detached(response: InferResponse) -> InferResponse:
    """A copy that owns its bytes; a view would keep a whole batch's buffer alive unaccounted.

    Parameters and request id belong to one request and are left out.
    """
    outputs = [
        Tensor(tensor.name, tensor.datatype, tensor.shape, raw=bytes(tensor.raw))
        for tensor in response.outputs
    ]
    return InferResponse(response.model_name, response.model_version, outputs=outputs)


def response_bytes(response: InferResponse) -> int:
    """What a response counts against the budget: its outputs' bytes, names and shapes."""
    return sum(
        tensor.byte_size + len(tensor.name) + len(tensor.datatype) + 8 * len(tensor.shape)
        for tensor in response.outputs
    )


class Role(enum.Enum):
    """What a request that missed has to do."""

    LEAD = "lead"  # execute, then `complete` or `fail`
    FOLLOW = "follow"  # wait for the leader
    ALONE = "alone"  # execute, and store the response by `insert`


@dataclass(slots=True)
class CacheCounters:
    """Since the start. A follower that was answered is a hit: it was not executed."""

    lookups: int = 0
    hits: int = 0
    misses: int = 0  # counted with the insertion, whether it succeeds or not
    evictions: int = 0
    refused: int = 0  # larger than the whole cache


@dataclass(frozen=True, slots=True, eq=False)
class Completion(Generic[CallerT]):
    """`followers` get the leader's response; `problem` says why it was not stored."""

    followers: list[CallerT]
    problem: str | None


@dataclass(slots=True, eq=False)
class _Entry:
    response: InferResponse
    size: int


@dataclass(slots=True, eq=False)
class _Flight(Generic[CallerT]):
    leader: CallerT
    followers: list[CallerT] = field(default_factory=list)


class ResponseCache(Generic[CallerT]):
    """`byte_budget` bounds the sum of `response_bytes` of all entries."""

    def __init__(self, byte_budget: int, *, coalesces: bool = True) -> None:
        self._byte_budget = byte_budget
        self._coalesces = coalesces
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._flights: dict[bytes, _Flight[CallerT]] = {}
        self._used = 0
        self.counters = CacheCounters()

    def lookup(self, key: bytes, caller: CallerT) -> InferResponse | Role:
        """The cached response, which becomes the most recently used; or what the caller does."""
        self.counters.lookups += 1
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self.counters.hits += 1
            return entry.response
        if not self._coalesces:
            return Role.ALONE
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = _Flight(caller)
            return Role.LEAD
        if len(flight.followers) >= MAX_FOLLOWERS:
            return Role.ALONE
        flight.followers.append(caller)
        return Role.FOLLOW

    def complete(self, key: bytes, response: InferResponse) -> Completion[CallerT]:
        """The leader succeeded: store its response and let the followers go with it."""
        flight = self._flights.pop(key)
        self.counters.hits += len(flight.followers)
        return Completion(flight.followers, self.insert(key, response))

    def fail(self, key: bytes) -> CallerT | None:
        """The leader failed or gave up: the longest waiting follower executes in its place.

        A failure is the leader's own, so its followers do not share it.
        """
        flight = self._flights[key]
        if not flight.followers:
            del self._flights[key]
            return None
        flight.leader = flight.followers.pop(0)
        return flight.leader

    def leave(self, key: bytes, caller: CallerT) -> bool:
        """A follower was cancelled or ran out of time; False when it was not following."""
        flight = self._flights.get(key)
        if flight is None or caller not in flight.followers:
            return False
        flight.followers.remove(caller)
        return True

    def insert(self, key: bytes, response: InferResponse) -> str | None:
        """Store a response that was executed; returns why it could not be, if so.

        When the key is there already, the first response stays and nothing is counted: the loser
        of two concurrent misses counts neither as hit nor as miss.
        """
        if key in self._entries:
            return None
        self.counters.misses += 1
        size = response_bytes(response)
        if size > self._byte_budget:
            self.counters.refused += 1
            return (
                f"Requested byte_size: {size} is greater than total cache size: {self._byte_budget}"
            )
        while self._used + size > self._byte_budget:
            _, evicted = self._entries.popitem(last=False)
            self._used -= evicted.size
            self.counters.evictions += 1
        self._entries[key] = _Entry(detached(response), size)
        self._used += size
        return None

    def forget_all(self) -> None:
        """Drop every entry; requests in flight go on."""
        self._entries.clear()
        self._used = 0

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def entry_count(self) -> int:
        return len(self._entries)


def insertion_failure(key: bytes, problem: str) -> str:
    """The log line for a response that could not be stored; inference is not affected."""
    return f"Failed to insert key [{key.hex()}] into response cache: {problem}"
