"""Cases 62 to 66 of scheduling: the rate limiter and instance groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from actors.settings.options import ServerOptions
from repo.model_config import BatchingSettings
from simulation.world import SimulatedModel, World
from tests.simulation.rig import Schedule, model_config, seconds

IO = """
backend: "simulated" max_batch_size: 8
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def limits(resource: str, count: int, *, priority: int = 1, is_global: bool = False) -> str:
    scope = "global: true" if is_global else ""
    return (
        f'rate_limiter {{ resources {{ name: "{resource}" count: {count} {scope} }} '
        f"priority: {priority} }}"
    )


def needing(resource: str, count: int, *, priority: int = 1, is_global: bool = False) -> str:
    needs = limits(resource, count, priority=priority, is_global=is_global)
    return f"{IO} instance_group {{ count: 1 kind: KIND_CPU {needs} }}"


def limited(*resources: str, exit_on_error: bool = True) -> ServerOptions:
    return ServerOptions(
        model_repository=("simulated",),
        rate_limit="execution_count",
        rate_limit_resource=resources,
        exit_on_error=exit_on_error,
    )


@pytest.mark.parametrize(
    ("capacity", "expected", "at_once"), [(4, {"a": 40, "b": 20}, 1), (6, {"a": 60, "b": 60}, 2)]
)
def test_62_models_that_share_a_resource_run_in_the_ratio_of_their_priorities(
    capacity: int, expected: dict[str, int], at_once: int
) -> None:
    """A needs 4 and has priority 1, B needs 2 and has priority 2; both are always wanted."""

    async def scenario(world: World) -> None:
        client = world.client(window=200)
        for number in range(60):
            client.ask("a", f"a{number}")
            client.ask("b", f"b{number}")
        await world.all_answered()

    models = {
        "a": SimulatedModel(needing("r1", 4, priority=1), latency=lambda _: seconds(100)),
        "b": SimulatedModel(needing("r1", 2, priority=2), latency=lambda _: seconds(100)),
    }
    world = World(models, options=limited(f"r1:{capacity}"))
    world.run(scenario)

    # In the first 6000 ms neither has run out of requests.
    early = [ran for ran in world.ledger.ran if ran.at < seconds(6000)]
    assert abs(Counter(ran.life.model for ran in early)["a"] - expected["a"]) <= 1
    assert abs(Counter(ran.life.model for ran in early)["b"] - expected["b"]) <= 1
    assert max(Counter(ran.at for ran in early).values()) == at_once


def reasons(models: dict[str, str], *resources: str) -> dict[str, str]:
    """Why the models whose load fails do so."""
    found: dict[str, str] = {}

    async def scenario(world: World) -> None:
        for row in world.core.control_plane.index_rows(ready_only=False):
            if row["state"] != "READY":
                found[str(row["name"])] = str(row["reason"])

    World(
        {name: SimulatedModel(config) for name, config in models.items()},
        options=limited(*resources, exit_on_error=False),
        expected_errors=("failed to load",),
    ).run(scenario)
    return found


@pytest.mark.parametrize(("declared", "limit"), [("resource1:3", 3), ("resource1:10:10", 0)])
def test_63_an_instance_that_could_never_run_does_not_load(declared: str, limit: int) -> None:
    assert reasons({"m": needing("resource1", 4)}, declared) == {
        "m": f'Invalid argument: Resource count for "resource1" is limited to {limit} which will '
        "prevent scheduling of one or more model instances, the minimum required count is 4"
    }


def test_64_a_resource_is_either_global_or_not() -> None:
    models = {
        "a": needing("resource2", 1, is_global=True),
        "b": needing("resource2", 1),
    }
    (reason,) = reasons(models).values()  # whichever came second
    assert reason == (
        'Invalid argument: Resource "resource2" is present as both global and device-specific '
        "resource in the model configuration."
    )


def test_65_batches_that_wait_for_a_resource_are_full() -> None:
    """Every size is preferred, but while the resource is taken the queue grows."""
    batching = BatchingSettings(4, (1, 2, 3, 4), max_queue_delay_seconds=5000)
    config = model_config(batching).replace("kind: KIND_CPU", f"kind: KIND_CPU {limits('r', 1)}")
    schedule = Schedule(config, duration=10, options=limited())
    for number in range(80):
        schedule.send(0, f"r{number}")
    schedule.play()
    assert schedule.batch_stats == {4: 20}
    assert max(schedule.answered.values()) == 200


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ("", ["m_0"]),
        (
            "instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_CPU } ]",
            ["m_0_0", "m_0_1", "m_1_0"],
        ),
        ('instance_group { name: "g" count: 2 kind: KIND_CPU }', ["g_0", "g_1"]),
    ],
)
def test_66_instances_are_named_after_their_groups(groups: str, names: Sequence[str]) -> None:
    async def scenario(world: World) -> None:
        assert list(world.executors) == names
        client = world.client()
        for number in range(6):
            client.ask("m", f"r{number}")
        await world.all_answered()

    world = World({"m": SimulatedModel(IO + groups, latency=lambda _: 1.0)})
    world.run(scenario)
    assert {ran.instance for ran in world.ledger.ran} == set(names)


def test_66_a_passive_group_is_loaded_and_never_executes() -> None:
    config = IO + (
        "instance_group [ { count: 1 kind: KIND_CPU }, { count: 2 kind: KIND_CPU passive: true } ]"
    )

    async def scenario(world: World) -> None:
        assert list(world.executors) == ["m_0_0", "m_1_0", "m_1_1"]
        client = world.client()
        for number in range(4):
            client.ask("m", f"r{number}")
        await world.all_answered()

    world = World({"m": SimulatedModel(config, latency=lambda _: 1.0)})
    world.run(scenario)
    assert {ran.instance for ran in world.ledger.ran} == {"m_0_0"}
