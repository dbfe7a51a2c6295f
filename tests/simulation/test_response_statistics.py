"""Statistics of single responses, by their place among those of their request, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import trio

from actors.control.bodies import Json
from actors.metrics.counters import MAX_COUNTED_RESPONSES
from actors.street.local_calls import open_call
from protocol.proto.generated import inference as pb
from protocol.status import ServerError, StatusCode, cancelled, internal
from repo.backends.base import ExecuteRequest, Outcome
from simulation.world import SimulatedModel, World
from tests.simulation.ensemble_worlds import (
    CHAIN,
    DECOUPLED,
    asking,
    member,
    numbered,
    producer,
    run,
    stream,
)
from tests.simulation.rig import model_config

KINDS = ("success", "fail", "empty_response", "cancel", "compute_infer", "compute_output")


async def rows(world: World, model: str) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    statistics = await world.core.control_plane.model_statistics(model, "")
    found = statistics["model_stats"]
    assert isinstance(found, list)
    row: Json = found[0]
    responses = row["response_stats"]
    assert isinstance(responses, dict)
    return responses


async def table(world: World, model: str) -> dict[str, dict[str, tuple[int, float]]]:
    """Per place what is not zero: how often, and the seconds it took together."""
    return {
        place: {
            kind: (duration["count"], duration["ns"] / 1e9)
            for kind, duration in row.items()
            if duration["count"]
        }
        for place, row in (await rows(world, model)).items()
    }


def saying(*responses: tuple[float, Outcome | int]) -> SimulatedModel:
    """A decoupled model: pauses, each before its response; a number is a good one."""

    def respond(request: ExecuteRequest) -> Sequence[tuple[float, Outcome]]:
        return [
            (pause, numbered(request, said) if isinstance(said, int) else said)
            for pause, said in responses
        ]

    return SimulatedModel(DECOUPLED, responses=respond)


def test_every_response_of_a_stream_is_counted_at_its_place() -> None:
    async def scenario(world: World) -> None:
        await stream(world, asking("source"))
        await stream(world, asking("source"))
        assert await table(world, "source") == {
            "0": {"success": (2, 0.5), "compute_infer": (2, 0.5), "compute_output": (2, 0.0)},
            "1": {"success": (2, 1.0), "compute_infer": (2, 1.0), "compute_output": (2, 0.0)},
            "2": {"empty_response": (2, 0.0), "compute_infer": (2, 0.0)},
        }

    run({"source": saying((0.25, 1), (0.5, 2))}, scenario)


def test_a_response_is_counted_before_its_caller_has_it() -> None:
    async def scenario(world: World) -> None:
        world.ledger.outsiders += 1
        async with open_call(world.core.calls, asking("source")) as call:
            await call.next()
            assert await table(world, "source") == {
                "0": {"success": (1, 0.25), "compute_infer": (1, 0.25), "compute_output": (1, 0.0)},
            }
            assert await call.next() is not None
            assert await call.next() is None

    run({"source": saying((0.25, 1), (0.5, 2))}, scenario)


def test_errors_fail_and_the_model_s_own_cancellations_touch_nothing_else() -> None:
    async def scenario(world: World) -> None:
        world.ledger.outsiders += 1
        async with open_call(world.core.calls, asking("source")) as call:
            for _ in range(2):
                with pytest.raises(ServerError):
                    await call.next()
            assert await call.next() is None
        assert await table(world, "source") == {
            "0": {"fail": (1, 0.25), "compute_infer": (1, 0.25)},
            "1": {"cancel": (1, 0.5)},
            "2": {"empty_response": (1, 0.0), "compute_infer": (1, 0.0)},
        }

    run({"source": saying((0.25, internal("broken")), (0.5, cancelled()))}, scenario)


def test_the_end_of_a_request_that_nobody_waits_for_is_a_cancellation() -> None:
    async def scenario(world: World) -> None:
        world.ledger.outsiders += 1
        async with open_call(world.core.calls, asking("source")) as call:
            await call.next()
        await trio.sleep(1.0)
        assert (await table(world, "source"))["1"] == {"cancel": (1, 0.5)}

    run({"source": saying((0.25, 1), (0.5, 2))}, scenario)


def test_the_only_response_of_other_requests_is_at_place_zero() -> None:
    async def scenario(world: World) -> None:
        await world.infer("m", id="good")
        for name in ("bad", "stopped"):
            with pytest.raises(ServerError):
                await world.infer("m", id=name)
        assert await table(world, "m") == {
            "0": {
                "success": (1, 0.5),
                "fail": (1, 0.5),
                "cancel": (1, 0.5),
                "compute_infer": (2, 1.0),
                "compute_output": (1, 0.0),
            }
        }

    def behave(request: ExecuteRequest) -> Outcome:
        match request.request.id:
            case "bad":
                return internal("no")
            case "stopped":
                return ServerError(StatusCode.CANCELLED, "")
        return numbered(request, 1)

    model = SimulatedModel(model_config(None), latency=lambda _: 0.5, behaviour=behave)
    World({"m": model}).run(scenario)


def test_an_ensemble_makes_no_responses_of_its_own() -> None:
    async def scenario(world: World) -> None:
        await world.ask(asking("e"))
        assert await rows(world, "e") == {}
        assert list(await rows(world, "a")) == ["0"]

    run({"e": SimulatedModel(CHAIN), "a": member(0.25), "b": member()}, scenario)


def test_places_beyond_the_limit_are_counted_nowhere() -> None:
    async def scenario(world: World) -> None:
        found, _ = await stream(world, asking("source"))
        assert len(found) == MAX_COUNTED_RESPONSES + 10
        assert len(await rows(world, "source")) == MAX_COUNTED_RESPONSES

    run({"source": producer(MAX_COUNTED_RESPONSES + 10)}, scenario)


def test_both_protocols_tell_the_same() -> None:
    async def scenario(world: World) -> None:
        await stream(world, asking("source"))
        await world.infer("m")
        answer = await world.core.control_plane.model_statistics("", "")
        reply: pb.ModelStatisticsResponse = pb.ModelStatisticsResponse().from_dict(answer)
        read = pb.ModelStatisticsResponse().parse(bytes(reply))
        found = {
            (row.name, place): [
                (getattr(response, kind).count, getattr(response, kind).ns) for kind in KINDS
            ]
            for row in read.model_stats
            for place, response in row.response_stats.items()
        }
        models = answer["model_stats"]
        assert isinstance(models, list)
        assert found == {
            (row["name"], place): [
                (response[kind]["count"], response[kind]["ns"]) for kind in KINDS
            ]
            for row in models
            for place, response in row["response_stats"].items()
        }
        assert len(found) == 4

    models = {
        "source": saying((0.25, 1), (0.5, 2)),
        "m": SimulatedModel(model_config(None), latency=lambda _: 0.5),
    }
    run(models, scenario)
