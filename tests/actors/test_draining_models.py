"""What a server says while it ends, second by second."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from troupe.draining import report_models


@dataclass
class Version:
    name: str
    version: int
    in_flight: int


async def test_models_that_work_are_named_until_all_have_ended(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    versions = [Version("a", 1, 2), Version("b", 3, 0)]

    async def work() -> None:
        await trio.sleep(0.5)
        versions[0].in_flight = 1
        await trio.sleep(1.0)
        versions[0].in_flight = 0
        await trio.sleep(1.0)
        versions.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await report_models(lambda: versions, deadline_at=30.0)

    assert autojump_clock.current_time() == 3.0
    assert caplog.messages == [
        "Timeout 30: Found 1 model versions that have in-flight inferences",
        "Model 'a' (version 1) has 2 in-flight inferences",
        "Timeout 29: Found 1 model versions that have in-flight inferences",
        "Model 'a' (version 1) has 1 in-flight inferences",
        "Timeout 28: Found 0 model versions that have in-flight inferences",
        "Timeout 28: Found 2 live models and 0 in-flight non-inference requests",
    ]
