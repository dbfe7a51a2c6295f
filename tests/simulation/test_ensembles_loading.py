"""How ensembles are loaded with their members, and leave with them, in virtual time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.settings.options import ServerOptions
from protocol.status import ServerError, invalid_arg
from simulation.world import SimulatedModel, World
from tests.simulation.ensemble_worlds import (
    CHAIN,
    EXPLICIT,
    FAN,
    MEMBER,
    ensemble,
    member,
    producer,
    run,
    step,
)

# --- loading -------------------------------------------------------------------------------------


def reasons(world: World) -> dict[str, str]:
    rows = world.core.control_plane.index_rows(ready_only=False)
    return {str(row["name"]): str(row.get("reason", "")) for row in rows}


def states(world: World) -> dict[str, str]:
    rows = world.core.control_plane.index_rows(ready_only=False)
    return {str(row["name"]): str(row.get("state", "")) for row in rows}


def options_for(*load: str) -> ServerOptions:
    return ServerOptions(
        model_repository=("simulated",),
        model_control_mode="explicit",
        load_model=load,
        exit_on_error=False,
    )


def test_loading_an_ensemble_loads_its_members() -> None:
    async def scenario(world: World) -> None:
        control = world.core.control_plane
        assert states(world) == {"a": "", "b": "", "e": "", "other": ""}
        await control.load_model("", "e", {})
        assert states(world) == {"a": "READY", "b": "READY", "e": "READY", "other": ""}
        await world.infer("e")
        await control.unload_model("", "e", unload_dependents=False)
        await trio.testing.wait_all_tasks_blocked()
        assert states(world) == {"a": "READY", "b": "READY", "e": "UNAVAILABLE", "other": ""}

    models = {"e": SimulatedModel(CHAIN), "a": member(), "b": member(), "other": member()}
    run(models, scenario, options=options_for())


def test_unloading_dependents_spares_what_was_asked_for() -> None:
    async def scenario(world: World) -> None:
        control = world.core.control_plane
        await control.load_model("", "e", {})
        await control.unload_model("", "e", unload_dependents=True)
        await trio.testing.wait_all_tasks_blocked()
        assert states(world) == {"a": "UNAVAILABLE", "b": "READY", "e": "UNAVAILABLE"}

    models = {"e": SimulatedModel(CHAIN), "a": member(), "b": member()}
    run(models, scenario, options=options_for("b"))


def test_an_ensemble_goes_and_comes_with_its_members() -> None:
    async def scenario(world: World) -> None:
        control = world.core.control_plane
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("e"))  # keeps what it began with
            await trio.testing.wait_all_tasks_blocked()
            await control.unload_model("", "b", unload_dependents=False)
            with pytest.raises(ServerError, match="has no available versions"):
                await world.infer("e")
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 2.0
        assert states(world) == {"a": "READY", "b": "UNAVAILABLE", "e": "UNAVAILABLE"}
        assert await world.core.control_plane.is_ready()
        await control.load_model("", "b", {})
        assert states(world) == {"a": "READY", "b": "READY", "e": "READY"}
        await world.infer("e")

    models = {"e": SimulatedModel(CHAIN), "a": member(1.0), "b": member(1.0)}
    run(models, scenario, options=EXPLICIT)


def test_a_request_keeps_its_members_while_they_are_reloaded() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: world.infer("e"))
            await trio.testing.wait_all_tasks_blocked()
            world.source.touch("b")
            await world.core.control_plane.load_model("", "b", {})
            await world.infer("e")
        assert len([life for life in world.ledger.lives if life.model == "b"]) == 2

    models = {"e": SimulatedModel(CHAIN), "a": member(1.0), "b": member(1.0)}
    run(models, scenario, options=EXPLICIT)


@pytest.mark.parametrize(
    ("config", "members", "reason"),
    [
        (
            CHAIN,
            {"a": member(), "b": member(config=MEMBER.replace("size: 8", "size: -1"))},
            (
                "ensemble 'e' depends on 'b' which is not valid. Model 'b' failed with error: "
                "'max_batch_size' must be non-negative value for b"
            ),
        ),
        (
            ensemble(step("a", "INPUT", "mid"), step("b", "mid", "OUTPUT", version=3)),
            {"a": member(), "b": member()},
            "ensemble 'e' depends on 'b' whose required version 3 is not loaded.",
        ),
        (
            CHAIN,
            {"a": member(), "b": member(config=MEMBER.replace("FP32", "INT32"))},
            (
                "in ensemble e, ensemble tensor between: inconsistent data type: TYPE_FP32 is "
                "inferred from model a while TYPE_INT32 is inferred from model b"
            ),
        ),
        (
            CHAIN,
            {"a": member(), "b": member(config=MEMBER.replace("size: 8", "size: 4"))},
            (
                "ensemble e allows maximum batch size 8, but it contains model b which only allows "
                "maximum batch size to be 4"
            ),
        ),
    ],
)
def test_an_ensemble_that_does_not_fit_its_members_is_not_loaded(
    config: str, members: dict[str, SimulatedModel], reason: str
) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ServerError) as caught:
            await world.core.control_plane.load_model("", "e", {})
        assert caught.value.message.startswith(f"load failed for model 'e': {reason}")
        assert caught.value.message.endswith("\n")
        assert reasons(world)["e"].startswith(f"Invalid argument: {reason}")

    models = {"e": SimulatedModel(config)} | members
    expected = ("failed to load 'e'", "Poll failed for model 'b'")
    run(models, scenario, options=options_for("a"), expected_errors=expected)


def test_a_member_that_does_not_load_is_named() -> None:
    broken = MEMBER + (
        ' model_warmup { name: "w" batch_size: 1 '
        'inputs { key: "INPUT" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } }'
    )

    async def scenario(world: World) -> None:
        assert reasons(world)["e"].startswith(
            "Invalid argument: ensemble 'e' depends on 'b' which has no loaded version. "
            "Model 'b' loading failed with error: load failed for model 'b': version 1 is at "
            "UNAVAILABLE state: "
        )

    models = {
        "e": SimulatedModel(CHAIN),
        "a": member(),
        "b": SimulatedModel(broken, behaviour=lambda _: invalid_arg("cold")),
    }
    expected = ("failed to load 'e'", "failed to load 'b'")
    run(models, scenario, options=options_for("*"), expected_errors=expected)


def test_ensembles_in_a_circle_are_refused_and_others_load() -> None:
    def inner(model: str) -> str:
        return ensemble(
            step(model, "INPUT", "OUTPUT").replace(
                '"INPUT" value: "OUTPUT"', '"OUTPUT" value: "OUTPUT"'
            )
        )

    async def scenario(world: World) -> None:
        found = reasons(world)
        assert found["x"] == (
            "Invalid argument: circular dependency between ensembles: x -> y -> x"
        )
        assert found["y"] == (
            "Invalid argument: circular dependency between ensembles: y -> x -> y"
        )
        assert states(world)["e"] == "READY"

    models = {
        "x": SimulatedModel(inner("y")),
        "y": SimulatedModel(inner("x")),
        "e": SimulatedModel(CHAIN),
        "a": member(),
        "b": member(),
    }
    expected = ("circular dependency", "failed to load")
    run(models, scenario, options=options_for("*"), expected_errors=expected)


def test_a_decoupled_ensemble_cannot_be_cached() -> None:
    async def scenario(world: World) -> None:
        reason = reasons(world)["e"]
        assert reason == (
            "Invalid argument: Response Cache does not currently support model e with 'decoupled' "
            "transaction policy. Please disable the response cache."
        )

    options = ServerOptions(
        model_repository=("simulated",), cache_config=("local,size=10000",), exit_on_error=False
    )
    models = {"e": SimulatedModel(FAN + " response_cache { enable: true }")}
    run(
        models | {"source": producer(1), "b": member()},
        scenario,
        options=options,
        expected_errors=("Response Cache",),
    )
