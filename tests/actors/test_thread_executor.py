"""A backend in its thread: whatever its code raises, the thread and the server outlive it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from actors.street.executor import ThreadExecutor, execute
from protocol.status import ServerError, StatusCode, unavailable
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.model_config import ModelConfig
from tests.actors.process_rig import Client, request

CONTEXT = InstanceContext(ModelConfig(name="m"), 1, Path("m"), "m_0", "CPU")


class Raising(Backend):
    """Raises what it was made with, in one of its three methods."""

    def __init__(self, **errors: BaseException) -> None:
        super().__init__(CONTEXT)
        self.errors = errors
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]

    def load(self) -> None:
        self._call("load")

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        self._call("execute")
        return [unavailable("asked")] * len(requests)

    def unload(self) -> None:
        self._call("unload")


async def run_one(backend: Backend) -> Sequence[Outcome | None] | ServerError:
    """Load, run one batch, unload."""
    executor = ThreadExecutor(backend)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        try:
            return await execute(executor, [request()], Timings())
        except ServerError as error:
            return error
        finally:
            executor.stop()


@pytest.mark.parametrize("error", [OSError("the device is gone"), SystemExit(3)])
async def test_an_unload_that_raises_is_only_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Raising(unload=error)

    with caplog.at_level(logging.ERROR):
        (outcome,) = await run_one(backend)  # type: ignore[misc]  # the batch does not raise

    assert isinstance(outcome, ServerError)
    assert backend.calls == ["load", "execute", "unload"]
    (record,) = caplog.records
    assert record.getMessage() == "model instance 'm_0' failed to unload"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [OSError("the device is gone"), SystemExit("the device is gone")])
async def test_an_execution_that_raises_fails_its_batch(error: BaseException) -> None:
    backend = Raising(execute=error)

    outcome = await run_one(backend)

    assert isinstance(outcome, ServerError)
    assert outcome.status is StatusCode.INTERNAL
    assert outcome.message == f"{type(error).__name__}: the device is gone"
    assert backend.calls == ["load", "execute", "unload"]


async def test_a_load_that_raises_is_the_reason_and_unloads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What then goes wrong while unloading does not hide it."""
    backend = Raising(load=SystemExit("no licence"), unload=OSError("not loaded"))

    with pytest.raises(ExceptionGroup) as raised:
        await ThreadExecutor(backend).start()

    assert raised.group_contains(ServerError, match="SystemExit: no licence")
    assert backend.calls == ["load", "unload"]
    assert len(caplog.records) == 1


async def test_a_batch_that_nobody_waits_for_any_longer_is_not_begun() -> None:
    backend = Raising()
    executor = ThreadExecutor(backend)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        with pytest.raises(ServerError) as raised:
            await execute(executor, [request(client=Client(cancelled=True))], Timings())
        executor.stop()

    assert raised.value.status is StatusCode.CANCELLED
    assert backend.calls == ["load", "unload"]
