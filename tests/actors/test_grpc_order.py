"""A connection's calls are executed in the order in which they came, however full a door is."""

from __future__ import annotations

import pytest
import trio

from actors import version_wiring
from tests.actors.grpc_rig import GrpcWorld, infer, model, run

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
