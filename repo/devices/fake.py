"""Several GPUs that are not there: literal capacities, virtual time, and a record of what ran when.

Owns their memory, which is the process's own, and their schedules. Each GPU has two copy engines
and one that computes. An operation begins when its stream, its engine and the host have come so
far, and changes memory when the clock passes its end: a host that reads too early reads what was
there before. The clock moves when somebody waits, or by `advance`.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import threading  # noqa: TID251  # instances live in threads and share a GPU
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from repo.devices.cpu import host_memory
from repo.devices.port import (
    DeviceError,
    DeviceLost,
    DeviceMemory,
    Event,
    HostMemory,
    MemoryUse,
    OutOfDeviceMemory,
    Stream,
)
from repo.instance_groups import DeviceTable, GpuDevice

Engine = Literal["in", "compute", "out"]

_HANDLE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Operation:
    """What an engine did, from `start` to `end`, in seconds of the GPU's clock."""

    engine: Engine
    stream: int
    start: float
    end: float
    what: str = ""

    def overlaps(self, other: Operation) -> bool:
        return self.start < other.end and other.start < self.end


class FakeEvent:
    """An instant of a GPU's clock."""

    def __init__(self, gpu: FakeGpu, at: float) -> None:
        self._gpu = gpu
        self.at = at

    def is_done(self) -> bool:
        self._gpu.check()
        return self._gpu.now >= self.at

    def wait(self) -> None:
        self._gpu.advance(self.at)


class FakeStream:
    """A stream by its number; `free_at` is when all that it was given is done."""

    def __init__(self, gpu: FakeGpu, handle: int) -> None:
        self._gpu = gpu
        self.handle = handle
        self.free_at = 0.0
        self.is_open = True

    def record(self) -> Event:
        self._gpu.check()
        return FakeEvent(self._gpu, self.free_at)

    def wait_for(self, event: Event) -> None:
        self._gpu.check()
        assert isinstance(event, FakeEvent), "events and streams are of one device"
        self.free_at = max(self.free_at, event.at)

    def notify(self, callback: Callable[[], None]) -> None:
        self._gpu.later(self.free_at, callback)
        if self._gpu.is_hasty:
            self._gpu.advance(self.free_at)

    def synchronize(self) -> None:
        self._gpu.advance(self.free_at)

    def close(self) -> None:
        self.is_open = False


