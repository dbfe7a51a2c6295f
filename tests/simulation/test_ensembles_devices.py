"""Tensors between the steps of an ensemble stay on a device as long as nobody needs their bytes."""

from __future__ import annotations

import pytest

from protocol.inference import DeviceTensor, InferResponse, Tensor
from repo.backends.base import ExecuteRequest, Outcome
from repo.devices.fake import FakeGpu
from repo.devices.port import DeviceSpan
from simulation.executor import SimulatedExecutor, echo
from simulation.world import SimulatedModel, World, zeros
from tests.simulation.ensemble_worlds import CHAIN, MEMBER, run

CACHED = MEMBER + " response_cache { enable: true }"


class Members:
    """Members of a chain on one fake GPU, which leave there what they are asked to leave."""

    def __init__(self) -> None:
        self.gpu = FakeGpu()
        self.asked: list[frozenset[str]] = []
        self.inputs: list[Tensor] = []

    def behave(self, request: ExecuteRequest) -> Outcome:
        self.asked.append(request.request.on_device)
        self.inputs += request.request.inputs
        outcome = echo(request)
        assert isinstance(outcome, InferResponse)
        outcome.outputs = [self._placed(each, request) for each in outcome.outputs]
        return outcome

    def _placed(self, tensor: Tensor, request: ExecuteRequest) -> Tensor:
        if tensor.name not in request.request.on_device:
            return tensor.on_host() if isinstance(tensor, DeviceTensor) else tensor
        memory = self.gpu.allocate(tensor.byte_size)
        self.gpu.write(memory, tensor.raw)
        return DeviceTensor(tensor.name, tensor.datatype, tensor.shape, DeviceSpan(memory))

    def models(self, last: str = MEMBER) -> dict[str, SimulatedModel]:
        return {
            "e": SimulatedModel(CHAIN),
            "a": SimulatedModel(MEMBER, behaviour=self.behave),
            "b": SimulatedModel(last, behaviour=self.behave),
        }


async def ask(world: World) -> None:
    response = await world.ask(zeros("e", (2, 1)))
    (output,) = response.outputs
    assert type(output) is Tensor, "the caller's is on the host"
    assert output.array.tolist() == [[0.0], [0.0]]


def test_what_only_the_next_step_takes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedExecutor, "on_device", True)
    members = Members()
    run(members.models(), ask)
    first, second = members.asked
    assert len(first) == 1
    assert second == frozenset()
    assert [type(each) for each in members.inputs] == [Tensor, DeviceTensor]


def test_a_step_on_the_host_and_one_before_a_cache_get_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = Members()
    run(members.models(), ask)
    assert members.asked == [frozenset(), frozenset()]
    monkeypatch.setattr(SimulatedExecutor, "on_device", True)
    members = Members()
    run(members.models(last=CACHED), ask)
    assert members.asked == [frozenset(), frozenset()]
