"""An instance that is judged when it has loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from actors.failures import root_cause
from actors.street.executor import PlainExecutor, execute
from actors.street.limited_executor import LimitedExecutor
from protocol.status import ServerError, unavailable
from repo.backends.base import ExecuteRequest, Timings


class Answering(PlainExecutor):
    """Answers everything with one error."""

    depth = 2

    def begin(self, requests: object, timings: Timings, done: Callable[..., None]) -> None:
        done([unavailable("asked")])


REQUESTS: list[ExecuteRequest] = []


async def test_an_instance_serves_when_nothing_speaks_against_it() -> None:
    checked: list[str] = []
    executor = LimitedExecutor(Answering(), lambda: checked.append("once"))
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        assert checked == ["once"]
        assert executor.depth == 2
        assert await executor.is_ready()
        (outcome,) = await execute(executor, REQUESTS, Timings())
        assert isinstance(outcome, ServerError)
        executor.cancel(1)
        executor.stop()


async def test_a_refused_instance_ends_and_says_why() -> None:
    def refuse() -> None:
        raise unavailable("too full")

    inner = Answering()
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(LimitedExecutor(inner, refuse).start)
    cause = root_cause(caught.value)
    assert isinstance(cause, ServerError)
    assert cause.message == "too full"
    assert not await inner.is_ready()
