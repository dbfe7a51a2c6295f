"""NVIDIA GPUs, by the CUDA runtime: streams, events, copies, pinned memory, handles of others.

Owns the translation of the port into runtime calls. Nothing is loaded before the first GPU is
opened. Every call first makes its GPU the current one of its thread and then puts the thread's own
one back, because libraries in the same thread go by it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from repo.devices.cuda_runtime import (
    IPC_HANDLE_BYTES,
    CudaRuntime,
    HostFunction,
    IpcHandle,
)
from repo.devices.port import (
    DeviceError,
    DeviceMemory,
    Event,
    HostMemory,
    MemoryUse,
    Stream,
)

_NON_BLOCKING: Final = 1  # cudaStreamNonBlocking: does not wait for the legacy default stream
_BLOCKING_SYNC: Final = 1  # cudaEventBlockingSync: a waiting thread sleeps
_DISABLE_TIMING: Final = 2  # cudaEventDisableTiming: an event that only orders is cheaper
_PORTABLE: Final = 1  # cudaHostAllocPortable: pinned for every GPU
_LAZY_PEER_ACCESS: Final = 1  # cudaIpcMemLazyEnablePeerAccess, the only flag there is
_TO_DEVICE: Final = 1  # cudaMemcpyHostToDevice
_TO_HOST: Final = 2  # cudaMemcpyDeviceToHost
_WITHIN: Final = 3  # cudaMemcpyDeviceToDevice


class CudaEvent:
    """A cudaEvent_t, destroyed with this object."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._event = ctypes.c_void_p()
        device.runtime.call(
            "cudaEventCreateWithFlags",
            ctypes.byref(self._event),
            ctypes.c_uint(_BLOCKING_SYNC | _DISABLE_TIMING),
        )

    @property
    def handle(self) -> ctypes.c_void_p:
        return self._event

    def is_done(self) -> bool:
        return self._device.runtime.is_ready("cudaEventQuery", self._event)

    def wait(self) -> None:
        self._device.runtime.call("cudaEventSynchronize", self._event)

    def __del__(self) -> None:
        if self._event:
            with contextlib.suppress(DeviceError):
                self._device.runtime.call("cudaEventDestroy", self._event)


# Callbacks on their way, by number: C knows them by that only.
_callbacks: dict[int, Callable[[], None]] = {}
_callback_numbers = itertools.count(1)


def _call_back(number: int | None) -> None:
    callback = _callbacks.pop(number or 0, None)
    if callback is not None:
        callback()


_HOST_FUNCTION = HostFunction(_call_back)


