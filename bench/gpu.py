"""Images per second of a ResNet-50-shaped model on a GPU: bare, and served over gRPC.

    python bench/gpu.py [--batch N] [--seconds N] [--clients N]

Prints what the engine does alone in a loop with its input on the device, what clients get over
gRPC with tensors in the messages and in CUDA shared memory, each as a ratio to the bare loop of the
same run, and how much of the copies of a batch is hidden behind the computing of the one before.
Weights are random: it is the shape that costs. Needs a GPU and `pip install 'troupe[gpu,test]'`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from processes import free_ports

from perf_analyzer.cuda_memory import CudaMemory
from protocol.inference import InferRequest, Tensor
from repo.backends.base import ExecuteRequest, Timings
from repo.devices.cuda import open_cuda_device
from repo.devices.lane import Lane, Lanes
from repo.devices.pipeline import Pipeline
from repo.devices.port import Device, DeviceError, NoDevices

IMAGE: Final = (3, 224, 224)
CLASSES: Final = 1000
STAGES: Final = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
READY_SECONDS: Final = 180.0
STOP_SECONDS: Final = 60.0
WARM_UP_ROUNDS: Final = 10
ROUNDS: Final = 50

CONFIG: Final = """
name: "resnet50" platform: "pytorch_libtorch" max_batch_size: {batch}
input {{ name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ 1000 ] }}
instance_group {{ kind: KIND_GPU gpus: 0 }}
"""


def resnet50(torch: Any) -> Any:
    """Bottlenecks of 1x1, 3x3 and 1x1 convolutions, [3, 4, 6, 3] of them, as the paper has it."""
    nn = torch.nn

    def convolution(given: int, made: int, size: int, stride: int = 1) -> list[Any]:
        padding = size // 2
        return [
            nn.Conv2d(given, made, size, stride, padding, bias=False), nn.BatchNorm2d(made)
        ]  # fmt: skip

    class Bottleneck(nn.Module):  # type: ignore[misc, name-defined]  # torch has no types here
        def __init__(self, given: int, width: int, stride: int) -> None:
            super().__init__()
            made = 4 * width
            self.body = nn.Sequential(
                *convolution(given, width, 1), nn.ReLU(),
                *convolution(width, width, 3, stride), nn.ReLU(),
                *convolution(width, made, 1),
            )  # fmt: skip
            same = stride == 1 and given == made
            self.skip = nn.Identity() if same else nn.Sequential(
                *convolution(given, made, 1, stride)
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.skip(x))

    layers = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    given = 64
    for width, blocks, stride in STAGES:
        for number in range(blocks):
            layers.append(Bottleneck(given, width, 1 if number else stride))
            given = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, CLASSES)]
    return nn.Sequential(*layers).eval()


def write_repository(torch: Any, directory: Path, batch: int) -> Path:
    """A repository with the model; returns the model's file."""
    model = directory / "resnet50"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG.format(batch=batch))
    torch.manual_seed(0)
    with torch.no_grad():
        traced = torch.jit.trace(resnet50(torch), torch.zeros(1, *IMAGE))
    traced.save(str(model / "1" / "model.pt"))
    return model / "1" / "model.pt"


def per_round(rounds: int, work: Callable[[], None], settle: Callable[[], None]) -> float:
    """Seconds of one round of `work`, after a warm-up."""
    for _ in range(WARM_UP_ROUNDS):
        work()
    settle()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    settle()
    return (time.perf_counter() - began) / rounds


def bare_seconds(torch: Any, file: Path, batch: int) -> float:
    """Seconds per batch of the engine alone."""
    model = torch.jit.load(str(file), map_location="cuda:0")
    given = torch.rand(batch, *IMAGE, device="cuda:0")
    with torch.inference_mode():
        return per_round(ROUNDS, lambda: model(given), torch.cuda.synchronize)


