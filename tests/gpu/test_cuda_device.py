"""The CUDA device and both libraries on a GPU: what the stand-ins promise must hold there."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import trio

from actors.street.device_executor import DeviceExecutor
from actors.street.executor import execute
from protocol.inference import DeviceTensor, InferResponse, Tensor
from repo.backends.base import Backend, InstanceContext, Timings
from repo.devices.cuda import CudaDevice
from repo.devices.lane import Lanes
from repo.devices.port import Devices, DeviceSpan
from repo.devices.table import NvmlDevices, load_nvml
from tests.repo.devices.test_backends import on_host, onnx_model, request, torch_model

pytestmark = pytest.mark.gpu

LARGE = 1 << 26  # bytes: a copy of them takes milliseconds

EXPORTER = """
import ctypes, sys
from perf_analyzer.cuda_memory import CudaMemory
memory = CudaMemory()
sys.stdout.write(memory.allocate([b"abcdefgh"]).hex() + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_copies_go_there_and_back_and_are_called_back(device: CudaDevice) -> None:
    stream = device.new_stream()
    source, target = device.allocate_pinned(LARGE), device.allocate_pinned(LARGE)
    source.view[:8] = b"abcdefgh"
    memory = device.allocate(LARGE)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    device.copy_in(memory, source, stream)
    device.copy_out(target, memory, stream)
    event = stream.record()
    stream.notify(lambda: told.put("done"))
    assert told.get(timeout=30.0) == "done"
    assert event.is_done()
    assert bytes(target.view[:8]) == device.read(memory.part(0, 8)) == b"abcdefgh"
    assert 0 < device.memory_use().free < device.memory_use().total
    device.free(memory)
    device.free_pinned(source)
    device.free_pinned(target)
    stream.close()


def test_memory_of_another_process_is_opened(device: CudaDevice) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", EXPORTER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
    ) as exporter:  # fmt: skip
        assert exporter.stdout is not None
        handle = bytes.fromhex(exporter.stdout.readline().strip())
        memory = device.open_ipc(handle)
        assert memory.byte_size >= 8
        assert device.read(memory.part(0, 8)) == b"abcdefgh"
        device.write(memory.part(0, 2), b"XY")
        assert device.read(memory.part(0, 8)) == b"XYcdefgh"
        device.close_ipc(memory)
        exporter.communicate("")


def test_nvml_and_cuda_know_the_same_gpus(device: CudaDevice) -> None:
    nvml = load_nvml()
    if nvml is None:
        pytest.skip("pynvml is not installed")
    devices = NvmlDevices(nvml, lambda _: device, minimum=0.0)
    assert 0 in devices.table.gpu_ids
    assert devices.memory_use(0).total == pytest.approx(device.memory_use().total, rel=0.1)


@pytest.mark.parametrize("make", [onnx_model, torch_model])
async def test_a_library_runs_on_its_lane(
    make: Callable[[Path], Backend], device: CudaDevice, tmp_path: Path
) -> None:
    if make is torch_model:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("this PyTorch has no CUDA")
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has no CUDAExecutionProvider")
    on_cpu = make(tmp_path)
    given = on_cpu.context
    context = InstanceContext(given.config, 1, given.model_directory, "m_0", "GPU")
    opener: Any = SimpleNamespace(open=lambda _: device)
    of = Lanes(cast("Devices", opener), pinned_bytes=1 << 20, memory_bytes={})
    executor = DeviceExecutor(type(on_cpu)(context), open_lane=partial(of.open, 0))
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.start)
        both = await execute(
            executor, [request(on_host(1, 2), on_device=True), request(on_host(3, 4))], Timings()
        )
        kept, copied = (one.outputs[0] for one in both if isinstance(one, InferResponse))
        assert isinstance(kept, DeviceTensor)
        assert type(copied) is Tensor
        assert kept.array.tolist() == [[2, 3]]
        assert copied.array.tolist() == [[4, 5]]
        (again,) = await execute(executor, [request(kept.renamed("IN"))], Timings())
        assert isinstance(again, InferResponse)
        assert again.outputs[0].array.tolist() == [[3, 4]]
        assert kept.array.tolist() == [[2, 3]], "what others read is not written into"
        memory = device.allocate(8)
        device.write(memory, np.array([7, 8], np.float32).tobytes())
        shared = DeviceTensor("IN", "FP32", (1, 2), DeviceSpan(memory))
        (outcome,) = await execute(executor, [request(shared)], Timings())
        assert isinstance(outcome, InferResponse)
        assert outcome.outputs[0].array.tolist() == [[8, 9]]
        executor.stop()
