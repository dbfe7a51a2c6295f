"""What a server says of its last minute."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from troupe.draining import report_connections


class Port:
    """A port whose connections end when a test says so."""

    def __init__(self, count: int) -> None:
        self.connection_count = count


async def test_every_second_says_who_is_still_there(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    began = autojump_clock.current_time()
    http, grpc = Port(2), Port(1)
    with trio.CancelScope(deadline=began + 30) as life:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report_connections, [("A", http), ("B", grpc)], life)
            await trio.sleep(1.5)
            http.connection_count = 0
            await trio.sleep(1)
            grpc.connection_count = 0

    assert trio.current_time() == began + 3.125
    assert caplog.messages == [
        "Timeout 30: Found 2 A",
        "Timeout 30: Found 1 B",
        "Timeout 29: Found 2 A",
        "Timeout 29: Found 1 B",
        "Timeout 28: Found 1 B",
    ]


async def test_nothing_is_said_of_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await report_connections([("A", Port(0))], trio.CancelScope(deadline=0))

    assert not caplog.messages
