"""A model on a fake GPU that doubles its input, in a literal time."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from protocol.inference import InferRequest, Tensor
from protocol.status import invalid_arg
from repo.backends.base import ExecuteRequest
from repo.devices.fake import FakeGpu, FakeGpus
from repo.devices.lane import Lane, Lanes
from repo.devices.port import DeviceArray


class Silent:
    """A sender of a model that is not decoupled."""

    def send(self, outcome: object, *, final: bool) -> None:
        raise AssertionError("its responses are returned")

    def is_cancelled(self) -> bool:
        return False


class Doubling:
    """`OUT` = 2 * `IN`, both FP32; `seconds` a batch. Raises for an input of zero rows."""

    def __init__(self, gpu: FakeGpu, lane: Lane, seconds: float = 2.0) -> None:
        self._gpu = gpu
        self._lane = lane
        self._seconds = seconds
        self.seen: list[Mapping[str, DeviceArray]] = []

    def run(self, inputs: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        self.seen.append(inputs)
        given = inputs["IN"]
        if not given.shape[0]:
            raise invalid_arg("nothing to double")
        memory = self._gpu.allocate(given.byte_size)

        def effect() -> None:
            raw = ctypes.string_at(given.address, given.byte_size)
            doubled = (np.frombuffer(raw, np.float32) * 2).tobytes()
            ctypes.memmove(memory.address, doubled, len(doubled))

        self._gpu.launch(self._lane.compute, self._seconds, effect, "double")
        return {"OUT": DeviceArray(memory, "FP32", given.shape)}


def request(
    *values: float,
    number: int = 1,
    tensor: Tensor | None = None,
    on_device: frozenset[str] = frozenset(),
) -> ExecuteRequest:
    """A request of one row per value."""
    array = np.array(values, np.float32).reshape(-1, 1)
    given = tensor or Tensor.from_array("IN", array)
    asked = InferRequest("m", id=str(number), inputs=[given], on_device=on_device)
    return ExecuteRequest(asked, given.shape[0], Silent(), number=number)


def lanes(gpu: FakeGpu, *, pinned_bytes: int = 1 << 20, memory_bytes: int = 1 << 19) -> Lanes:
    gpus = FakeGpus([gpu])
    return Lanes(gpus, pinned_bytes=pinned_bytes, memory_bytes={gpu.device_id: memory_bytes})