class CudaStream:
    """A non-blocking cudaStream_t."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._stream = ctypes.c_void_p()
        with device.current():
            device.runtime.call(
                "cudaStreamCreateWithFlags",
                ctypes.byref(self._stream),
                ctypes.c_uint(_NON_BLOCKING),
            )

    @property
    def handle(self) -> int:
        return self._stream.value or 0

    def record(self) -> Event:
        with self._device.current():
            event = CudaEvent(self._device)
            self._device.runtime.call("cudaEventRecord", event.handle, self._stream)
        return event

    def wait_for(self, event: Event) -> None:
        assert isinstance(event, CudaEvent), "events and streams are of one device"
        with self._device.current():
            self._device.runtime.call(
                "cudaStreamWaitEvent", self._stream, event.handle, ctypes.c_uint(0)
            )

    def notify(self, callback: Callable[[], None]) -> None:
        number = next(_callback_numbers)
        _callbacks[number] = callback
        try:
            with self._device.current():
                self._device.runtime.call(
                    "cudaLaunchHostFunc", self._stream, _HOST_FUNCTION, ctypes.c_void_p(number)
                )
        except BaseException:
            _callbacks.pop(number, None)
            raise

    def synchronize(self) -> None:
        with self._device.current():
            self._device.runtime.call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        stream, self._stream = self._stream, ctypes.c_void_p()
        if stream:
            with contextlib.suppress(DeviceError):
                self._device.runtime.call("cudaStreamDestroy", stream)


class CudaDevice:
    """One GPU by CUDA's number."""

    def __init__(self, device_id: int, runtime: CudaRuntime) -> None:
        """Raises DeviceError where CUDA has no such GPU."""
        self.runtime = runtime
        self.device_id = device_id
        self.name = f"GPU {device_id}"
        self.dlpack_device = (2, device_id)
        count = ctypes.c_int()
        runtime.call("cudaGetDeviceCount", ctypes.byref(count))
        if device_id >= count.value:
            raise DeviceError(f"CUDA finds {count.value} GPUs, none of them is GPU {device_id}")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The GPU is the thread's current one within."""
        before = ctypes.c_int()
        self.runtime.call("cudaGetDevice", ctypes.byref(before))
        if before.value == self.device_id:
            # The first use of a GPU in a process has to say so, or there is no context.
            self.make_current()
            yield
            return
        self.make_current()
        try:
            yield
        finally:
            self.runtime.call("cudaSetDevice", before)

    def make_current(self) -> None:
        self.runtime.call("cudaSetDevice", ctypes.c_int(self.device_id))

    def memory_use(self) -> MemoryUse:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self.current():
            self.runtime.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return MemoryUse(total.value, free.value)

    def new_stream(self) -> Stream:
        return CudaStream(self)

    def allocate(self, byte_size: int) -> DeviceMemory:
        pointer = ctypes.c_void_p()
        with self.current():
            # One byte at least: CUDA gives no address for nothing.
            self.runtime.call(
                "cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(byte_size, 1))
            )
        return DeviceMemory(self, pointer.value or 0, byte_size)

    def free(self, memory: DeviceMemory) -> None:
        with self.current():
            self.runtime.call("cudaFree", ctypes.c_void_p(memory.address))

    def allocate_pinned(self, byte_size: int) -> HostMemory:
        pointer = ctypes.c_void_p()
        with self.current():
            self.runtime.call(
                "cudaHostAlloc",
                ctypes.byref(pointer),
                ctypes.c_size_t(max(byte_size, 1)),
                ctypes.c_uint(_PORTABLE),
            )
        address = pointer.value or 0
        buffer = (ctypes.c_ubyte * max(byte_size, 1)).from_address(address)
        view = memoryview(buffer).cast("B")[:byte_size]
        return HostMemory(view, address, buffer)

    def free_pinned(self, memory: HostMemory) -> None:
        with self.current():
            self.runtime.call("cudaFreeHost", ctypes.c_void_p(memory.address))

    def copy_in(self, target: DeviceMemory, source: HostMemory, stream: Stream) -> None:
        assert source.byte_size <= target.byte_size, "what is copied fits"
        self._copy(target.address, source.address, source.byte_size, _TO_DEVICE, stream)

    def copy_out(self, target: HostMemory, source: DeviceMemory, stream: Stream) -> None:
        assert source.byte_size <= target.byte_size, "what is copied fits"
        self._copy(target.address, source.address, source.byte_size, _TO_HOST, stream)

    def copy_within(self, target: DeviceMemory, source: DeviceMemory, stream: Stream) -> None:
        assert source.byte_size <= target.byte_size, "what is copied fits"
        self._copy(target.address, source.address, source.byte_size, _WITHIN, stream)

    def read(self, source: DeviceMemory) -> bytes:
        host = ctypes.create_string_buffer(max(source.byte_size, 1))
        with self.current():
            self.runtime.call(
                "cudaMemcpy",
                ctypes.c_void_p(ctypes.addressof(host)),
                ctypes.c_void_p(source.address),
                ctypes.c_size_t(source.byte_size),
                ctypes.c_int(_TO_HOST),
            )
        return host.raw[: source.byte_size]

    def write(self, target: DeviceMemory, source: bytes | memoryview) -> None:
        content = bytes(source)  # it may not be writable, and ctypes takes addresses of bytes only
        assert len(content) <= target.byte_size, "what is written fits"
        with self.current():
            self.runtime.call(
                "cudaMemcpy",
                ctypes.c_void_p(target.address),
                content,
                ctypes.c_size_t(len(content)),
                ctypes.c_int(_TO_DEVICE),
            )

    def open_ipc(self, handle: bytes) -> DeviceMemory:
        if len(handle) != IPC_HANDLE_BYTES:
            raise DeviceError(f"a CUDA handle has {IPC_HANDLE_BYTES} bytes, not {len(handle)}")
        pointer = ctypes.c_void_p()
        with self.current():
            self.runtime.call(
                "cudaIpcOpenMemHandle",
                ctypes.byref(pointer),
                IpcHandle.from_buffer_copy(handle),
                ctypes.c_uint(_LAZY_PEER_ACCESS),
            )
            address = pointer.value or 0
            try:
                return DeviceMemory(self, address, self.runtime.allocation_size(address))
            except BaseException:
                self.runtime.call("cudaIpcCloseMemHandle", pointer)
                raise

    def close_ipc(self, memory: DeviceMemory) -> None:
        with self.current():
            self.runtime.call("cudaIpcCloseMemHandle", ctypes.c_void_p(memory.address))

    def _copy(self, target: int, source: int, byte_size: int, kind: int, stream: Stream) -> None:
        with self.current():
            self.runtime.call(
                "cudaMemcpyAsync",
                ctypes.c_void_p(target),
                ctypes.c_void_p(source),
                ctypes.c_size_t(byte_size),
                ctypes.c_int(kind),
                ctypes.c_void_p(stream.handle),
            )


@cache
def _runtime() -> CudaRuntime:
    return CudaRuntime()


def open_cuda_device(device_id: int, make: Callable[[], Any] = _runtime) -> CudaDevice:
    """The GPU with CUDA's number. Raises DeviceError."""
    return CudaDevice(device_id, make())
