"""System shared memory: input tensors where the server reads them, room where it writes outputs.

Owns the files under /dev/shm, their names and their end. Registering them with the server is
asked through `Control`. The names carry this process's id, so that two runs do not meet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from perf_analyzer.control import Control, ControlError
from perf_analyzer.inputs import DataSet, batch_of
from perf_analyzer.model import ModelInfo, SetupError
from perf_analyzer.requests import Region
from protocol.datatypes import BYTES, ELEMENT_SIZE

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  # where the kernel keeps POSIX shared memory


class SystemRegions:
    """The regions of one run. `create` them, and `remove` them whatever happens."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._registered: list[str] = []
        self._files: list[Path] = []
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
        path = DIRECTORY / unique
        size = sum(len(piece) for piece in pieces)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError as error:
            raise SetupError(f"unable to create shared memory '/{unique}': {error}") from None
        self._files.append(path)
        with open(handle, "wb") as file:  # noqa: ASYNC230, PTH123  # memory, not a disk
            file.writelines(pieces)
        await self._control.register(unique, f"/{unique}", size)
        self._registered.append(unique)
        return Region(unique, size)

    async def remove(self) -> None:
        """Unregister and unlink everything that was made."""
        for name in self._registered:
            with suppress(ControlError):
                await self._control.unregister(name)
        self._registered.clear()
        self.unlink()

    def unlink(self) -> None:
        """Remove the files; the server's own view of them lives on until it drops it."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


def _plain(name: str) -> str:
    return name.replace("/", "").replace("\\", "")
