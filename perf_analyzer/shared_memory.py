"""Shared memory: input tensors where the server reads them, room where it writes outputs.

Owns the regions of a run: which there are, their names, and their end. Where they lie is the
business of a `Place`: files under /dev/shm, or a GPU (`cuda_memory.py`). Names and files carry this
process's id, so that two runs do not meet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from perf_analyzer.control import Control, ControlError, MemoryKind
from perf_analyzer.cuda_memory import DEVICE, CudaError, CudaMemory
from perf_analyzer.inputs import DataSet, batch_of
from perf_analyzer.model import ModelInfo, SetupError
from perf_analyzer.requests import Region
from protocol.datatypes import BYTES, ELEMENT_SIZE

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  # where the kernel keeps POSIX shared memory


class Place(Protocol):
    """Memory that the server can open."""

    kind: MemoryKind

    async def make(self, control: Control, name: str, pieces: Sequence[bytes]) -> None:
        """Memory with `pieces` in it, registered as `name`. Raises SetupError, ControlError."""
        ...

    def free(self) -> None:
        """Give it all back; the server's own view lives on until it drops it."""
        ...


class SystemPlace:
    """POSIX shared memory."""

    kind: MemoryKind = "system"

    def __init__(self) -> None:
        self._files: list[Path] = []

    async def make(self, control: Control, name: str, pieces: Sequence[bytes]) -> None:
        path = DIRECTORY / name
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError as error:
            raise SetupError(f"unable to create shared memory '/{name}': {error}") from None
        self._files.append(path)
        with open(handle, "wb") as file:  # noqa: ASYNC230, PTH123  # memory, not a disk
            file.writelines(pieces)
        await control.register(name, f"/{name}", sum(map(len, pieces)))

    def free(self) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


class CudaPlace:
    """Memory of the first GPU, shared by its IPC handles."""

    kind: MemoryKind = "cuda"

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory

    async def make(self, control: Control, name: str, pieces: Sequence[bytes]) -> None:
        try:
            handle = self._memory.allocate(pieces)
        except CudaError as error:
            raise SetupError(f"unable to create CUDA shared memory '{name}': {error}") from None
        await control.register_cuda(name, handle, DEVICE, sum(map(len, pieces)))

    def free(self) -> None:
        self._memory.free()


class Regions:
    """The regions of one run. `create` them, and `remove` them whatever happens."""

    def __init__(self, control: Control, place: Place) -> None:
        self._control = control
        self._place = place
        self._registered: list[str] = []
        self.inputs: dict[tuple[str, int, int], Region] = {}
        self.outputs: dict[str, Region] = {}

    async def create(
        self, model: ModelInfo, data: DataSet, *, batch_size: int, output_bytes: int
    ) -> None:
        """Fill and register a region per input, stream and step, and one per output."""
        try:
            await self._control.unregister_all()
            for stream, steps in enumerate(data.streams):
                for first in range(len(steps)):
                    rows = batch_of(data, stream, first, batch_size)
                    for name in rows[0].inputs:
                        raw = b"".join(row.inputs[name].raw for row in rows)
                        region = await self._make(f"{_plain(name)}_{stream}_{first}", [raw])
                        self.inputs[name, stream, first] = region
            for spec in model.outputs:
                size = output_bytes * batch_size
                if spec.datatype != BYTES and not spec.is_dynamic:
                    size = batch_size * math.prod(spec.shape) * ELEMENT_SIZE[spec.datatype]
                region = await self._make(_plain(spec.name), [bytes(size)])
                self.outputs[spec.name] = region
        except ControlError as error:
            raise SetupError(f"failed to register shared memory: {error}") from None

    async def _make(self, name: str, pieces: Sequence[bytes]) -> Region:
        unique = f"{name}_{os.getpid()}"
        await self._place.make(self._control, unique, pieces)
        self._registered.append(unique)
        return Region(unique, sum(map(len, pieces)))

    async def remove(self) -> None:
        """Unregister and free everything that was made."""
        for name in self._registered:
            with suppress(ControlError):
                await self._control.unregister(name, self._place.kind)
        self._registered.clear()
        self.free()

    def free(self) -> None:
        """Free the memory, without a word to the server."""
        self._place.free()


def _plain(name: str) -> str:
    return name.replace("/", "").replace("\\", "")
