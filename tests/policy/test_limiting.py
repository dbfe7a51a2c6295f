"""The rate limiter: capacities, ranks, and who may go first."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from actors.policy.limiting import (
    CATCH_UP_EXECUTIONS,
    DeclaredResource,
    RateLimiter,
    Resource,
    declared_resource,
)
from protocol.status import ServerError, StatusCode


def granted(limiter: RateLimiter) -> list[int]:
    return [grant.instance for grant in limiter.step()]


def test_capacity_is_the_largest_need_of_any_instance() -> None:
    limiter = RateLimiter()
    limiter.register(0, [Resource("R1", 4), Resource("R2", 4)])
    limiter.register(1, [Resource("R2", 5), Resource("R3", 10), Resource("R4", 5)])
    limiter.register(2, [Resource("R1", 1), Resource("R3", 7), Resource("R4", 2)])
    assert [limiter.capacity(f"R{number}", 0) for number in range(1, 5)] == [4, 5, 10, 5]
    limiter.unregister(1)
    assert [limiter.capacity(f"R{number}", 0) for number in range(1, 5)] == [4, 4, 7, 2]


def test_capacity_is_per_device_unless_global() -> None:
    limiter = RateLimiter()
    limiter.register(0, [Resource("R", 1), Resource("G", 2, is_global=True)], device=0)
    limiter.register(1, [Resource("R", 3), Resource("G", 1, is_global=True)], device=1)
    assert limiter.capacity("R", 0) == 1
    assert limiter.capacity("R", 1) == 3
    assert limiter.capacity("G", None) == 2


def test_declared_capacities_override() -> None:
    declared = [declared_resource(text) for text in ("R1:10", "R2:5:0", "R2:8:1", "R3:2")]
    limiter = RateLimiter(declared)
    needs = [Resource("r1", 1), Resource("r2", 1), Resource("r3", 1, is_global=True)]
    limiter.register(0, needs, device=0)
    limiter.register(1, needs, device=1)
    assert limiter.capacity("r3", None) == 2
    assert [limiter.capacity(name, 0) for name in ("r1", "r2")] == [10, 5]
    assert [limiter.capacity(name, 1) for name in ("r1", "r2")] == [10, 8]


def test_the_larger_of_the_devices_own_and_the_general_declaration_counts() -> None:
    limiter = RateLimiter([DeclaredResource("r", 3), DeclaredResource("r", 7, 1)])
    limiter.register(0, [Resource("r", 1)], device=0)
    limiter.register(1, [Resource("r", 1)], device=1)
    assert [limiter.capacity("r", device) for device in (0, 1)] == [3, 7]
    limiter = RateLimiter([DeclaredResource("r", 3, 0), DeclaredResource("r", 7, 1)])
    limiter.register(0, [Resource("r", 1, is_global=True)])
    assert limiter.capacity("r", None) == 7


def test_a_resource_declared_twice_keeps_the_smaller_count() -> None:
    limiter = RateLimiter([DeclaredResource("r", 5), DeclaredResource("r", 3)])
    limiter.register(0, [Resource("r", 1)])
    assert limiter.capacity("r", 0) == 3


@pytest.mark.parametrize(
    ("declared", "limit"), [("resource1:3", 3), ("resource1:10:10", 0), ("other:9", 0)]
)
def test_63_an_instance_that_could_never_run_does_not_load(declared: str, limit: int) -> None:
    limiter = RateLimiter([declared_resource(declared)])
    with pytest.raises(ServerError) as caught:
        limiter.register(0, [Resource("resource1", 4)], device=0)
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        f'Resource count for "resource1" is limited to {limit} which will prevent scheduling of '
        "one or more model instances, the minimum required count is 4"
    )
    limiter.register(0, [])
    limiter.request(0)
    assert granted(limiter) == [0]


def test_64_a_resource_is_either_global_or_not() -> None:
    limiter = RateLimiter()
    limiter.register(0, [Resource("resource2", 1, is_global=True)])
    with pytest.raises(ServerError) as caught:
        limiter.register(1, [Resource("resource2", 1)], device=1)
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        'Resource "resource2" is present as both global and device-specific resource in the model '
        "configuration."
    )
    limiter.unregister(0)
    limiter.register(1, [Resource("resource2", 1)], device=1)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("R1:10", DeclaredResource("r1", 10)),
        ("Memory:0:3", DeclaredResource("memory", 0, 3)),
    ],
)
def test_a_declaration_is_read_in_lower_case(argument: str, expected: DeclaredResource) -> None:
    assert declared_resource(argument) == expected


@pytest.mark.parametrize(
    "argument", ["R1", "R1:", ":3", "R1:x", "R1:-1", "R1:1:2:3", "R1:1:", "²:²"]
)
def test_a_malformed_declaration_is_named(argument: str) -> None:
    with pytest.raises(ValueError, match="option format is") as caught:
        declared_resource(argument)
    assert str(caught.value) == (
        "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or "
        f"'<resource_name>:<count>'. Got {argument}"
    )


def saturate(limiter: RateLimiter, instances: list[int], rounds: int) -> tuple[Counter[int], int]:
    """Each execution takes one round and every instance is always wanted; also the peak."""
    ran: Counter[int] = Counter()
    peak = 0
    for instance in instances:
        limiter.request(instance)
    for _ in range(rounds):
        now = granted(limiter)
        peak = max(peak, len(now))
        ran.update(now)
        for instance in now:
            limiter.release(instance)
            limiter.request(instance)
    return ran, peak


def test_62_scaled_priority_shares_a_scarce_resource() -> None:
    limiter = RateLimiter([declared_resource("r1:4")])
    limiter.register(0, [Resource("r1", 4)], priority=1)
    limiter.register(1, [Resource("r1", 2)], priority=2)
    ran, peak = saturate(limiter, [0, 1], 300)
    assert peak == 1
    assert abs(ran[0] - 2 * ran[1]) <= 2


def test_62_with_enough_for_both_they_run_together_and_equally_often() -> None:
    limiter = RateLimiter([declared_resource("r1:6")])
    limiter.register(0, [Resource("r1", 4)], priority=1)
    limiter.register(1, [Resource("r1", 2)], priority=2)
    ran, peak = saturate(limiter, [0, 1], 100)
    assert peak == 2
    assert ran[0] == ran[1] == 100


def test_priority_zero_means_one() -> None:
    limiter = RateLimiter()
    limiter.register(0, [Resource("r", 1)], priority=0)
    limiter.register(1, [Resource("r", 1)], priority=1)
    ran, _ = saturate(limiter, [0, 1], 100)
    assert ran == {0: 50, 1: 50}


def test_without_resources_nothing_blocks() -> None:
    limiter = RateLimiter()
    for instance in range(3):
        limiter.register(instance, priority=instance)
        limiter.request(instance)
    assert granted(limiter) == [0, 1, 2]


def test_off_ignores_resources_and_priorities() -> None:
    limiter = RateLimiter([declared_resource("r:0")], enabled=False)
    for instance in range(3):
        limiter.register(instance, [Resource("r", 100, is_global=instance == 1)], priority=9)
        limiter.request(instance)
    assert granted(limiter) == [0, 1, 2]
    assert limiter.capacity("r", 0) == 0


def test_an_instance_executes_once_at_a_time() -> None:
    limiter = RateLimiter()
    limiter.register(0)
    limiter.request(0)
    limiter.request(0)
    assert granted(limiter) == [0]
    assert granted(limiter) == []
    limiter.release(0)
    assert granted(limiter) == [0]
    limiter.release(0)
    assert granted(limiter) == []


def test_everything_that_fits_is_granted_in_one_step() -> None:
    """Triton grants at most one per event; a second waits for the next one."""
    limiter = RateLimiter([declared_resource("r:3")])
    for instance in range(4):
        limiter.register(instance, [Resource("r", 1)])
        limiter.request(instance)
    assert granted(limiter) == [0, 1, 2]
    assert limiter.in_use("r", 0) == 3


def test_a_blocked_first_does_not_block_who_needs_something_else() -> None:
    """Triton looks at the first in rank only, so an instance with other needs idles behind it."""
    limiter = RateLimiter()
    limiter.register(0, [Resource("a", 1)])
    limiter.register(1, [Resource("a", 1)])
    limiter.register(2, [Resource("b", 1)])
    limiter.register(3)
    for instance in range(4):
        limiter.request(instance)
    assert granted(limiter) == [0, 2, 3]


def test_a_blocked_first_is_not_starved_by_smaller_ones() -> None:
    """Nobody may take from a resource of which the blocked instance lacks some."""
    limiter = RateLimiter([declared_resource("r:4")])
    limiter.register(0, [Resource("r", 2)])
    limiter.register(1, [Resource("r", 4)])
    limiter.register(2, [Resource("r", 1)])
    limiter.request(0)
    assert granted(limiter) == [0]
    limiter.request(1)
    limiter.request(2)
    assert granted(limiter) == []
    limiter.release(0)
    limiter.request(0)
    assert granted(limiter) == [1]
    assert granted(limiter) == []
    limiter.release(1)
    assert granted(limiter) == [2, 0]


def test_a_bypass_leaves_the_blocked_one_all_it_waits_for() -> None:
    limiter = RateLimiter([declared_resource("scarce:1"), declared_resource("plenty:3")])
    limiter.register(0, [Resource("scarce", 1)])
    limiter.register(1, [Resource("scarce", 1), Resource("plenty", 2)])
    limiter.register(2, [Resource("plenty", 1)])
    limiter.register(3, [Resource("plenty", 1)])
    for instance in range(4):
        limiter.request(instance)
    assert granted(limiter) == [0, 2]
    limiter.release(0)
    assert granted(limiter) == [1]


def test_an_idle_instance_has_no_claim_from_the_past() -> None:
    """In Triton it keeps the lowest rank until it has caught up, and shuts the others out."""
    limiter = RateLimiter([declared_resource("r:1")])
    limiter.register(0, [Resource("r", 1)])
    limiter.register(1, [Resource("r", 1)])
    saturate(limiter, [0], 1000)
    assert granted(limiter) == [0]
    limiter.release(0)
    ran, _ = saturate(limiter, [0, 1], 200)
    assert 0 <= ran[1] - ran[0] <= CATCH_UP_EXECUTIONS + 1


def test_a_moment_in_which_nobody_is_active_revives_no_claim() -> None:
    limiter = RateLimiter([declared_resource("r:1")])
    limiter.register(0, [Resource("r", 1)])
    saturate(limiter, [0], 1000)
    assert granted(limiter) == [0]
    limiter.release(0)
    assert granted(limiter) == []
    limiter.register(1, [Resource("r", 1)])
    ran, _ = saturate(limiter, [0, 1], 200)
    assert 0 <= ran[1] - ran[0] <= CATCH_UP_EXECUTIONS + 1


def test_a_short_pause_costs_no_share() -> None:
    limiter = RateLimiter([declared_resource("r:1")])
    limiter.register(0, [Resource("r", 1)])
    limiter.register(1, [Resource("r", 1)])
    saturate(limiter, [0], 5)
    ran, _ = saturate(limiter, [1], 6)
    assert ran == {0: 1, 1: 5}


def test_a_grant_that_was_not_needed_does_not_count() -> None:
    limiter = RateLimiter([declared_resource("r:1")])
    limiter.register(0, [Resource("r", 1)])
    limiter.register(1, [Resource("r", 1)])
    for _ in range(10):
        limiter.request(0)
        assert granted(limiter) == [0]
        limiter.release(0, executed=False)
    limiter.request(1)
    limiter.request(0)
    assert granted(limiter) == [0]


def test_any_available_instance_of_a_model_serves_its_requests() -> None:
    limiter = RateLimiter()
    for instance in range(3):
        limiter.register(instance, group="model")
    limiter.register(9, group="other")
    for _ in range(2):
        limiter.request_any("model")
    assert granted(limiter) == [0, 1]
    limiter.release(0)
    limiter.request_any("model")
    assert granted(limiter) == [2]
    limiter.request_any("model")
    assert granted(limiter) == [0]
    limiter.request_any("model")
    assert granted(limiter) == []
    limiter.release(1)
    assert granted(limiter) == [1]


def test_a_request_for_one_instance_goes_before_those_for_any() -> None:
    limiter = RateLimiter()
    limiter.register(0, group="model")
    limiter.request_any("model")
    limiter.request(0)
    assert granted(limiter) == [0]
    limiter.unregister(0)
    assert granted(limiter) == []


def test_removing_an_instance_frees_its_resources_and_leaves_its_models_requests() -> None:
    limiter = RateLimiter([declared_resource("r:1")])
    limiter.register(0, [Resource("r", 1)], group="model")
    limiter.register(1, [Resource("r", 1)], group="model")
    limiter.register(2, [Resource("r", 1)], group="other")
    limiter.request_any("other")
    assert granted(limiter) == [2]
    limiter.request_any("model")
    assert granted(limiter) == []
    limiter.unregister(0)
    limiter.unregister(2)
    assert limiter.in_use("r", 0) == 0
    assert granted(limiter) == [1]


def test_an_unknown_model_is_an_internal_error() -> None:
    limiter = RateLimiter()
    for ask in (partial(limiter.request, 0), partial(limiter.request_any, "model")):
        with pytest.raises(ServerError) as caught:
            ask()
        assert caught.value.status is StatusCode.INTERNAL
        assert caught.value.message == "Requested model is not yet registered with rate limiter"
