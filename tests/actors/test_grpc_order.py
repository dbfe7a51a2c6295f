"""The order of a connection's calls, and of what is done when one of them has been answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from actors import version_wiring
from actors.ports.sockets import Buffer, send_nowait
from actors.street.executor import TaskExecutor
from actors.street.instance import BRIEF_SECONDS
from tests.actors.grpc_rig import IO, GrpcWorld, infer, model, run

CALLS = 12


@pytest.mark.parametrize("seed", range(4))
def test_a_burst_beyond_the_door_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 2)

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            with monkeypatch.context() as patch:
                patch.setattr(client, "flush", nothing)
                calls = [await client.unary(infer("m", f"{place:02}")) for place in range(CALLS)]
            await client.flush()  # all of them in one write
            for call in calls:
                assert await call.over() == (0, "")

    world = GrpcWorld({"m": model(seconds=0.25)})
    run(world, scenario, seed=seed)

    executed = [event.detail for event in world.trace.of("execute")]
    assert executed == [f"{place:02}" for place in range(CALLS)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("seconds", "order"),
    [(0.25, ["begin", "send", "send"]), (BRIEF_SECONDS / 2, ["send", "begin", "send"])],
)
def test_an_idle_model_begins_anew_before_its_answers_are_sent_unless_it_is_quick(
    monkeypatch: pytest.MonkeyPatch, seed: int, seconds: float, order: list[str]
) -> None:
    happened: list[str] = []
    begin_batch = TaskExecutor.begin

    def begin(executor: TaskExecutor, *batch: Any) -> None:
        happened.append("begin")
        begin_batch(executor, *batch)

    def send(stream: trio.abc.Stream, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        happened.append("send")
        return send_nowait(stream, parts)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            first = await client.unary(infer("m"))
            await trio.sleep(seconds / 3)  # of virtual time: it has begun
            others = [await client.unary(infer("m")) for _ in range(CALLS)]
            await trio.sleep(seconds / 3)
            monkeypatch.setattr("actors.grpc.connection.send_nowait", send)
            monkeypatch.setattr(TaskExecutor, "begin", begin)
            for call in (first, *others):
                assert await call.over() == (0, "")

    world = GrpcWorld({"m": model(IO + "max_batch_size: 16 dynamic_batching { }", seconds=seconds)})
    run(world, scenario, seed=seed)

    assert happened == order
