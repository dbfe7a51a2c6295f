"""The worlds of many seeds, with their clients behind a frontend's link."""

from __future__ import annotations

import pytest

from simulation.drawing import draw_plan
from simulation.linked import LinkedWorld
from simulation.scenarios import CrowdPlay, world_of
from simulation.seeding import seeded_scheduler

CHUNK = 25


@pytest.mark.parametrize("first", range(0, 4 * CHUNK, CHUNK))
def test_every_promise_is_kept(first: int) -> None:
    for seed in range(first, first + CHUNK):
        with seeded_scheduler(seed) as random:
            plan = draw_plan(random)
        world = world_of(plan, kind=LinkedWorld)
        world.run(CrowdPlay(plan), seed=seed)
        assert world.ledger.asked
