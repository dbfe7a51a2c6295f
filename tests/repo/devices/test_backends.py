"""The libraries on a lane: what they do on a GPU, done by them on the host as a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import trio
from onnx import TensorProto, helper

from actors.street.device_executor import DeviceExecutor
from actors.street.executor import execute
from protocol.inference import DeviceTensor, InferRequest, InferResponse, Tensor
from protocol.status import ServerError
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Timings
from repo.backends.onnxruntime import OnnxRuntimeBackend
from repo.backends.onnxruntime_session import open_session, shares_stream
from repo.backends.pytorch import PyTorchBackend
from repo.devices.cpu import CpuDevice
from repo.devices.fake import FakeGpu
from repo.devices.lane import Lane, Lanes
from repo.devices.port import Device, DeviceSpan, NoDevices
from repo.pbtxt import parse_config
from tests.repo.devices.fake_model import Silent, lanes

CONFIG = """
name: "m" max_batch_size: 4
input { name: "IN" data_type: TYPE_FP32 dims: 2 }
output { name: "OUT" data_type: TYPE_FP32 dims: 2 }
"""


class OnTheHost(NoDevices):
    """Its only device is the host."""

    def __init__(self) -> None:
        super().__init__()
        self.device = CpuDevice()

    def open(self, device_id: int) -> Device:
        return self.device


@dataclass
class Rig:
    """A model that adds one, loaded on a lane of the host."""

    executor: DeviceExecutor
    device: CpuDevice

    async def ask(self, *requests: ExecuteRequest) -> list[Tensor]:
        outputs = []
        for outcome in await execute(self.executor, requests, Timings()):
            assert isinstance(outcome, InferResponse), outcome
            outputs += outcome.outputs
        return outputs

    def span(self, *values: float) -> DeviceSpan:
        memory = self.device.allocate(4 * len(values))
        self.device.write(memory, np.array(values, np.float32).tobytes())
        return DeviceSpan(memory)


def context(directory: Path, config: str = CONFIG, kind: str = "CPU") -> InstanceContext:
    return InstanceContext(parse_config(config, "x"), 1, directory, "m_0", kind)


def onnx_model(directory: Path) -> Backend:
    """OUT = IN + 1."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    shape = ["N", 2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["IN", "one"], ["OUT"])],
        "g",
        [helper.make_tensor_value_info("IN", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, shape)],
        [one],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    (directory / "1").mkdir()
    onnx.save(model, str(directory / "1" / "model.onnx"))
    return OnnxRuntimeBackend(context(directory))


def torch_model(directory: Path) -> Backend:
    """The same, and the model writes into its input."""
    torch = pytest.importorskip("torch")

    class AddsInPlace(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch has no types here
        def forward(self, IN: Any) -> Any:  # noqa: N803  # the input's name
            return IN.add_(1.0)

    (directory / "1").mkdir()
    traced = torch.jit.trace(AddsInPlace(), torch.zeros(1, 2))
    traced.save(str(directory / "1" / "model.pt"))
    config = CONFIG + 'platform: "pytorch_libtorch" default_model_filename: "model.pt"'
    return PyTorchBackend(context(directory, config))


MODELS = [
    pytest.param(onnx_model, id="onnxruntime"),
    pytest.param(
        torch_model,
        id="pytorch",
        marks=[
            pytest.mark.torch,
            pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
        ],
    ),
]


def request(tensor: Tensor, *, on_device: bool = False) -> ExecuteRequest:
    wanted = frozenset({"OUT"} if on_device else ())
    asked = InferRequest("m", inputs=[tensor], on_device=wanted)
    return ExecuteRequest(asked, tensor.shape[0], Silent())


def on_host(*values: float) -> Tensor:
    return Tensor.from_array("IN", np.array(values, np.float32).reshape(-1, 2))


@pytest.mark.parametrize("make", MODELS)
async def test_batches_pass_the_lane_of_a_library(
    make: Callable[[Path], Backend], tmp_path: Path
) -> None:
    devices = OnTheHost()
    backend = make(tmp_path)
    of = Lanes(devices, pinned_bytes=1 << 16, memory_bytes={})
    rig = Rig(DeviceExecutor(backend, open_lane=partial(of.open, 0)), devices.device)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.executor.start)
        assert backend.on_device() is not None
        first, second = await rig.ask(request(on_host(1, 2, 3, 4)), request(on_host(5, 6)))
        assert first.array.tolist() == [[2, 3], [4, 5]]
        assert second.array.tolist() == [[6, 7]]
        # Where it is, and to where it is; what was given is still what it was.
        span = rig.span(7, 8)
        (kept,) = await rig.ask(request(DeviceTensor("IN", "FP32", (1, 2), span), on_device=True))
        assert isinstance(kept, DeviceTensor)
        (again,) = await rig.ask(request(kept.renamed("IN")))
        assert again.array.tolist() == [[9, 10]]
        assert kept.array.tolist() == [[8, 9]]
        assert np.frombuffer(span.read(), np.float32).tolist() == [7, 8]
        bad = Tensor.from_array("NO", np.zeros((1, 2), np.float32))
        with pytest.raises(ServerError):
            await rig.ask(request(bad))
        assert (await rig.ask(request(on_host(0, 0))))[0].array.tolist() == [[1, 1]]
        rig.executor.stop()


def lane_of(gpu: FakeGpu) -> Lane:
    return lanes(gpu).open(gpu.device_id)


def test_onnxruntime_gets_the_stream_of_the_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        "repo.backends.onnxruntime_session.ort.get_available_providers",
        lambda: ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(
        "repo.backends.onnxruntime_session.ort.InferenceSession",
        lambda _path, _options, providers: made.append(dict(providers)),
    )
    onnx_model(tmp_path)
    lane = lane_of(FakeGpu())
    open_session(context(tmp_path, kind="GPU"), lane=lane)
    assert made[-1]["CUDAExecutionProvider"]["user_compute_stream"] == str(lane.compute.handle)
    open_session(context(tmp_path, kind="GPU"))
    assert "user_compute_stream" not in made[-1]["CUDAExecutionProvider"]
    # TensorRT has streams of its own, so that nothing may be assumed of ours.
    tensorrt = (
        'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'
    )
    with_tensorrt = context(tmp_path, CONFIG + tensorrt, kind="GPU")
    assert not shares_stream(with_tensorrt)
    open_session(with_tensorrt, lane=lane)
    assert "user_compute_stream" not in made[-1]["CUDAExecutionProvider"]
