"""The worked timelines of Triton's dynamic batcher, T1 to T17, in milliseconds.

One table for two players: `tests/policy/test_timelines.py` steps the policy, and
`tests/simulation/test_timelines.py` runs the whole server in virtual time. One instance, whose
executions take `duration`, whatever their size. Where Triton gives a range because it
polls, the table gives the instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actors.policy.actions import ClosedBy
from actors.policy.batching import RefusalCause
from repo.model_config import BatchingSettings, QueuePolicySettings


@dataclass(frozen=True)
class Arrival:
    """One request; `shape` tells whether two may share a batch, `timeout` 0 is none."""

    at: float
    name: str
    size: int = 1
    shape: str = "X"
    level: int = 0
    timeout: float = 0.0


@dataclass(frozen=True)
class Timeline:
    """A configuration, what arrives, and what comes of it.

    `batches` tells when each execution begins, and which requests are in it, by name or, where
    that is the point, only how many elements.
    """

    name: str
    settings: BatchingSettings
    arrivals: tuple[Arrival, ...]
    batches: tuple[tuple[float, str | int], ...]
    refused: tuple[tuple[float, str, RefusalCause], ...] = ()
    closed_by: tuple[ClosedBy, ...] = ()  # of each execution; empty where it is not the point
    duration: float = 0.0


def _settings(
    preferred: tuple[int, ...],
    max_batch: int,
    delay: float = 0.0,
    *,
    policy: QueuePolicySettings | None = None,
    levels: int = 0,
    level_policies: dict[int, QueuePolicySettings] | None = None,
) -> BatchingSettings:
    """Times in milliseconds, as throughout this module; the default level is the last."""
    return BatchingSettings(
        max_batch_size=max_batch,
        preferred_batch_sizes=preferred,
        max_queue_delay_seconds=delay,
        priority_levels=levels,
        default_priority_level=levels,
        default_policy=policy or QueuePolicySettings(),
        level_policies=level_policies or {},
    )


def _one_by_one(first: int, last: int) -> tuple[Arrival, ...]:
    return tuple(Arrival(at, f"r{at}") for at in range(first, last + 1))


_OVERRIDE: Final = QueuePolicySettings("REJECT", 1000, allow_timeout_override=True)
_A_ALONE_THEN_BC: Final = (Arrival(0, "a"), Arrival(200, "b", 2), Arrival(200, "c", 2))

TIMELINES: Final = (
    Timeline(
        "T1 waits for the delay when no preferred size is reached",
        _settings((4, 8), 8, 10),
        (Arrival(0, "a"), Arrival(1, "b"), Arrival(2, "c")),
        batches=((10, "a b c"),),
        closed_by=("delay",),
    ),
    Timeline(
        "T2 leaves at once when a preferred size is reached",
        _settings((4, 8), 8, 10),
        (Arrival(0, "a"), Arrival(1, "b"), Arrival(2, "c"), Arrival(3, "d")),
        batches=((3, "a b c d"),),
        closed_by=("preferred",),
    ),
    Timeline(
        "T3 would exceed the largest preferred size",
        _settings((2, 6), 8, 10_000),
        (Arrival(0, "a", 3), Arrival(1000, "b", 4)),
        batches=((1000, "a"), (11_000, "b")),
        closed_by=("full", "delay"),
    ),
    Timeline(
        "T4 larger than any preferred size runs as soon as an instance allows",
        _settings((2, 6), 8, 10_000),
        (Arrival(0, "a", 3), Arrival(1000, "b", 7)),
        batches=((1000, "a"), (1007, "b")),
        duration=7,
    ),
    Timeline(
        "T5 another shape closes the batch",
        _settings((2, 6), 8, 10_000),
        (
            Arrival(0, "a", 1),
            Arrival(0, "b", 3),
            Arrival(1000, "c", 1, "Y"),
            Arrival(2000, "d", 5, "Y"),
        ),
        batches=((1000, "a b"), (2000, "c d")),
        closed_by=("shape", "preferred"),
    ),
    Timeline(
        "T6 a burst reaches the largest preferred size",
        _settings((4, 6), 8),
        tuple(Arrival(0, name) for name in "abcdefg"),
        batches=((0, "a b c d e f"), (10, "g")),
        duration=10,
    ),
    Timeline(
        "T7 one-by-one arrivals saturate at the smallest preferred size",
        _settings((4, 8), 8),
        (Arrival(0, "x"), *_one_by_one(1, 10)),
        batches=((0, 1), (100, 4), (200, 4), (300, 2)),
        duration=100,
    ),
    Timeline(
        "T8 without preference batches grow to the maximum",
        _settings((), 8),
        (Arrival(0, "x"), *_one_by_one(1, 20)),
        batches=((0, 1), (100, 8), (200, 8), (300, 4)),
        duration=100,
    ),
    Timeline(
        "T9 a batch that waits for a busy instance keeps growing",
        _settings((8,), 8, 10),
        (Arrival(0, "x", 8), Arrival(5, "a"), Arrival(16, "b"), Arrival(17, "c")),
        batches=((0, "x"), (50, "a b c")),
        duration=50,
    ),
    Timeline(
        "T10 a delayed request no longer counts first",
        _settings((4, 8), 32, 10_000, policy=QueuePolicySettings("DELAY", 100)),
        _A_ALONE_THEN_BC,
        batches=((200, "b c"), (10_000, "a")),
    ),
    Timeline(
        "T11 a rejected request is answered at its instant",
        _settings((4, 8), 32, 10_000, policy=QueuePolicySettings("REJECT", 100)),
        _A_ALONE_THEN_BC,
        batches=((200, "b c"),),
        refused=((100, "a", RefusalCause.TIMEOUT),),
    ),
    Timeline(
        "T12 a request may shorten its timeout",
        _settings((4, 8), 32, 10_000, policy=_OVERRIDE),
        (Arrival(0, "a", timeout=100), *_A_ALONE_THEN_BC[1:]),
        batches=((200, "b c"),),
        refused=((100, "a", RefusalCause.TIMEOUT),),
    ),
    Timeline(
        "T13 a request cannot lengthen its timeout",
        _settings((4, 8), 32, 10_000, policy=_OVERRIDE),
        (Arrival(0, "a", timeout=10_000), *_A_ALONE_THEN_BC[1:]),
        batches=((1000, "b c"),),
        refused=((1000, "a", RefusalCause.TIMEOUT),),
    ),
    Timeline(
        "T14 a higher level goes first and takes lower ones along",
        _settings((4, 8), 32, 10_000, levels=2),
        (Arrival(0, "a", 2), Arrival(100, "b", 1), Arrival(300, "c", 2, level=1)),
        batches=((300, "c a"), (10_100, "b")),
    ),
    Timeline(
        "T15 levels with different timeout actions",
        _settings(
            (4, 8, 32),
            32,
            10_000,
            levels=2,
            level_policies={
                1: QueuePolicySettings("DELAY", 11_000, allow_timeout_override=True),
                2: QueuePolicySettings("REJECT", 11_000, allow_timeout_override=True),
            },
        ),
        (
            Arrival(0, "p1a", 2, level=1),
            Arrival(200, "p1b", 1, level=1, timeout=1000),
            Arrival(400, "p1c", 2, level=1),
            Arrival(600, "p2a", 2, level=2, timeout=2000),
            Arrival(800, "p2b", 3, level=2),
            Arrival(1000, "p2c", 6, level=2),
        ),
        batches=((1200, "p1a p1c"), (2600, "p1b p2b"), (11_000, "p2c")),
        refused=((2600, "p2a", RefusalCause.TIMEOUT),),
    ),
    Timeline(
        "T16 a full queue refuses at once",
        _settings((4, 8), 32, policy=QueuePolicySettings(max_queue_size=8)),
        (Arrival(0, "x", 8), *(Arrival(500, f"r{number}") for number in range(10))),
        batches=((0, "x"), (5000, "r0 r1 r2 r3 r4 r5 r6 r7")),
        refused=((500, "r8", RefusalCause.QUEUE_FULL), (500, "r9", RefusalCause.QUEUE_FULL)),
        duration=5000,
    ),
    Timeline(
        "T17 a timeout is exact though the instance is busy",
        _settings((), 8, policy=QueuePolicySettings("REJECT", 100)),
        (Arrival(0, "x"), Arrival(10, "a"), Arrival(700, "b")),
        batches=((0, "x"),),
        refused=((110, "a", RefusalCause.TIMEOUT), (800, "b", RefusalCause.TIMEOUT)),
        duration=2000,
    ),
)
