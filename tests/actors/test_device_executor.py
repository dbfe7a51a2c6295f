"""An instance's thread with its device, on GPUs that are not there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from actors.failures import root_cause
from actors.street import device_executor
from actors.street.device_executor import DeviceExecutor
from actors.street.executor import Ended, execute
from protocol.inference import InferResponse
from protocol.status import ServerError
from repo.backends.base import (
    Backend,
    DeviceModel,
    ExecuteRequest,
    InstanceContext,
    Outcome,
    Timings,
)
from repo.devices.fake import FakeGpu
from repo.devices.lane import Lane
from repo.devices.port import DeviceArray, DeviceError, DeviceLost
from repo.pbtxt import parse_config
from tests.repo.devices.fake_model import Doubling, lanes, request

CONFIG = 'name: "m" max_batch_size: 8 input { name: "IN" data_type: TYPE_FP32 dims: 1 }'


class DoublingBackend(Backend):
    """Runs on its lane, and says when a batch has been launched."""

    uses_lane = True

    def __init__(self, gpu: FakeGpu, *, config: str = CONFIG, has_stages: bool = True) -> None:
        context = InstanceContext(parse_config(config, "x"), 1, Path("m"), "m_0", "GPU")
        super().__init__(context)
        self.gpu = gpu
        self.has_stages = has_stages
        self.threads: set[int] = set()
        self.launched: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def load(self) -> None:
        assert self.lane is not None, "it is there before the model is"
        self.threads.add(threading.get_ident())
        self._model = Doubling(self.gpu, self.lane)

    def on_device(self) -> DeviceModel | None:
        return self if self.has_stages else None

    def run(self, inputs: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        self.threads.add(threading.get_ident())
        outputs = self._model.run(inputs)
        self.launched()
        return outputs

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        self.calls.append("execute")
        return [InferResponse("m", "1") for _ in requests]

    def unload(self) -> None:
        self.calls.append("unload")


def executor_of(gpu: FakeGpu, backend: DoublingBackend) -> DeviceExecutor:
    return DeviceExecutor(backend, open_lane=functools.partial(lanes(gpu).open, gpu.device_id))


def value(ended: Ended) -> float:
    assert not isinstance(ended, ServerError), ended
    (outcome,) = ended
    assert isinstance(outcome, InferResponse)
    found: float = outcome.outputs[0].array.item()
    return found


async def test_the_thread_holds_its_device_and_answers() -> None:
    gpu = FakeGpu(is_hasty=True)
    backend = DoublingBackend(gpu)
    executor = executor_of(gpu, backend)
    assert (executor.depth, executor.on_device) == (2, True)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        assert value(await execute(executor, [request(4.0)], Timings())) == 8.0
        with pytest.raises(ServerError, match="nothing to double"):
            await execute(executor, [request()], Timings())
        executor.stop()
    assert backend.threads == gpu.current_in, "one thread, whose current device it is"
    assert backend.calls == ["unload"]
    assert not any(stream.is_open for stream in gpu.streams)


async def test_two_batches_are_in_flight_and_their_stages_overlap() -> None:
    gpu = FakeGpu(seconds_per_byte=0.25)
    backend = DoublingBackend(gpu)
    executor = executor_of(gpu, backend)
    launches, launched = trio.open_memory_channel[None](9)
    ends, ended = trio.open_memory_channel[Ended](9)
    token = trio.lowlevel.current_trio_token()
    backend.launched = lambda: token.run_sync_soon(launches.send_nowait, None)
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        for number in (1.0, 2.0, 3.0):
            executor.begin([request(number)], Timings(), ends.send_nowait)
        # The third waits, in the thread, until the first has landed.
        for _ in range(3):
            await launched.receive()
        assert value(await ended.receive()) == 2.0
        gpu.advance(10.0)
        assert value(await ended.receive()) == 4.0
        assert value(await ended.receive()) == 6.0
        executor.stop()
    first, second, third = (gpu.schedule[start : start + 3] for start in (0, 3, 6))
    assert second[0].overlaps(first[1]), "copied in while the first one computes"
    assert third[0].start >= first[2].end
    assert [each.engine for each in first] == ["in", "compute", "out"]


async def test_models_without_stages_are_executed_as_ever() -> None:
    for backend in (
        DoublingBackend(FakeGpu(), has_stages=False),
        DoublingBackend(FakeGpu(), config=CONFIG + " sequence_batching { }"),
    ):
        executor = executor_of(backend.gpu, backend)
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.start)
            await execute(executor, [request(1.0)], Timings())
            executor.stop()
        assert backend.calls == ["execute", "unload"]
    assert (executor.depth, executor.on_device) == (1, False)


@pytest.mark.parametrize("is_in_flight", [False, True])
async def test_a_lost_device_ends_the_instance(
    is_in_flight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_executor, "LOOK_SECONDS", 0.01)
    gpu = FakeGpu(seconds_per_byte=0.25)
    backend = DoublingBackend(gpu)
    executor = executor_of(gpu, backend)
    token = trio.lowlevel.current_trio_token()
    launched = trio.Event()
    backend.launched = lambda: token.run_sync_soon(launched.set)
    answers: list[object] = []

    async def ask() -> None:
        try:
            await execute(executor, [request(1.0)], Timings())
        except ServerError as error:
            answers.append(error.message)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.start)
            if not is_in_flight:
                gpu.lose()
            nursery.start_soon(ask)
            if is_in_flight:
                await launched.wait()
                gpu.lose()

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert isinstance(root_cause(caught.value), DeviceLost)
    assert answers == ["model instance 'm_0' has lost its device: fake GPU 0: the device is lost"]
    assert not await executor.is_ready()


async def test_an_instance_without_its_device_does_not_load() -> None:
    def missing() -> Lane:
        raise DeviceError("no CUDA runtime library was found")

    executor = DeviceExecutor(DoublingBackend(FakeGpu()), open_lane=missing)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(executor.start)
    assert str(root_cause(caught.value)).endswith(
        "unable to load model 'm', instance 'm_0' has no device: no CUDA runtime library was found"
    )