class OneDevice(NoDevices):
    """The device that is measured."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def open(self, device_id: int) -> Device:
        return self._device


class Sender:
    """No response comes late."""

    def send(self, outcome: object, *, final: bool) -> None:
        raise AssertionError("responses are returned")

    def is_cancelled(self) -> bool:
        return False


def show_overlap(torch: Any, file: Path, batch: int, device: Device) -> None:
    """Times of copying alone, of computing alone, and of batches that come from the host."""
    from repo.backends.pytorch_device import TorchDeviceModel

    lane: Lane = Lanes(OneDevice(device), pinned_bytes=1 << 30, memory_bytes={0: 1 << 30}).open(0)
    torch.cuda.set_stream(torch.cuda.ExternalStream(lane.compute.handle, device=0))
    model = torch.jit.load(str(file), map_location="cuda:0")
    on_lane = TorchDeviceModel(
        lambda values: [model(values["x"])], [("y", "FP32", 0)], lane, inference_mode=True
    )
    pipeline: Pipeline[None] = Pipeline(
        lane, on_lane, version="1", max_batch_size=batch, notify=lambda: None
    )
    images = np.random.default_rng(0).random((batch, *IMAGE), np.float32)
    asked = InferRequest("resnet50", inputs=[Tensor.from_array("x", images)])
    request = ExecuteRequest(asked, batch, Sender())

    def one_at_a_time() -> None:
        pipeline.begin([request], Timings(), None)
        pipeline.finish()

    def two_in_flight() -> None:
        while not pipeline.begin([request], Timings(), None):
            pipeline.finish()

    def settle() -> None:
        while pipeline:
            pipeline.finish()

    pinned, memory = device.allocate_pinned(images.nbytes), device.allocate(images.nbytes)
    pinned.view[:] = images.data.cast("B")
    copying = per_round(
        ROUNDS, lambda: device.copy_in(memory, pinned, lane.copy_in), lane.copy_in.synchronize
    )
    serial = per_round(ROUNDS, one_at_a_time, settle)
    paired = per_round(ROUNDS, two_in_flight, settle)
    print(f"  copying in alone      {copying * 1e3:8.2f} ms per batch")
    print(f"  one batch at a time   {serial * 1e3:8.2f} ms per batch, from the host's memory")
    hidden = (serial - paired) / copying
    print(f"  two batches in flight {paired * 1e3:8.2f} ms per batch: saves {hidden:.2f} copies")


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """A server in a process of its own; gives its gRPC address."""
    http, grpc = free_ports(2)
    command = [
        sys.executable, "-m", "troupe", "serve", f"--model-repository={repository}",
        f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false",
        "--allow-client-shm=true", "--cuda-memory-pool-byte-size=0:1073741824",
    ]  # fmt: skip
    with subprocess.Popen(command) as server:
        try:
            _wait_until_ready(f"127.0.0.1:{grpc}", server)
            yield f"127.0.0.1:{grpc}"
        finally:
            server.terminate()
            server.wait(STOP_SECONDS)


def _wait_until_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    import tritonclient.grpc as client
    from tritonclient.utils import InferenceServerException

    deadline = time.monotonic() + READY_SECONDS
    with client.InferenceServerClient(address) as triton:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if triton.is_model_ready("resnet50"):
                    return
            except InferenceServerException:
                pass
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


class Client:
    """One client thread: its own connection and, if asked for, its own CUDA regions."""

    def __init__(self, address: str, number: int, batch: int, *, shared: bool) -> None:
        import base64

        import tritonclient.grpc as client

        self._triton = client.InferenceServerClient(address)
        self._memory = CudaMemory()
        images = np.random.default_rng(number).random((batch, *IMAGE), np.float32)
        self._input = client.InferInput("x", list(images.shape), "FP32")
        self._output = client.InferRequestedOutput("y")
        if not shared:
            self._input.set_data_from_numpy(images)
            return
        answer_bytes = batch * CLASSES * 4
        for role, content, size in (
            ("in", images.tobytes(), images.nbytes), ("out", bytes(answer_bytes), answer_bytes),
        ):  # fmt: skip
            handle = base64.b64encode(self._memory.allocate([content]))
            self._triton.register_cuda_shared_memory(f"{role}{number}", handle, 0, size)
        self._input.set_shared_memory(f"in{number}", images.nbytes)
        self._output.set_shared_memory(f"out{number}", answer_bytes)

    def infer(self) -> None:
        self._triton.infer("resnet50", [self._input], outputs=[self._output])

    def close(self) -> None:
        self._triton.unregister_cuda_shared_memory()
        self._triton.close()
        self._memory.free()


def images_per_second(
    address: str, batch: int, clients: int, seconds: float, *, shared: bool
) -> float:
    """What closed-loop clients get together."""
    group = [Client(address, number, batch, shared=shared) for number in range(clients)]
    for client in group:
        for _ in range(WARM_UP_ROUNDS):
            client.infer()
    answered = [0] * clients
    until = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < until:
            group[number].infer()
            answered[number] += batch

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.perf_counter() - began
    for client in group:
        client.close()
    return sum(answered) / lasted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    try:
        device = open_cuda_device(0)
    except DeviceError as error:
        raise SystemExit(f"nothing to measure: {error}") from None
    import torch

    batch = arguments.batch
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, batches of {batch}")
    with tempfile.TemporaryDirectory() as directory:
        file = write_repository(torch, Path(directory), batch)
        bare = batch / bare_seconds(torch, file, batch)
        print(f"bare loop          {bare:10.0f} images/s")
        with served(Path(directory)) as address:
            for label, shared in (("CUDA shared memory", True), ("in the messages", False)):
                rate = images_per_second(
                    address, batch, arguments.clients, arguments.seconds, shared=shared
                )
                print(f"{label:18} {rate:10.0f} images/s, {rate / bare:.3f} of the bare loop")
        print("copies and computing:")
        show_overlap(torch, file, batch, device)


if __name__ == "__main__":
    main()
