"""An instance's own lane on a device: three streams, and the buffers that they copy through.

Owns the streams, for as long as the instance's thread lives. Backends run on `compute`; it is the
`user_compute_stream` of ONNX Runtime, and torch and cupy wrap its handle as an external stream.
"""

from __future__ import annotations

import threading  # noqa: TID251  # two instances may be the first on a device at once
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from repo.devices.limits import by_gpu
from repo.devices.pools import BufferPool
from repo.devices.port import Device, DeviceMemory, Devices, HostMemory, MemoryUse, Stream

# What a GPU's pool has unless --cuda-memory-pool-byte-size says otherwise.
DEVICE_POOL_BYTES: Final = 67_108_864


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What an instance has of its device."""

    device: Device
    copy_in: Stream
    compute: Stream
    copy_out: Stream
    pinned: BufferPool[HostMemory]
    memory: BufferPool[DeviceMemory]

    def close(self) -> None:
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.close()


class Lanes:
    """Opens lanes; owns the pools that they share: one of pinned memory, one per device."""

    def __init__(
        self, devices: Devices, *, pinned_bytes: int, memory_bytes: Mapping[int, int]
    ) -> None:
        self._devices = devices
        self._pinned_bytes = pinned_bytes
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._pinned: BufferPool[HostMemory] | None = None
        self._memory: dict[int, BufferPool[DeviceMemory]] = {}

    @classmethod
    def of_flags(cls, devices: Devices, pinned_bytes: int, memory: tuple[str, ...]) -> Lanes:
        """By --pinned-memory-pool-byte-size and --cuda-memory-pool-byte-size."""
        sizes = {gpu: int(size) for gpu, size in by_gpu(memory).items()}
        return cls(devices, pinned_bytes=pinned_bytes, memory_bytes=sizes)

    def pinned_use(self) -> MemoryUse:
        """The pool of pinned memory: its size and what is free of it. Without GPUs there is none.

        Any thread may ask.
        """
        total = self._pinned_bytes if self._devices.table.gpus else 0
        pool = self._pinned
        return MemoryUse(total, total - (pool.used if pool is not None else 0))

    def open(self, device_id: int) -> Lane:
        """A lane for the calling thread, whose current device this becomes.

        Raises DeviceError.
        """
        device = self._devices.open(device_id)
        device.make_current()
        with self._lock:
            if self._pinned is None:
                # Pinned memory is good for every device, whichever made it.
                self._pinned = BufferPool(
                    self._pinned_bytes, allocate=device.allocate_pinned, free=device.free_pinned
                )
            if device_id not in self._memory:
                limit = self._memory_bytes.get(device_id, DEVICE_POOL_BYTES)
                self._memory[device_id] = BufferPool(
                    limit, allocate=device.allocate, free=device.free
                )
        return Lane(
            device,
            device.new_stream(),
            device.new_stream(),
            device.new_stream(),
            self._pinned,
            self._memory[device_id],
        )
