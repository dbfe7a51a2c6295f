"""What one ticket costs in the scheduling policies, in microseconds of CPU time.

Run `python -m bench.policy`. "Alone" is the whole life of a lone request: submit, a step with its
Dispatch, and the grant for the next one. The last rows queue that many tickets over 8 levels with
mixed timeouts before any instance grants; a part of them expires or is cancelled, the rest is
dispatched in batches: the cost of a ticket must not grow with their number. Each figure is the
best of several runs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from actors.policy.batching import DefaultScheduler, Dispatch, DynamicBatcher, SchedulingPolicy
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings, QueuePolicySettings

TICKETS = 19_200  # a multiple of every batch size below
REPEATS = 5
LEVELS = 8
BACKLOGS = (1_000, 10_000, 100_000)

Life = Callable[[SchedulingPolicy, list[Ticket]], None]


def alone(policy: SchedulingPolicy, tickets: list[Ticket]) -> None:
    """One request at a time against an idle instance."""
    policy.grant(0)
    for ticket in tickets:
        policy.submit(ticket, 1.0)
        (action,) = policy.step(1.0)
        assert isinstance(action, Dispatch)
        policy.grant(0)


def in_eights(policy: SchedulingPolicy, tickets: list[Ticket]) -> None:
    """Eight requests arrive in each turn and leave as one batch."""
    policy.grant(0)
    for start in range(0, len(tickets), 8):
        for ticket in tickets[start : start + 8]:
            policy.submit(ticket, 1.0)
        (action,) = policy.step(1.0)
        assert isinstance(action, Dispatch)
        assert action.batch_size == 8
        policy.grant(0)


def one_by_one(policy: SchedulingPolicy, tickets: list[Ticket]) -> None:
    """A turn per arrival, which usually changes nothing: a queue delay has to be waited for."""
    policy.grant(0)
    sent = 0
    for ticket in tickets:
        policy.submit(ticket, 1.0)
        for action in policy.step(1.0):
            assert isinstance(action, Dispatch)
            sent += action.batch_size
            policy.grant(0)
    assert sent == len(tickets)


def backlog(policy: SchedulingPolicy, tickets: list[Ticket]) -> None:
    """A queue that only grows for half a second, and is then worked off in a second."""
    count = len(tickets)
    answered = 0
    for number, ticket in enumerate(tickets):
        now = number * (0.5 / count)
        policy.submit(ticket, now)
        answered += len(policy.step(now))
    for ticket in tickets[:: LEVELS + 1]:
        answered += policy.cancel(ticket.id, 0.5) is not None
    now = 0.5
    while policy.pending:
        policy.grant(0)
        for action in policy.step(now):
            answered += len(action.tickets) if isinstance(action, Dispatch) else 1
        now += 16.0 / count
    assert answered == count


def plain(count: int) -> list[Ticket]:
    return [Ticket(number, 0, 1, None, None) for number in range(count)]


def mixed(count: int) -> list[Ticket]:
    return [
        Ticket(
            id=number,
            level=1 + number * 7 % LEVELS,
            batch_size=1,
            shape_key=None,
            work=None,
            timeout_seconds=0.25 + number % 13 / 8,
            deadline_at=1.0 + number % 3,
        )
        for number in range(count)
    ]


def measure(
    make: Callable[[], SchedulingPolicy], live: Life, tickets: Callable[[int], list[Ticket]], n: int
) -> float:
    """Microseconds per ticket; making the tickets is not counted."""
    best = float("inf")
    for _ in range(REPEATS):
        policy, waiting = make(), tickets(n)
        gc.collect()
        gc.disable()
        start = time.process_time()
        live(policy, waiting)
        best = min(best, time.process_time() - start)
        gc.enable()
    return best / n * 1e6


def batcher(max_batch: int, delay_seconds: float = 0.0) -> Callable[[], DynamicBatcher]:
    settings = BatchingSettings(max_batch, (max_batch,), max_queue_delay_seconds=delay_seconds)
    return lambda: DynamicBatcher(settings)


def levelled() -> DynamicBatcher:
    policies = {
        level: QueuePolicySettings("DELAY" if level % 2 else "REJECT", 1.0, True)
        for level in range(1, LEVELS + 1)
    }
    return DynamicBatcher(
        BatchingSettings(
            max_batch_size=16,
            preferred_batch_sizes=(8, 16),
            max_queue_delay_seconds=0.001,
            priority_levels=LEVELS,
            default_priority_level=LEVELS,
            level_policies=policies,
        )
    )


def main() -> None:
    rows: list[tuple[str, Callable[[], SchedulingPolicy], Life]] = [
        ("default scheduler, alone", DefaultScheduler, alone),
        ("dynamic batcher, alone", batcher(8), alone),
        ("dynamic batcher, bursts of 8", batcher(8), in_eights),
        ("dynamic batcher, one by one to 8", batcher(8, 10.0), one_by_one),
        ("dynamic batcher, one by one to 64", batcher(64, 10.0), one_by_one),
    ]
    for name, make, live in rows:
        print(f"{name:<36}{measure(make, live, plain, TICKETS):6.2f}")
    for count in BACKLOGS:
        name = f"8 levels, {count} waiting"
        print(f"{name:<36}{measure(levelled, backlog, mixed, count):6.2f}")


if __name__ == "__main__":
    main()
