"""What a device can do: memory, streams, events, copies, and memory that others have exported.

Owns the words in which everything else speaks of devices. It knows no CUDA; `cuda` does. A stream
does what it was given in its order and behind the back of whoever gave it; an event marks a place
in that order. Every call raises DeviceError, or one of its kinds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.datatypes import ELEMENT_SIZE
from protocol.status import internal
from repo.instance_groups import DeviceTable


class DeviceError(Exception):
    """A call to a device failed; `str()` says which and why."""


class DeviceLost(DeviceError):
    """Nothing works on the device any more, for this process, until it is started again."""


class OutOfDeviceMemory(DeviceError):
    """An allocation does not fit now; it may later."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory of a device, in bytes."""

    total: int
    free: int

    @property
    def used(self) -> int:
        return self.total - self.free


# How much of the pool of page-locked memory is in use now.
PinnedMemory = Callable[[], MemoryUse]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMemory:
    """A span of a device's memory, valid as long as `owner` lives and nobody frees it."""

    device: Device
    address: int
    byte_size: int
    owner: object = None

    def part(self, offset: int, byte_size: int) -> DeviceMemory:
        """A span within this one, which it keeps alive."""
        assert 0 <= offset <= self.byte_size - byte_size, "a part lies within its whole"
        return DeviceMemory(self.device, self.address + offset, byte_size, self)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSpan:
    """Memory of a device as the content of a tensor; implements `DeviceBytes`."""

    memory: DeviceMemory

    @property
    def byte_size(self) -> int:
        return self.memory.byte_size

    def read(self) -> bytes:
        """A copy in host memory; blocks until it is there. Raises ServerError INTERNAL."""
        try:
            return self.memory.device.read(self.memory)
        except DeviceError as error:
            raise internal(
                f"failed to copy a tensor from {self.memory.device.name}: {error}"
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class HostMemory:
    """A span of host memory; `is_pinned` if copies from and to it need not wait for the host."""

    view: memoryview
    address: int
    owner: object = None
    is_pinned: bool = True

    @property
    def byte_size(self) -> int:
        return len(self.view)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A contiguous tensor in device memory, as libraries take it over without copying it.

    Whoever reads it orders its own stream behind whoever wrote it. Others read it too if
    `is_shared`, so that nobody may write into it.
    """

    memory: DeviceMemory
    datatype: str
    shape: tuple[int, ...]
    is_shared: bool = False

    @property
    def byte_size(self) -> int:
        return math.prod(self.shape) * ELEMENT_SIZE[self.datatype]

    @property
    def address(self) -> int:
        return self.memory.address

    @property
    def device(self) -> tuple[int, int]:
        return self.memory.device.dlpack_device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None, **options: object) -> Any:
        """A capsule that keeps this array alive until its consumer lets go.

        `stream` is not made to wait: events order the streams of an instance.
        """
        from repo.backends.python.dlpack import share

        return share(self)


class Event(Protocol):
    """A place in the order of a stream."""

    def is_done(self) -> bool:
        """Whether the stream has come past it."""

    def wait(self) -> None:
        """Block the calling thread until it has."""


class Stream(Protocol):
    """Work on a device, one after the other."""

    @property
    def handle(self) -> int:
        """The `cudaStream_t`, as CUDA libraries take it; 0 where there is none."""

    def record(self) -> Event:
        """Mark the place behind everything that was given so far."""

    def wait_for(self, event: Event) -> None:
        """Let what follows begin only after `event`, of whichever stream of the same device."""

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back, from a thread of the device, once everything given so far is done.

        `callback` neither raises nor touches a device. It is not called if the device is lost.
        """

    def synchronize(self) -> None:
        """Block the calling thread until everything that was given so far is done."""

    def close(self) -> None:
        """Nothing is given to it any longer."""


class Device(Protocol):
    """One device. A call concerns it whichever device is current in the calling thread."""

    @property
    def device_id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def dlpack_device(self) -> tuple[int, int]:
        """Type and number, as DLPack writes them."""

    def memory_use(self) -> MemoryUse: ...

    def make_current(self) -> None:
        """The calling thread's libraries mean this device from now on."""

    def new_stream(self) -> Stream: ...

    def allocate(self, byte_size: int) -> DeviceMemory:
        """Raises OutOfDeviceMemory."""

    def free(self, memory: DeviceMemory) -> None:
        """Give back what `allocate` gave."""

    def allocate_pinned(self, byte_size: int) -> HostMemory:
        """Host memory that this and any other device copies from and to without the host."""

    def free_pinned(self, memory: HostMemory) -> None: ...

    def copy_in(self, target: DeviceMemory, source: HostMemory, stream: Stream) -> None:
        """Host to device, all of `source`, which stays as it is until the stream has come by."""

    def copy_out(self, target: HostMemory, source: DeviceMemory, stream: Stream) -> None:
        """Device to host, all of `source`."""

    def copy_within(self, target: DeviceMemory, source: DeviceMemory, stream: Stream) -> None:
        """Device to device, all of `source`."""

    def read(self, source: DeviceMemory) -> bytes:
        """A copy in the host's memory, once it is there."""

    def write(self, target: DeviceMemory, source: bytes | memoryview) -> None:
        """Copy from the host, and wait until it is there."""

    def open_ipc(self, handle: bytes) -> DeviceMemory:
        """The memory that another process exported as `handle`: all of its allocation."""

    def close_ipc(self, memory: DeviceMemory) -> None: ...


class Devices(Protocol):
    """The GPUs of this machine."""

    @property
    def table(self) -> DeviceTable:
        """Those that the server may use."""

    def open(self, device_id: int) -> Device:
        """The same object each time. Raises DeviceError."""

    def memory_use(self, device_id: int) -> MemoryUse:
        """Of the whole GPU, other processes included. It may block for milliseconds."""


class NoDevices:
    """A machine without GPUs."""

    def __init__(self, table: DeviceTable = DeviceTable()) -> None:  # noqa: B008  # immutable
        self.table = table

    def open(self, device_id: int) -> Device:
        raise DeviceError(f"there is no GPU {device_id}: no GPUs are available")

    def memory_use(self, device_id: int) -> MemoryUse:
        raise DeviceError(f"there is no GPU {device_id}: no GPUs are available")
