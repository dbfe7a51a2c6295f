"""Host memory as a device: every copy is done when the call returns.

Owns nothing but the memory it gives out. It lets all code for devices run where there is none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from repo.devices.port import (
    DeviceError,
    DeviceMemory,
    Event,
    HostMemory,
    MemoryUse,
    Stream,
)
from repo.memory import available_bytes


class DoneEvent:
    """Whatever it marks is done."""

    def is_done(self) -> bool:
        return True

    def wait(self) -> None:
        """There is nothing to wait for."""


class CpuStream:
    """Work that is done at once."""

    handle = 0

    def record(self) -> Event:
        return DoneEvent()

    def wait_for(self, event: Event) -> None:
        event.wait()

    def notify(self, callback: Callable[[], None]) -> None:
        callback()

    def synchronize(self) -> None:
        """Everything is done."""

    def close(self) -> None:
        """There is nothing to close."""


def host_memory(byte_size: int, *, is_pinned: bool = False) -> HostMemory:
    """Ordinary memory of the process, zeroed."""
    buffer = (ctypes.c_ubyte * max(byte_size, 1))()
    view = memoryview(buffer).cast("B")[:byte_size]
    return HostMemory(view, ctypes.addressof(buffer), buffer, is_pinned=is_pinned)


class CpuDevice:
    """The host itself."""

    device_id = 0
    name = "CPU"
    dlpack_device = (1, 0)

    def memory_use(self) -> MemoryUse:
        """What the kernel would still give; both 0 where it does not tell."""
        free = available_bytes() or 0
        return MemoryUse(free, free)

    def make_current(self) -> None:
        """It always is."""

    def new_stream(self) -> Stream:
        return CpuStream()

    def allocate(self, byte_size: int) -> DeviceMemory:
        host = host_memory(byte_size)
        return DeviceMemory(self, host.address, byte_size, host.owner)

    def free(self, memory: DeviceMemory) -> None:
        """It goes with its last user."""

    def allocate_pinned(self, byte_size: int) -> HostMemory:
        return host_memory(byte_size)

    def free_pinned(self, memory: HostMemory) -> None:
        """As above."""

    def copy_in(self, target: DeviceMemory, source: HostMemory, stream: Stream) -> None:
        ctypes.memmove(target.address, source.address, source.byte_size)

    def copy_out(self, target: HostMemory, source: DeviceMemory, stream: Stream) -> None:
        ctypes.memmove(target.address, source.address, source.byte_size)

    def copy_within(self, target: DeviceMemory, source: DeviceMemory, stream: Stream) -> None:
        ctypes.memmove(target.address, source.address, source.byte_size)

    def read(self, source: DeviceMemory) -> bytes:
        return ctypes.string_at(source.address, source.byte_size)

    def write(self, target: DeviceMemory, source: bytes | memoryview) -> None:
        ctypes.memmove(target.address, bytes(source), len(source))

    def open_ipc(self, handle: bytes) -> DeviceMemory:
        raise DeviceError("host memory has no CUDA handles")

    def close_ipc(self, memory: DeviceMemory) -> None:
        """None was ever opened."""
