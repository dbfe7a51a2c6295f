"""What a frontend process has behind it: regions of shared memory that follow the core's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.frontends.answers import Answers
from actors.frontends.board import Board
from actors.frontends.core_link import CoreLink
from actors.frontends.remote import Remote
from actors.http.control import HttpControl
from actors.settings.options import ServerOptions
from protocol.inference import SharedMemoryRef
from protocol.v2_json_shared_memory import SystemRegion
from simulation.linked import FIRST_NUMBER, memory_pipes
from simulation.world import World


@pytest.fixture
def keys() -> Iterator[Sequence[str]]:
    """Two POSIX shared-memory objects with different contents."""
    names = [f"troupe-test-{uuid.uuid4().hex}" for _ in range(2)]
    paths = [Path("/dev/shm") / name for name in names]
    for place, path in enumerate(paths):
        path.write_bytes(bytes([place + 1]) * 4096)
    yield names
    for path in paths:
        path.unlink()


def test_a_name_that_is_given_to_other_memory_waits_for_who_uses_the_old(
    keys: Sequence[str],
) -> None:
    options = ServerOptions(model_repository=("simulated",), allow_client_shm=True)

    async def scenario(world: World) -> None:
        core = world.core
        near, far = memory_pipes()
        board = Board(core.index, core.regions)
        answers = Answers(HttpControl(core.control_plane, max_input_size=1024), {})
        link = CoreLink(near, calls=core.calls, board=board, answers=answers, heard=lambda _: None)
        remote = Remote(far, options, first_number=FIRST_NUMBER, obey=lambda _: None)
        world.start_soon(link.run)
        world.start_soon(remote.run)
        await remote.uplink.has_index.wait()
        ref = SharedMemoryRef("r", 0, 4)

        core.regions.register_system(SystemRegion("r", keys[0], 0, 4096))
        await board.settle()
        lease = remote.regions.lease()
        assert lease is not None
        assert bytes(lease.read(ref)) == b"\1\1\1\1"  # type: ignore[arg-type]  # no device has it

        core.regions.unregister_system("r")
        core.regions.register_system(SystemRegion("r", keys[1], 0, 4096))
        settled_at: list[float] = []

        async def settle() -> None:
            await board.settle()
            settled_at.append(trio.current_time())

        world.start_soon(settle)
        await trio.sleep(0.25)
        assert not settled_at
        lease.release()
        await trio.sleep(0.25)
        assert settled_at
        fresh = remote.regions.lease()
        assert fresh is not None
        assert bytes(fresh.read(ref)) == b"\2\2\2\2"  # type: ignore[arg-type]  # as above
        fresh.release()

        core.regions.unregister_system("r")
        await board.settle()
        assert remote.regions.lease() is None
        far.close()
        await trio.testing.wait_all_tasks_blocked()

    World({}, options=options).run(scenario)
