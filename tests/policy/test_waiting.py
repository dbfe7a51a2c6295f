"""What a policy says of the requests that wait, by level, and since when."""

from __future__ import annotations

from actors.policy.batching import BatchingSettings, DefaultScheduler, DynamicBatcher
from actors.policy.queueing import Ticket, Waiting
from actors.policy.sequencing import SequenceTicket, sequence_policy
from protocol.inference import SequenceFlag
from repo.model_config import QueuePolicySettings, SequenceSettings


def ticket(number: int, level: int = 0) -> Ticket:
    return Ticket(number, level, 1, None, None)


def test_the_default_scheduler_has_one_queue() -> None:
    policy = DefaultScheduler()
    assert policy.waiting() == {}
    policy.submit(ticket(1), 2.0)
    policy.submit(ticket(2), 3.0)
    assert policy.waiting() == {0: Waiting(2, 2.0)}
    policy.grant(0)
    policy.step(4.0)
    assert policy.waiting() == {0: Waiting(1, 3.0)}


def test_each_level_has_an_oldest_request_of_its_own() -> None:
    policy = DynamicBatcher(BatchingSettings(max_batch_size=8, priority_levels=3))
    policy.submit(ticket(1, 3), 1.0)
    policy.submit(ticket(2, 1), 2.0)
    policy.submit(ticket(3, 3), 5.0)
    assert policy.waiting() == {1: Waiting(1, 2.0), 3: Waiting(2, 1.0)}
    policy.cancel(1, 6.0)
    assert policy.waiting() == {1: Waiting(1, 2.0), 3: Waiting(1, 5.0)}


def test_a_formed_batch_still_waits() -> None:
    policy = DynamicBatcher(BatchingSettings(max_batch_size=2))
    for number in range(3):
        policy.submit(ticket(number), float(number))
        policy.step(float(number))
    assert policy.pending == 3
    assert policy.waiting() == {0: Waiting(3, 0.0)}


def test_a_delayed_request_is_as_old_as_it_is() -> None:
    delays = QueuePolicySettings(timeout_action="DELAY", default_timeout_seconds=1.0)
    policy = DynamicBatcher(BatchingSettings(max_batch_size=2, default_policy=delays))
    policy.submit(ticket(1), 0.0)
    policy.submit(ticket(2), 0.5)
    policy.step(1.0)
    assert policy.waiting() == {0: Waiting(2, 0.0)}


def test_sequences_wait_in_slots_and_in_the_backlog() -> None:
    for strategy in ("direct", "oldest"):
        settings = SequenceSettings(
            strategy=strategy, max_batch_size=1, slots_per_instance=1
        )  # fmt: skip
        policy = sequence_policy(settings, [0])
        for number in (1, 2):
            policy.submit(
                SequenceTicket(
                    number, 0, 1, None, None, correlation_id=number, flags=SequenceFlag.START
                ),
                float(number),
            )
            policy.step(float(number))
        assert policy.pending == 2
        assert policy.waiting() == {0: Waiting(2, 1.0)}, strategy
