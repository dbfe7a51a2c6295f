"""Loads, updates, polls and unloads against the whole server in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import pytest
import trio
import trio.testing

from actors.lifecycle.model_index import ServingVersion
from actors.policy.lifecycle import OUT_OF_DATE
from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode
from simulation.faults import reload_in_flight, unload_in_flight
from simulation.world import SimulatedModel, World

EXPLICIT: Final = ServerOptions(
    model_repository=("simulated",), model_control_mode="explicit", load_model=("*",)
)
POLL: Final = ServerOptions(
    model_repository=("simulated",), model_control_mode="poll", repository_poll_secs=10
)
CONFIG: Final = (
    'backend: "simulated" max_batch_size: 8 '
    'input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] } '
    'output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] } '
)


def grouped(count: int, more: str = "") -> str:
    return f"{CONFIG} {more} instance_group {{ count: {count} kind: KIND_CPU }}"


def model(count: int = 1, *, seconds: float = 0.0, load_seconds: float = 0.0) -> SimulatedModel:
    return SimulatedModel(grouped(count), latency=lambda _: seconds, load_seconds=load_seconds)


Scenario = Callable[[World], Awaitable[None]]


def run(
    models: Mapping[str, SimulatedModel],
    scenario: Scenario,
    *,
    options: ServerOptions = EXPLICIT,
    expected_errors: Sequence[str] = (),
    seed: int = 0,
) -> World:
    world = World(models, options=options, expected_errors=expected_errors)
    world.run(scenario, seed=seed)
    return world


async def load(world: World, name: str = "m") -> None:
    await world.core.control_plane.load_model("", name, {})


async def unload(world: World, name: str = "m") -> None:
    await world.core.control_plane.unload_model("", name, unload_dependents=False)


def edit(world: World, config: str, name: str = "m") -> None:
    """Somebody saves another config.pbtxt."""
    world.models[name] = replace(world.models[name], config=config)
    world.source.touch(name, "config.pbtxt")


def serving(world: World, name: str = "m") -> ServingVersion:
    return world.core.index.value.find(name, "")


def names(world: World, name: str = "m") -> list[str]:
    return [instance.name for instance in serving(world, name).instances]


def rows(world: World) -> dict[str, tuple[str, str]]:
    found = world.core.control_plane.index_rows(ready_only=False)
    return {
        str(row["name"]): (str(row.get("state", "")), str(row.get("reason", ""))) for row in found
    }


def lives(world: World, name: str = "m") -> int:
    return sum(life.model == name for life in world.ledger.lives)


# --- nothing changes -----------------------------------------------------------------------------


def test_loading_what_is_loaded_does_nothing() -> None:
    async def scenario(world: World) -> None:
        before = serving(world)
        await load(world)
        assert serving(world) is before

    assert lives(run({"m": model()}, scenario)) == 1


def test_a_changed_file_reloads() -> None:
    async def scenario(world: World) -> None:
        world.source.touch("m")
        await load(world)

    assert lives(run({"m": model()}, scenario)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_the_same_load_asked_for_eight_times_loads_once(seed: int) -> None:
    async def scenario(world: World) -> None:
        world.source.touch("m")
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load, world)
        assert trio.current_time() == 3.0 + 3.0  # at start, and then once

    assert lives(run({"m": model(load_seconds=3.0)}, scenario, seed=seed)) == 2


def test_loads_of_different_models_take_as_long_as_the_slowest() -> None:
    async def scenario(world: World) -> None:
        for name in ("a", "b"):
            world.source.touch(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, world, "a")
            nursery.start_soon(load, world, "b")
        assert trio.current_time() == 4.0 + 4.0

    run({"a": model(load_seconds=4.0), "b": model(load_seconds=3.0)}, scenario)


def test_threads_bound_how_many_versions_load_at_once() -> None:
    async def scenario(world: World) -> None:
        assert len(world.ledger.lives) == 6
        assert trio.current_time() == 3 * 2.0

    models = {name: model(load_seconds=2.0) for name in "abcdef"}
    run(models, scenario, options=replace(EXPLICIT, model_load_thread_count=2))


def test_a_failed_load_leaves_the_old_version_and_is_tried_again() -> None:
    async def scenario(world: World) -> None:
        before = serving(world)
        good = world.models["m"]
        world.models["m"] = replace(good, broken="no weights")
        world.source.touch("m")
        with pytest.raises(ServerError) as caught:
            await load(world)
        assert caught.value.message == (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: "
            "Invalid argument: no weights;\n"
        )
        assert caught.value.status is StatusCode.INVALID_ARG
        assert serving(world) is before
        assert rows(world)["m"] == ("READY", "")
        world.models["m"] = good
        await load(world)  # no file has changed since, but the last load failed
        assert serving(world) is not before

    run({"m": model()}, scenario, expected_errors=("failed to load 'm'",))


def test_a_version_that_fails_is_tried_as_often_as_was_asked() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ServerError):
            await load(world)
        assert trio.current_time() == 3.0
        assert rows(world)["m"] == ("UNAVAILABLE", "Invalid argument: no weights")
        assert not await world.core.control_plane.is_ready()

    broken = replace(model(load_seconds=1.0), broken="no weights")
    options = replace(EXPLICIT, load_model=(), model_load_retry_count=2)
    run({"m": broken}, scenario, options=options, expected_errors=("failed to load 'm'",))


def test_a_load_that_waits_gives_way_to_a_newer_operation() -> None:
    async def scenario(world: World) -> None:
        refused: list[str] = []

        async def try_to_load() -> None:
            try:
                await load(world)
            except ServerError as error:
                refused.append(error.message)

        world.source.touch("m")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, world)  # begins, and takes its time
            await trio.testing.wait_all_tasks_blocked()
            world.source.touch("m")
            nursery.start_soon(try_to_load)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(unload, world)
        assert refused == [OUT_OF_DATE]
        await trio.testing.wait_all_tasks_blocked()
        assert rows(world)["m"] == ("UNAVAILABLE", "unloaded")
        assert await world.core.control_plane.is_ready()

    run({"m": model(load_seconds=5.0)}, scenario)


# --- updates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_faults_that_overtake_each_other_are_no_violation(seed: int) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload_in_flight, world, "m")
            nursery.start_soon(partial(unload_in_flight, world, "m", reload_after=None))
        assert rows(world)["m"][0] in {"READY", "UNLOADING", "UNAVAILABLE"}

    run({"m": model()}, scenario, seed=seed)


def test_more_instances_join_while_requests_run() -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        for number in range(4):
            client.ask("m", str(number))
        await trio.testing.wait_all_tasks_blocked()
        edit(world, grouped(3))
        world.models["m"] = replace(world.models["m"], load_seconds=1.0)
        await load(world)
        assert names(world) == ["m_0_0", "m_0_1", "m_0_2"]
        assert '"count":3' in serving(world).config_json.replace(" ", "")
        await world.all_answered()
        assert trio.current_time() == 8.0  # and not 16: the new ones took what waited

    assert lives(run({"m": model(seconds=4.0)}, scenario)) == 1


def test_a_surplus_instance_ends_with_what_it_has() -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        for number in range(6):
            client.ask("m", str(number))
        await trio.testing.wait_all_tasks_blocked()
        edit(world, grouped(1))
        await load(world)
        assert names(world) == ["m_0_0"]
        await world.all_answered()
        assert trio.current_time() == 4 * 4.0  # three at first, then one after the other

    world = run({"m": model(3, seconds=4.0)}, scenario)
    assert lives(world) == 1
    ends = {name: span[1] for name, span in world.ledger.lives[0].spans.items()}
    assert ends["m_0_1"] == ends["m_0_2"] == 4.0


def test_an_update_that_fails_leaves_the_old_instances() -> None:
    async def scenario(world: World) -> None:
        edit(world, grouped(3))
        world.models["m"] = replace(world.models["m"], broken="no device")
        with pytest.raises(ServerError, match="Invalid argument: no device"):
            await load(world)
        assert names(world) == ["m_0_0"]
        assert rows(world)["m"] == ("READY", "")
        client = world.client()
        for number in range(3):
            client.ask("m", str(number))
        await world.all_answered()

    assert lives(run({"m": model()}, scenario, expected_errors=("failed to update 'm'",))) == 1


def test_other_groups_replace_instances_one_by_one() -> None:
    async def scenario(world: World) -> None:
        edit(world, f"{CONFIG} instance_group {{ count: 2 kind: KIND_MODEL }}")
        client = world.client()
        client.ask("m", "before")
        await trio.testing.wait_all_tasks_blocked()
        await load(world)
        client.ask("m", "after")
        await world.all_answered()
        kinds = [one.kind for one in world.ledger.lives[0].instances]
        assert kinds == ["CPU", "MODEL", "MODEL"]

    assert lives(run({"m": model(seconds=1.0)}, scenario)) == 1


def test_an_update_under_the_rate_limiter_takes_its_seats_along() -> None:
    needs = 'rate_limiter { resources [ { name: "r" count: 1 } ] }'

    def limited(count: int) -> str:
        return f"{CONFIG} instance_group {{ count: {count} kind: KIND_CPU {needs} }}"

    async def scenario(world: World) -> None:
        client = world.client()
        for turn, count in enumerate((3, 1, 2, 4, 1)):
            for number in range(5):
                client.ask("m", f"{turn}.{number}")
            await trio.sleep(0.5)
            edit(world, limited(count))
            await load(world)
            assert len(names(world)) == count
        await world.all_answered()

    options = replace(EXPLICIT, rate_limit="execution_count", rate_limit_resource=("r:2",))
    models = {"m": SimulatedModel(limited(1), latency=lambda _: 1.0)}
    assert lives(run(models, scenario, options=options)) == 1


def test_a_change_of_anything_else_reloads() -> None:
    async def scenario(world: World) -> None:
        edit(world, grouped(1, "dynamic_batching { }"))
        await load(world)

    assert lives(run({"m": model()}, scenario)) == 2


def test_a_swap_file_beside_the_configuration_reloads() -> None:
    async def scenario(world: World) -> None:
        edit(world, grouped(3))
        world.source.touch("m", ".config.pbtxt.swp")
        await load(world)

    assert lives(run({"m": model()}, scenario)) == 2


# --- polling -------------------------------------------------------------------------------------


def test_a_poll_follows_the_repository() -> None:
    async def scenario(world: World) -> None:
        world.models["new"] = model()
        world.source.touch("new")
        world.source.touch("changed")
        world.source.remove("gone")
        edit(world, grouped(2), "grown")
        await trio.sleep(9.0)
        assert "new" not in rows(world)
        await trio.sleep(2.0)
        assert rows(world) == dict.fromkeys(["changed", "grown", "new", "same"], ("READY", ""))
        with pytest.raises(ServerError, match="'gone' has no available versions"):
            serving(world, "gone")
        assert len(names(world, "grown")) == 2
        assert [lives(world, name) for name in ("same", "changed", "grown")] == [1, 2, 1]
        await trio.sleep(100.0)
        assert [lives(world, name) for name in ("same", "changed", "grown")] == [1, 2, 1]

    models = {name: model() for name in ("same", "changed", "gone", "grown")}
    run(models, scenario, options=POLL)


def test_what_a_poll_cannot_do_is_logged_and_tried_again() -> None:
    async def scenario(world: World) -> None:
        good = world.models["m"]
        before = serving(world)
        world.source.is_broken = True
        await trio.sleep(11.0)
        world.source.is_broken = False
        world.models["m"] = replace(good, broken="half copied")
        world.source.touch("m")
        await trio.sleep(20.0)
        assert serving(world) is before
        world.models["m"] = good
        await trio.sleep(10.0)
        assert serving(world) is not before
        assert not world.ledger.logged

    expected = ("failed to load 'm'", "Failed to poll model repositories: ")
    run({"m": model()}, scenario, options=POLL, expected_errors=expected)


def test_a_model_that_two_repositories_have_is_out_of_service_until_one_has_it() -> None:
    async def scenario(world: World) -> None:
        world.source.duplicates.add("m")
        await trio.sleep(11.0)
        assert rows(world)["m"] == ("UNAVAILABLE", "model appears in two or more repositories")
        with pytest.raises(ServerError):
            serving(world)
        world.source.duplicates.clear()
        await trio.sleep(10.0)
        assert rows(world)["m"] == ("READY", "")

    expected = ("failed to poll model 'm': not unique across all model repositories",)
    run({"m": model()}, scenario, options=POLL, expected_errors=expected)


def test_a_poll_under_way_ends_before_the_server_does() -> None:
    async def scenario(world: World) -> None:
        world.source.touch("m")
        await trio.sleep(10.5)

    assert lives(run({"m": model(load_seconds=4.0)}, scenario, options=POLL)) == 2
