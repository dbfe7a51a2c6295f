"""CUDA shared memory on GPUs that are not there: regions, leases, and both protocols."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trio
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from actors.control.shared_memory import MAX_REGIONS, SharedMemory
from actors.settings.options import ServerOptions
from protocol.inference import (
    DeviceTensor,
    InferRequest,
    OutputPlan,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.status import ServerError, StatusCode
from protocol.v2_json_shared_memory import CudaRegion, SystemRegion
from repo.devices.fake import FakeGpu, FakeGpus
from repo.devices.port import DeviceMemory, DeviceSpan
from repo.pbtxt import parse_config
from repo.request_rules import RequestRules
from troupe import production
from troupe.server import Server

INVALID_ARGS = (
    StatusCode.INVALID_ARG,
    "failed to register shared memory region: invalid args",
)


class Rig:
    """Two GPUs; `block` of the first is what a client exports."""

    def __init__(self, byte_size: int = 16) -> None:
        self.gpus = FakeGpus([FakeGpu(0, is_hasty=True), FakeGpu(1, is_hasty=True)])
        self.gpu = self.gpus.open(0)
        self.block = self.gpu.allocate(byte_size)
        self.gpu.write(self.block, bytes(range(byte_size)))
        self.handle = self.gpu.export(self.block)
        self.memory = SharedMemory(allowed=True, devices=self.gpus)

    def wanted(self, name: str = "c", byte_size: int = 16, device_id: int = 0) -> CudaRegion:
        return CudaRegion(name, self.handle, device_id, byte_size)


async def refused(call: Awaitable[None]) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        await call
    return caught.value.status, caught.value.message


async def test_a_handle_is_opened_listed_and_closed() -> None:
    rig = Rig()
    await rig.memory.register_cuda(rig.wanted())
    assert rig.gpu.opened == [rig.handle]
    assert rig.memory.cuda_status("") == rig.memory.cuda_status("c") == [rig.wanted()]
    assert rig.memory.system_status("") == []
    with pytest.raises(ServerError) as caught:
        rig.memory.system_status("c")
    assert caught.value.message == (
        "The region named 'c' is registered as CUDA shared memory, not system shared memory"
    )
    rig.memory.unregister_system("c")  # of the other kind: no effect
    assert rig.gpu.opened == [rig.handle]
    rig.memory.unregister_cuda("c")
    assert rig.gpu.opened == []
    assert rig.memory.cuda_status("") == []


async def test_one_name_space_and_one_limit_hold_both_kinds(tmp_path: Path) -> None:
    rig = Rig()
    (tmp_path / "data").write_bytes(bytes(4096))
    memory = SharedMemory(allowed=True, directory=str(tmp_path), devices=rig.gpus)
    memory.register_system(SystemRegion("s", "/data", 0, 4))
    taken = (StatusCode.ALREADY_EXISTS, "shared memory region 's' already in manager")
    assert await refused(memory.register_cuda(rig.wanted("s"))) == taken
    for number in range(MAX_REGIONS - 1):
        await memory.register_cuda(rig.wanted(str(number)))
    status, text = await refused(memory.register_cuda(rig.wanted("more")))
    assert status is StatusCode.INVALID_ARG
    assert f"{MAX_REGIONS} regions are registered" in text
    memory.unregister_cuda("")
    assert [each.name for each in memory.system_status("")] == ["s"], "all of one kind only"
    await memory.register_cuda(rig.wanted("again"))
    memory.close()
    assert rig.gpu.opened == []


async def test_a_name_is_taken_while_its_handle_is_being_opened() -> None:
    rig = Rig()
    entered, go_on = trio.Event(), trio.Event()

    class SlowToWake(FakeGpus):
        def open(self, device_id: int) -> FakeGpu:
            trio.from_thread.run_sync(entered.set)
            trio.from_thread.run(go_on.wait)
            return super().open(device_id)

    memory = SharedMemory(allowed=True, devices=SlowToWake([rig.gpu]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.register_cuda, rig.wanted())
        await entered.wait()
        assert await refused(memory.register_cuda(rig.wanted())) == (
            StatusCode.ALREADY_EXISTS,
            "shared memory region 'c' already in manager",
        )
        go_on.set()
    assert memory.cuda_status("") == [rig.wanted()]


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(CudaRegion("c", bytes(64), 0, 4), id="no such memory"),
        pytest.param(CudaRegion("c", b"", 7, 4), id="no such device"),
        pytest.param(CudaRegion("c", b"", -1, 4), id="a negative device"),
    ],
)
async def test_what_cannot_be_opened_is_refused(wanted: CudaRegion) -> None:
    rig = Rig()
    assert await refused(rig.memory.register_cuda(wanted)) == INVALID_ARGS
    await rig.memory.register_cuda(rig.wanted())  # the name is free


@pytest.mark.parametrize("byte_size", [0, 17, 2**64])
async def test_a_client_may_not_lie_about_sizes(byte_size: int) -> None:
    rig = Rig()
    call = rig.memory.register_cuda(rig.wanted(byte_size=byte_size))
    assert await refused(call) == INVALID_ARGS
    assert rig.gpu.opened == [], "what was opened to look at it is closed"


async def test_inputs_stay_where_they_are_and_outputs_are_copied() -> None:
    rig = Rig()
    await rig.memory.register_cuda(rig.wanted())
    lease = rig.memory.lease()
    assert lease is not None
    span = lease.read(SharedMemoryRef("c", 4, 8))
    assert isinstance(span, DeviceSpan)
    assert span.memory.address == rig.block.address + 4
    tensor = DeviceTensor("IN", "INT32", (2,), span)
    assert (tensor.byte_size, tensor.encoded, tensor.element_count) == (8, None, 2)
    assert tensor.renamed("X").reshaped((1, 2)).array.tolist() == [[0x07060504, 0x0B0A0908]]
    request = InferRequest("m", inputs=[tensor, Tensor("B", "UINT8", (1,), raw=b"x")])
    plan = ResponsePlan(
        (
            OutputPlan("STAYS", shared_memory=SharedMemoryRef("c", 0, 4)),
            OutputPlan("TOP", classification=1, shared_memory=SharedMemoryRef("c", 0, 4)),
            OutputPlan("LEAVES"),
        )
    )
    lease.place(request, plan, on_device=True)
    assert request.on_device == {"STAYS"}
    assert request.inputs[0] is tensor
    lease.place(request, plan, on_device=False)
    assert [type(each) for each in request.inputs] == [Tensor, Tensor]
    assert bytes(request.inputs[0].raw) == bytes(range(4, 12))

    lease.write("OUT", SharedMemoryRef("c", 0, 3), Tensor("OUT", "UINT8", (3,), raw=b"abc"))
    assert rig.gpu.read(rig.block)[:4] == b"abc\x03"
    made = rig.gpu.allocate(2)
    rig.gpu.write(made, b"yz")
    output = DeviceTensor("OUT", "UINT8", (2,), DeviceSpan(made))
    lease.write("OUT", SharedMemoryRef("c", 14, 2), output)
    assert rig.gpu.read(rig.block)[13:] == b"\x0dyz"
    assert [each.engine for each in rig.gpu.schedule] == ["compute"], "it never left the device"
    # From another GPU it goes by way of the host.
    other = rig.gpus.open(1).allocate(1)
    rig.gpus.open(1).write(other, b"!")
    lease.write(
        "OUT", SharedMemoryRef("c", 0, 1), DeviceTensor("OUT", "UINT8", (1,), DeviceSpan(other))
    )
    assert rig.gpu.read(rig.block)[:1] == b"!"
    with pytest.raises(ServerError) as caught:
        lease.write("OUT", SharedMemoryRef("c", 0, 1), output)
    assert caught.value.message == (
        "shared memory size specified with the request for output 'OUT' (1 bytes) should be at "
        "least 2 bytes to hold the results"
    )
    # In use: it is only marked, and goes with the last lease.
    rig.memory.unregister_cuda("c")
    assert rig.memory.cuda_status("c") == [rig.wanted()]
    lease.release()
    assert rig.memory.cuda_status("") == []
    assert rig.gpu.opened == []


def test_admission_judges_device_tensors_by_their_size_alone() -> None:
    gpu = FakeGpu()
    rules = RequestRules.compile(parse_config('name: "m" ' + CONFIG, "x"))

    def tensor(byte_size: int) -> InferRequest:
        content = DeviceSpan(gpu.allocate(byte_size))
        return InferRequest("m", inputs=[DeviceTensor("INPUT0", "INT32", (1, 2), content)])

    fits, short = tensor(8), tensor(7)
    gpu.lose()  # whoever looked at it now would fail
    assert rules.admit(fits).batch_size == 1
    with pytest.raises(ServerError, match="Expected 8, got 7"):
        rules.admit(short)


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        (SharedMemoryRef("x", 0, 1), "Unable to find shared memory region: 'x'"),
        (SharedMemoryRef("c", 16, 1), "Invalid offset for shared memory region: 'c'"),
        (SharedMemoryRef("c", 8, 9), "Invalid offset + byte size for shared memory region: 'c'"),
    ],
)
async def test_spans_outside_a_region_are_refused(ref: SharedMemoryRef, text: str) -> None:
    rig = Rig()
    await rig.memory.register_cuda(rig.wanted())
    lease = rig.memory.lease()
    assert lease is not None
    with pytest.raises(ServerError) as caught:
        lease.read(ref)
    assert caught.value.message == text


async def test_a_lost_device_fails_the_request_and_nobody_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    await rig.memory.register_cuda(rig.wanted())
    lease = rig.memory.lease()
    assert lease is not None
    span = lease.read(SharedMemoryRef("c", 0, 4))
    assert isinstance(span, DeviceSpan)

    def failing(_: DeviceMemory) -> None:
        rig.gpu.check()

    monkeypatch.setattr(rig.gpu, "close_ipc", failing)
    rig.gpu.lose()
    request = InferRequest("m", inputs=[DeviceTensor("IN", "INT32", (1,), span)])
    with pytest.raises(ServerError) as caught:
        lease.place(request, ResponsePlan(), on_device=False)
    assert (caught.value.status, caught.value.message) == (
        StatusCode.INTERNAL,
        "failed to copy a tensor from fake GPU 0: fake GPU 0: the device is lost",
    )
    with pytest.raises(ServerError) as caught:
        lease.write("O", SharedMemoryRef("c", 0, 1), Tensor("O", "UINT8", (1,), raw=b"x"))
    assert (caught.value.status, caught.value.message) == (
        StatusCode.INTERNAL,
        "failed to write to CUDA shared memory region 'c': fake GPU 0: the device is lost",
    )
    lease.release()
    rig.memory.unregister_cuda("c")
    assert rig.memory.cuda_status("") == []
    assert "CUDA shared memory region 'c' was not closed" in caplog.text


# --- on the wire ---------------------------------------------------------------------------------

CONFIG = """
backend: "identity"
max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_INT32 dims: [ 2 ] }
output { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 2 ] }
instance_group { kind: KIND_GPU }
"""

CLIENTS = [
    pytest.param(grpcclient, lambda server: f"127.0.0.1:{server.grpc_port}", id="grpc"),
    pytest.param(httpclient, lambda server: f"127.0.0.1:{server.http_port}", id="http"),
]


def encoded(handle: bytes) -> str:
    """As both clients take handles."""
    return base64.b64encode(handle).decode()


@pytest.mark.parametrize(("client", "where"), CLIENTS)
async def test_clients_share_device_memory_over_both_protocols(
    client: ModuleType,
    where: Callable[[Server], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    rig.gpu.write(rig.block, np.array([7, -7], np.int32).tobytes() + bytes(8))
    monkeypatch.setattr(production, "find_devices", lambda _: rig.gpus)
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    options = ServerOptions(
        model_repository=(str(tmp_path),),
        http_address="127.0.0.1", http_port=0, grpc_address="127.0.0.1", grpc_port=0,
        allow_metrics=False, allow_client_shm=True,
    )  # fmt: skip
    server = Server(options)

    def ask() -> None:
        with client.InferenceServerClient(where(server)) as triton:
            triton.register_cuda_shared_memory("c", encoded(rig.handle), 0, 16)
            given = client.InferInput("INPUT0", [1, 2], "INT32")
            given.set_shared_memory("c", 8)
            wanted = client.InferRequestedOutput("OUTPUT0")
            wanted.set_shared_memory("c", 8, 8)
            answer = triton.infer("m", [given], outputs=[wanted])
            assert answer.get_output("OUTPUT0") is not None, "and its content is in the region"
            status = triton.get_cuda_shared_memory_status()
            assert "c" in str(status)
            with pytest.raises(InferenceServerException, match="invalid args"):
                triton.register_cuda_shared_memory("d", encoded(bytes(64)), 0, 16)
            triton.unregister_cuda_shared_memory("c")

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await trio.to_thread.run_sync(ask)
        server.stop()
    assert np.frombuffer(rig.gpu.read(rig.block), np.int32).tolist() == [7, -7, 7, -7]
    assert rig.gpu.opened == []
