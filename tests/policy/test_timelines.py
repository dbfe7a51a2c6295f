"""The policy, stepped through the worked timelines T1 to T17."""

from __future__ import annotations

import pytest

from actors.policy.batching import DynamicBatcher
from tests.policy.timeline import Timeline
from tests.worked_timelines import TIMELINES
from tests.worked_timelines import Timeline as Worked


@pytest.mark.parametrize("worked", TIMELINES, ids=lambda worked: worked.name)
def test_timeline(worked: Worked) -> None:
    line = Timeline(DynamicBatcher(worked.settings), [worked.duration])
    for one in worked.arrivals:
        line.send(one.at, one.name, one.size, shape=one.shape, level=one.level, timeout=one.timeout)
    line.play()

    seen = [
        (ran.at, ran.names if isinstance(expected, str) else ran.size)
        for ran, (_, expected) in zip(line.ran, worked.batches, strict=True)
    ]
    assert seen == list(worked.batches)
    assert line.refused == list(worked.refused)
    if worked.closed_by:
        assert tuple(ran.closed_by for ran in line.ran) == worked.closed_by