class FakeGpu:
    """One GPU of `capacity` bytes, whose copies take `seconds_per_byte`.

    `is_hasty` lets the clock leap to whatever somebody wants to be told of.
    """

    def __init__(
        self,
        device_id: int = 0,
        *,
        capacity: int = 1 << 20,
        seconds_per_byte: float = 0.0,
        compute_capability: tuple[int, int] = (9, 0),
        is_hasty: bool = False,
    ) -> None:
        self.device_id = device_id
        self.name = f"fake GPU {device_id}"
        self.dlpack_device = (2, device_id)
        self.compute_capability = compute_capability
        self.is_hasty = is_hasty
        self.now = 0.0
        self.schedule: list[Operation] = []
        self.streams: list[FakeStream] = []
        self.current_in: set[int] = set()  # threads
        self.opened: list[bytes] = []  # handles that are open
        self._capacity = capacity
        self._seconds_per_byte = seconds_per_byte
        self._used = 0
        self._exported: dict[bytes, DeviceMemory] = {}
        self._free_at: dict[Engine, float] = {"in": 0.0, "compute": 0.0, "out": 0.0}
        self._effects: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._is_lost = False

    # --- for tests ---------------------------------------------------------------------------

    def advance(self, at: float) -> None:
        """Let the clock reach `at`: everything that ends until then has happened. Never back."""
        with self._lock:
            self.check()
            while self._effects and self._effects[0][0] <= at:
                end, _, effect = heapq.heappop(self._effects)
                self.now = max(self.now, end)
                effect()
            self.now = max(self.now, at)

    def lose(self) -> None:
        """From now on every call fails, and nothing that was under way ends."""
        self._is_lost = True
        self._effects.clear()

    def export(self, memory: DeviceMemory) -> bytes:
        """The handle by which another process would open `memory`."""
        handle = memory.address.to_bytes(8, "little").ljust(_HANDLE_BYTES, b"\0")
        self._exported[handle] = memory
        return handle

    def launch(
        self, stream: Stream, seconds: float, effect: Callable[[], None], what: str = ""
    ) -> None:
        """A kernel that takes so long and then has had its effect."""
        self._enqueue("compute", stream, seconds, effect, what)

    # --- for streams -------------------------------------------------------------------------

    def check(self) -> None:
        if self._is_lost:
            raise DeviceLost(f"{self.name}: the device is lost")

    def later(self, at: float, effect: Callable[[], None]) -> None:
        with self._lock:
            self.check()
            heapq.heappush(self._effects, (at, next(self._numbers), effect))

    # --- the port ----------------------------------------------------------------------------

    def memory_use(self) -> MemoryUse:
        self.check()
        return MemoryUse(self._capacity, self._capacity - self._used)

    def make_current(self) -> None:
        self.check()
        self.current_in.add(threading.get_ident())

    def new_stream(self) -> Stream:
        self.check()
        stream = FakeStream(self, len(self.streams) + 1)
        self.streams.append(stream)
        return stream

    def allocate(self, byte_size: int) -> DeviceMemory:
        self.check()
        with self._lock:
            if self._used + byte_size > self._capacity:
                raise OutOfDeviceMemory(f"{self.name}: {byte_size} bytes do not fit")
            self._used += byte_size
        host = host_memory(byte_size)
        return DeviceMemory(self, host.address, byte_size, host.owner)

    def free(self, memory: DeviceMemory) -> None:
        with self._lock:
            self._used -= memory.byte_size

    def allocate_pinned(self, byte_size: int) -> HostMemory:
        self.check()
        return host_memory(byte_size, is_pinned=True)

    def free_pinned(self, memory: HostMemory) -> None:
        """It goes with its last user."""

    def copy_in(self, target: DeviceMemory, source: HostMemory, stream: Stream) -> None:
        self._copy("in", target, source, stream)

    def copy_out(self, target: HostMemory, source: DeviceMemory, stream: Stream) -> None:
        self._copy("out", target, source, stream)

    def copy_within(self, target: DeviceMemory, source: DeviceMemory, stream: Stream) -> None:
        self._copy("compute", target, source, stream)

    def read(self, source: DeviceMemory) -> bytes:
        self.check()
        return ctypes.string_at(source.address, source.byte_size)

    def write(self, target: DeviceMemory, source: bytes | memoryview) -> None:
        self.check()
        ctypes.memmove(target.address, bytes(source), len(source))

    def open_ipc(self, handle: bytes) -> DeviceMemory:
        self.check()
        memory = self._exported.get(handle)
        if memory is None:
            raise DeviceError(f"{self.name}: invalid handle")
        self.opened.append(handle)
        return DeviceMemory(self, memory.address, memory.byte_size, memory)

    def close_ipc(self, memory: DeviceMemory) -> None:
        handle = memory.address.to_bytes(8, "little").ljust(_HANDLE_BYTES, b"\0")
        self.opened.remove(handle)

    def _copy(
        self,
        engine: Engine,
        target: DeviceMemory | HostMemory,
        source: DeviceMemory | HostMemory,
        stream: Stream,
    ) -> None:
        size = source.byte_size
        assert size <= target.byte_size, "what is copied fits"

        def effect() -> None:
            ctypes.memmove(target.address, source.address, size)

        self._enqueue(engine, stream, size * self._seconds_per_byte, effect, f"{size} B")

    def _enqueue(
        self,
        engine: Engine,
        stream: Stream,
        seconds: float,
        effect: Callable[[], None],
        what: str,
    ) -> None:
        assert isinstance(stream, FakeStream), "a stream of this device"
        assert stream.is_open, "nothing is given to a closed stream"
        with self._lock:
            self.check()
            start = max(self.now, stream.free_at, self._free_at[engine])
            end = start + seconds
            stream.free_at = self._free_at[engine] = end
            self.schedule.append(Operation(engine, stream.handle, start, end, what))
            self.later(end, effect)


class FakeGpus:
    """A machine with several GPUs."""

    def __init__(self, gpus: Sequence[FakeGpu], *, minimum: float = 7.5) -> None:
        self.gpus = {gpu.device_id: gpu for gpu in gpus}
        listed = tuple(GpuDevice(gpu.device_id, gpu.compute_capability) for gpu in gpus)
        self.table = DeviceTable(listed).at_least(minimum)

    def open(self, device_id: int) -> FakeGpu:
        if device_id not in self.gpus:
            raise DeviceError(f"there is no GPU {device_id}")
        return self.gpus[device_id]

    def memory_use(self, device_id: int) -> MemoryUse:
        return self.open(device_id).memory_use()
