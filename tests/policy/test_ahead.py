"""An instance that grants more than it runs: what leaves for it early, and what does not."""

from __future__ import annotations

from actors.policy.batching import Dispatch, DynamicBatcher
from actors.policy.grants import Grants
from actors.policy.queueing import Ticket
from repo.model_config import BatchingSettings


def batcher(max_batch: int, delay_seconds: float = 0.0, instances: int = 1) -> DynamicBatcher:
    """A batcher whose instances hold two batches each, and are idle."""
    settings = BatchingSettings(max_batch_size=max_batch, max_queue_delay_seconds=delay_seconds)
    policy = DynamicBatcher(settings, ahead=True)
    for instance in range(instances):
        policy.grant(instance)
        policy.grant(instance)
    return policy


def send(policy: DynamicBatcher, names: str, now: float = 0.0) -> list[str]:
    """The batches that leave when these requests come, one letter each."""
    for name in names:
        assert policy.submit(Ticket(ord(name), 0, 1, None, None), now) is None
    return left(policy, now)


def left(policy: DynamicBatcher, now: float = 0.0) -> list[str]:
    return [
        "".join(chr(ticket.id) for ticket in action.tickets)
        for action in policy.step(now)
        if isinstance(action, Dispatch)
    ]


def test_a_full_batch_leaves_before_the_one_before_it_has_ended() -> None:
    policy = batcher(2)
    assert send(policy, "a") == ["a"]
    assert send(policy, "bc") == ["bc"]
    assert send(policy, "de") == []
    policy.grant(0)
    assert left(policy) == ["de"]


def test_a_batch_that_is_not_full_waits_until_the_instance_is_idle() -> None:
    policy = batcher(3)
    assert send(policy, "a") == ["a"]
    assert send(policy, "b") == []
    assert send(policy, "c") == []
    policy.grant(0)
    assert left(policy) == ["bc"]


def test_a_batch_that_fills_while_it_waits_leaves_then() -> None:
    policy = batcher(3)
    send(policy, "a")
    assert send(policy, "bc") == []
    assert send(policy, "d") == ["bcd"]


def test_batches_that_could_still_be_merged_wait() -> None:
    policy = batcher(4, delay_seconds=1.0)
    send(policy, "a")
    assert left(policy, 1.0) == ["a"]
    send(policy, "bc", 2.0)
    assert left(policy, 3.0) == []
    assert send(policy, "d", 3.0) == []
    policy.grant(0)
    assert left(policy, 4.0) == ["bcd"]


def test_an_idle_instance_comes_before_one_that_would_run_it_next() -> None:
    policy = batcher(2, instances=2)
    for name, names in (("first", "ab"), ("second", "cd"), ("third", "ef")):
        for one in names:
            policy.submit(Ticket(ord(one), 0, 1, None, name), 0.0)
    actions = [action for action in policy.step(0.0) if isinstance(action, Dispatch)]
    assert [action.instance for action in actions] == [0, 1, 0]


def test_an_instance_is_idle_when_it_has_all_that_it_ever_gave_at_once() -> None:
    grants = Grants()
    grants.add(0)
    assert grants.has_idle
    grants.add(0)
    assert grants.has_idle
    grants.take()
    assert not grants.has_idle
    assert grants.total == 1
    grants.add(0)
    assert grants.has_idle
    grants.forget(0)
    assert not grants.has_idle
