"""The whole server, run through the worked timelines T1 to T17 in virtual time."""

from __future__ import annotations

import pytest

from tests.simulation.rig import SEEDS, Schedule, model_config
from tests.worked_timelines import TIMELINES, Timeline


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("worked", TIMELINES, ids=lambda worked: worked.name)
def test_timeline(worked: Timeline, seed: int) -> None:
    schedule = Schedule(model_config(worked.settings), duration=worked.duration)
    for one in worked.arrivals:
        schedule.send(
            one.at, one.name, one.size, shape=one.shape, level=one.level, timeout=one.timeout
        )
    schedule.play(seed)

    seen = [
        (at, names if isinstance(expected, str) else size)
        for (at, names), (_, size), (_, expected) in zip(
            schedule.batches, schedule.sizes, worked.batches, strict=True
        )
    ]
    assert seen == list(worked.batches)
    assert schedule.refused == list(worked.refused)
    if worked.closed_by:
        told = tuple(schedule.closed_by(names.split()[0]) for _, names in schedule.batches)
        assert told == worked.closed_by
