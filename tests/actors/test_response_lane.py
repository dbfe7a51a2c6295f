"""Responses that a backend's thread sends, on their way into trio."""

from __future__ import annotations

import logging

import pytest
import trio

from actors.street.response_lane import LANE, ResponseLane
from protocol.inference import InferResponse
from repo.backends.base import Outcome


def response(number: int) -> InferResponse:
    return InferResponse("m", "1", str(number))


async def test_responses_arrive_in_order_and_the_end_comes_last() -> None:
    found: list[tuple[str, bool]] = []
    done = trio.Event()

    async def deliver(outcome: Outcome | None, final: bool) -> None:
        found.append((outcome.id if isinstance(outcome, InferResponse) else "", final))
        if final:
            done.set()
        await trio.lowlevel.checkpoint()

    lane = ResponseLane(deliver, trio.lowlevel.current_trio_token())

    def send() -> None:
        for number in range(1000):
            lane.send(response(number), False)
        lane.send(None, True)

    await trio.to_thread.run_sync(send)
    with trio.fail_after(10):
        await done.wait()

    assert found == [*((str(number), False) for number in range(1000)), ("", True)]


async def test_a_caller_that_does_not_read_holds_the_thread() -> None:
    sent: list[int] = []
    read = trio.Semaphore(0)
    delivered = 0

    async def deliver(_: Outcome | None, __: bool) -> None:
        nonlocal delivered
        await read.acquire()
        delivered += 1

    lane = ResponseLane(deliver, trio.lowlevel.current_trio_token())

    def send() -> None:
        for number in range(3 * LANE):
            lane.send(response(number), False)
            sent.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, send)
        for reads in range(3 * LANE):
            # A response leaves the lane when it has been delivered, not before.
            assert len(sent) <= LANE + reads
            read.release()
            with trio.fail_after(10):
                while delivered <= reads:
                    await trio.lowlevel.checkpoint()

    assert delivered == 3 * LANE


async def test_a_response_that_cannot_be_delivered_is_logged_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found: list[str] = []
    done = trio.Event()

    async def deliver(outcome: Outcome | None, _: bool) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(outcome, InferResponse)
        assert outcome.id != "0", "this one is bad"
        found.append(outcome.id)
        done.set()

    lane = ResponseLane(deliver, trio.lowlevel.current_trio_token())
    with caplog.at_level(logging.ERROR):
        await trio.to_thread.run_sync(lane.send, response(0), False)
        while not caplog.records:
            await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(lane.send, response(1), True)
        with trio.fail_after(10):
            await done.wait()

    assert found == ["1"]
    assert "a response was lost on its way to its caller" in caplog.text
