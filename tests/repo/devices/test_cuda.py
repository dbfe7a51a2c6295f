"""The CUDA device against a stand-in for the runtime library, which works on host memory."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from repo.devices.cuda import CudaDevice, open_cuda_device
from repo.devices.cuda_runtime import CudaRuntime, load_driver, load_runtime
from repo.devices.port import DeviceError, DeviceLost, OutOfDeviceMemory


class FakeCudart:
    """Does everything at once. `fails` is the status of the next call of a name.

    Arguments come as ctypes passes them: it looks at their values as the library would.
    """

    def __init__(self) -> None:
        self.device = 0
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}
        self.blocks: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.alive: set[int] = set()  # streams and events
        self._next = 100

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fails:
                return self.fails.pop(name)
            return getattr(self, f"_{name[4:]}")(*arguments) or 0

        return call

    def cudaGetErrorString(self, status: int) -> bytes:  # noqa: N802
        return f"error {status}".encode()

    def cudaGetLastError(self) -> int:  # noqa: N802
        self.calls.append("cudaGetLastError")
        return 0

    def _GetDeviceCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = 2

    def _GetDevice(self, device: Any) -> None:  # noqa: N802
        device._obj.value = self.device

    def _SetDevice(self, device: ctypes.c_int) -> None:  # noqa: N802
        self.device = device.value

    def _MemGetInfo(self, free: Any, total: Any) -> None:  # noqa: N802
        free._obj.value, total._obj.value = 300, 1000

    def _new(self, pointer: Any, flags: ctypes.c_uint) -> None:
        self._next += 1
        pointer._obj.value = self._next
        self.alive.add(self._next)

    def _gone(self, pointer: ctypes.c_void_p) -> None:
        assert pointer.value is not None
        self.alive.remove(pointer.value)

    _StreamCreateWithFlags = _EventCreateWithFlags = _new
    _StreamDestroy = _EventDestroy = _gone

    def _EventRecord(self, event: Any, stream: Any) -> None:  # noqa: N802
        assert {event.value, stream.value} <= self.alive

    def _StreamWaitEvent(self, stream: Any, event: Any, flags: ctypes.c_uint) -> None:  # noqa: N802
        assert {event.value, stream.value} <= self.alive
        assert flags.value == 0

    def _EventQuery(self, event: Any) -> None:  # noqa: N802
        assert event.value in self.alive

    _EventSynchronize = _EventQuery
    _StreamSynchronize = _EventQuery

    def _LaunchHostFunc(self, stream: Any, function: Any, data: ctypes.c_void_p) -> None:  # noqa: N802
        function(data.value)

    def _Malloc(self, pointer: Any, size: ctypes.c_size_t, flags: Any = None) -> None:  # noqa: N802
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block

    _HostAlloc = _Malloc

    def _Free(self, pointer: ctypes.c_void_p) -> None:  # noqa: N802
        assert pointer.value is not None
        del self.blocks[pointer.value]

    _FreeHost = _Free

    def _Memcpy(self, target: Any, source: Any, size: ctypes.c_size_t, kind: Any) -> None:  # noqa: N802
        ctypes.memmove(target, source, size.value)

    def _MemcpyAsync(self, target: Any, source: Any, size: Any, kind: Any, stream: Any) -> None:  # noqa: N802
        assert stream.value in self.alive
        ctypes.memmove(target, source, size.value)

    def _IpcOpenMemHandle(self, pointer: Any, handle: Any, flags: ctypes.c_uint) -> int:  # noqa: N802
        assert flags.value == 1
        address = int.from_bytes(bytes(handle.reserved)[:8], "little")
        pointer._obj.value = address
        return 0 if address in self.blocks else 1

    def _IpcCloseMemHandle(self, pointer: ctypes.c_void_p) -> None:  # noqa: N802
        assert pointer.value in self.blocks


class FakeDriver:
    """Knows the blocks of the runtime."""

    def __init__(self, runtime: FakeCudart) -> None:
        self._runtime = runtime
        self.fails = False

    def cuMemGetAddressRange_v2(self, base: Any, size: Any, address: ctypes.c_uint64) -> int:  # noqa: N802
        if self.fails:
            return 1
        block = self._runtime.blocks[address.value]
        base._obj.value, size._obj.value = address.value, len(block)
        return 0


class Rig:
    def __init__(self, device_id: int = 1) -> None:
        self.cudart = FakeCudart()
        self.driver = FakeDriver(self.cudart)
        self.runtime = CudaRuntime(lambda: self.cudart, lambda: self.driver)
        self.device = CudaDevice(device_id, self.runtime)


def test_copies_go_there_and_back_on_a_stream() -> None:
    rig = Rig()
    device = rig.device
    stream = device.new_stream()
    assert stream.handle in rig.cudart.alive
    source, target = device.allocate_pinned(4), device.allocate_pinned(4)
    source.view[:] = b"abcd"
    memory, copy = device.allocate(4), device.allocate(4)
    device.copy_in(memory, source, stream)
    device.copy_within(copy, memory, stream)
    device.copy_out(target, copy, stream)
    event = stream.record()
    stream.wait_for(event)
    event.wait()
    stream.synchronize()
    assert event.is_done()
    assert bytes(target.view) == device.read(copy) == b"abcd"
    device.write(copy, memoryview(b"xy"))
    assert device.read(copy.part(1, 3)) == b"ycd"
    for each in (memory, copy):
        device.free(each)
    for each_host in (source, target):
        device.free_pinned(each_host)
    assert not rig.cudart.blocks
    stream.close()
    stream.close()
    del event
    gc.collect()
    assert not rig.cudart.alive, "streams and events are destroyed"


def test_every_call_leaves_the_threads_own_device_current() -> None:
    rig = Rig(device_id=1)
    rig.device.memory_use()
    rig.device.new_stream()
    assert rig.cudart.device == 0
    rig.device.make_current()
    assert rig.cudart.device == 1
    assert rig.device.memory_use().used == 700
    assert rig.cudart.device == 1
    assert rig.device.dlpack_device == (2, 1)


def test_it_calls_back_by_a_function_of_the_library() -> None:
    rig = Rig()
    stream = rig.device.new_stream()
    called: list[str] = []
    stream.notify(lambda: called.append("done"))
    assert called == ["done"]
    rig.cudart.fails["cudaLaunchHostFunc"] = 1
    with pytest.raises(DeviceError, match="cudaLaunchHostFunc failed: error 1"):
        stream.notify(lambda: called.append("never"))
    assert called == ["done"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(1, DeviceError), (2, OutOfDeviceMemory), (700, DeviceLost), (719, DeviceLost)],
)
def test_errors_say_whether_anything_will_ever_work_again(
    status: int, kind: type[DeviceError]
) -> None:
    rig = Rig()
    rig.cudart.fails["cudaMalloc"] = status
    with pytest.raises(DeviceError, match=f"cudaMalloc failed: error {status}") as caught:
        rig.device.allocate(1)
    assert type(caught.value) is kind
    assert rig.cudart.calls[-2:] == ["cudaGetLastError", "cudaSetDevice"], "it is forgotten"
    assert rig.cudart.device == 0, "and the thread has its own device back"


def test_not_ready_is_no_error() -> None:
    rig = Rig()
    event = rig.device.new_stream().record()
    rig.cudart.fails["cudaEventQuery"] = 600
    assert not event.is_done()
    rig.cudart.fails["cudaEventQuery"] = 700
    with pytest.raises(DeviceLost, match="cudaEventQuery failed"):
        event.is_done()


def test_a_handle_opens_all_of_an_allocation_and_is_closed() -> None:
    rig = Rig()
    block = rig.device.allocate(10)
    handle = block.address.to_bytes(8, "little").ljust(64, b"\0")
    opened = rig.device.open_ipc(handle)
    assert (opened.address, opened.byte_size) == (block.address, 10)
    rig.device.close_ipc(opened)
    with pytest.raises(DeviceError, match="a CUDA handle has 64 bytes, not 3"):
        rig.device.open_ipc(b"abc")
    with pytest.raises(DeviceError, match="cudaIpcOpenMemHandle failed: error 1"):
        rig.device.open_ipc(bytes(64))
    rig.driver.fails = True
    with pytest.raises(DeviceError, match="cuMemGetAddressRange failed: CUDA error 1"):
        rig.device.open_ipc(handle)
    assert rig.cudart.calls.count("cudaIpcCloseMemHandle") == 2, "also what is refused"


def test_a_gpu_that_cuda_does_not_find_is_not_opened() -> None:
    rig = Rig()
    assert open_cuda_device(0, lambda: rig.runtime).name == "GPU 0"
    with pytest.raises(DeviceError, match="CUDA finds 2 GPUs, none of them is GPU 2"):
        open_cuda_device(2, lambda: rig.runtime)


def test_a_machine_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(DeviceError, match="no CUDA runtime library"):
        load_runtime()
    with pytest.raises(DeviceError, match=r"no CUDA driver library was found: libcuda\.so\.1"):
        load_driver()


def test_the_newest_runtime_that_the_driver_can_serve_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses = {"libcudart.so.13": 35, "libcudart.so.12": 0}
    tried: list[str] = []

    class Library:
        cudaGetErrorString = SimpleNamespace(restype=None)  # noqa: N815

        def __init__(self, name: str) -> None:
            tried.append(name)
            if name not in statuses:
                raise OSError(name)
            self.name = name

        def cudaGetDeviceCount(self, count: object) -> int:  # noqa: N802
            return statuses[self.name]

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert load_runtime().name == "libcudart.so.12"
    assert tried == ["libcudart.so.13", "libcudart.so.12"]
    statuses["libcudart.so.12"] = 35
    with pytest.raises(DeviceError, match="no CUDA driver, or one too old"):
        load_runtime()
