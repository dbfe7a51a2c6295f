"""Ensembles of decoupled members, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import trio
import trio.testing

from actors.street.local_calls import open_call
from protocol.inference import InferResponse
from protocol.status import invalid_arg
from repo.backends.base import ExecuteRequest, Outcome
from simulation.executor import echo
from simulation.world import SimulatedModel, World
from tests.simulation.ensemble_worlds import (
    CHAIN,
    DECOUPLED,
    FAN,
    MEMBER,
    asking,
    counts,
    member,
    numbered,
    producer,
    run,
    stream,
)

# --- decoupled members ---------------------------------------------------------------------------


def test_every_response_of_a_decoupled_member_runs_what_follows() -> None:
    async def scenario(world: World) -> None:
        assert world.core.index.value.find("e", "").decoupled
        found, error = await stream(world, asking("e"))
        assert (found, error) == ([float(n) for n in range(5)], None)
        assert (await counts(world, "b"))["executions"] == 5
        expected = {"success": 1, "executions": 1, "inferences": 1}
        assert (await counts(world, "e")).items() >= expected.items()

    run({"e": SimulatedModel(FAN), "source": producer(5), "b": member(0.25)}, scenario)


def test_a_decoupled_ensemble_may_answer_nothing() -> None:
    async def scenario(world: World) -> None:
        assert await stream(world, asking("e")) == ([], None)

    run({"e": SimulatedModel(FAN), "source": producer(0), "b": member()}, scenario)


def test_responses_keep_their_order_where_instances_overtake_each_other() -> None:
    several = MEMBER.replace("kind: KIND_CPU", "kind: KIND_CPU count: 3")
    pauses = iter([1.0, 0.25, 0.5, 0.25, 0.25])

    async def scenario(world: World) -> None:
        found, _ = await stream(world, asking("e"))
        assert found == [float(n) for n in range(5)]

    models = {"e": SimulatedModel(FAN), "source": producer(5)}
    run(models | {"b": SimulatedModel(several, latency=lambda _: next(pauses))}, scenario)


def test_69_a_limit_per_step_is_shared_by_all_requests_of_the_ensemble() -> None:
    limited = FAN.replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 1")
    under_way = {"source": 0, "b": 0}
    most = dict(under_way)

    async def scenario(world: World) -> None:
        done: list[int] = []

        async def ask() -> None:
            found, error = await stream(world, asking("e"))
            assert error is None
            assert found == [float(n) for n in range(16)]
            done.append(len(found))

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(ask)
        assert done == [16] * 16

    several = "kind: KIND_CPU count: 4"
    models = {
        "e": SimulatedModel(limited),
        "source": SimulatedModel(
            DECOUPLED.replace("kind: KIND_CPU", several),
            responses=lambda request: [(0.0, numbered(request, n)) for n in range(16)],
        ),
        "b": SimulatedModel(MEMBER.replace("kind: KIND_CPU", several), latency=lambda _: 0.25),
    }
    world = run(models, scenario)
    for event in world.trace.events:
        if event.what in {"execute", "executed"}:
            name = event.who.split("_")[0]
            under_way[name] += 1 if event.what == "execute" else -1
            most[name] = max(most[name], under_way[name])
    assert most == {"source": 1, "b": 1}


def test_69_cancelling_midway_leaves_what_was_said_and_stops_the_producer() -> None:
    sent: list[int] = []

    def responses(request: ExecuteRequest) -> list[tuple[float, Outcome]]:
        sent.append(request.number)
        return [(0.25, numbered(request, n)) for n in range(1000)]

    async def scenario(world: World) -> None:
        found, error = await stream(world, asking("e"), limit=3)
        assert (found, error) == ([0.0, 1.0, 2.0], None)
        await trio.sleep(1.0)
        counters = await world.core.reader.read()
        assert counters["e", 1].failures["CANCELED"] == 1
        assert counters["b", 1].execution_count < 8

    models = {"e": SimulatedModel(FAN), "source": SimulatedModel(DECOUPLED, responses=responses)}
    run(models | {"b": member()}, scenario)
    assert len(sent) == 1


def test_an_error_midway_ends_the_stream_and_responses_stand() -> None:
    def fail_third(request: ExecuteRequest) -> Outcome:
        if request.request.inputs[0].array.item() == 2:
            return invalid_arg("not two")
        return echo(request)

    async def scenario(world: World) -> None:
        found, error = await stream(world, asking("e"))
        assert found == [0.0, 1.0]
        assert error is not None
        assert error.message == "in ensemble 'e', not two"

    models = {"e": SimulatedModel(FAN), "source": producer(100, pause=0.25)}
    world = run(models | {"b": SimulatedModel(MEMBER, behaviour=fail_third)}, scenario)
    assert len([event for event in world.trace.of("execute") if event.who == "b_0_0"]) == 3


def test_a_reader_that_stalls_stalls_the_producer() -> None:
    given: list[float] = []

    class Noted(list[tuple[float, Outcome]]):
        def __iter__(self) -> Iterator[tuple[float, Outcome]]:
            for pause, outcome in super().__iter__():
                given.append(pause)
                yield pause, outcome

    def responses(request: ExecuteRequest) -> list[tuple[float, Outcome]]:
        return Noted((0.0, numbered(request, n)) for n in range(1000))

    async def scenario(world: World) -> None:
        world.ledger.outsiders += 1
        async with open_call(world.core.calls, asking("e")) as call:
            await trio.testing.wait_all_tasks_blocked()
            assert len(given) < 120, "windows and what is on its way, but not everything"
            numbers = []
            while (response := await call.next()) is not None:
                numbers.append(int(response.outputs[0].array.item()))
        assert numbers == list(range(1000))

    models = {"e": SimulatedModel(FAN), "source": SimulatedModel(DECOUPLED, responses=responses)}
    run(models | {"b": member()}, scenario)


def test_a_member_may_say_which_sequence_follows() -> None:
    seen: list[tuple[object, int]] = []

    def say(request: ExecuteRequest) -> Outcome:
        response = echo(request)
        assert isinstance(response, InferResponse)
        response.parameters |= {"sequence_id": 42, "sequence_start": True, "other": 1}
        return response

    def look(request: ExecuteRequest) -> Outcome:
        seen.append((request.request.correlation_id, int(request.request.sequence_flags)))
        return echo(request)

    async def scenario(world: World) -> None:
        response = await world.infer("e")
        assert seen == [(42, 1)]
        assert response.parameters == {"sequence_id": 42, "sequence_start": True}

    models = {
        "e": SimulatedModel(CHAIN),
        "a": SimulatedModel(MEMBER, behaviour=say),
        "b": SimulatedModel(MEMBER, behaviour=look),
    }
    run(models, scenario)
