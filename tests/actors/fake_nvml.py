"""A module `pynvml` with two GPUs, of which the second tells little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NotSupportedError(Exception):
    """What NVML says of what a GPU cannot tell."""


@dataclass
class FakeNvml:
    """Its second GPU has neither power nor energy nor utilisation."""

    NVMLError: type[Exception] = NotSupportedError
    has_driver: bool = True
    energy_mj: Iterator[int] = field(default_factory=lambda: iter(range(5_000_000, 10**9, 1500)))

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.has_driver:
            raise NotSupportedError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes:  # noqa: N802
        return b"GPU-bytes" if handle else "GPU-text"

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> Sequence[int]:  # noqa: N802
        return [6, 1] if handle else [9, 0]

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Any:  # noqa: N802
        self._first_only(handle)
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any:  # noqa: N802
        return SimpleNamespace(total=85_899_345_920, used=1_073_741_824, free=0)

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        self._first_only(handle)
        return 123_456

    def nvmlDeviceGetPowerManagementLimit(self, handle: object) -> int:  # noqa: N802
        self._first_only(handle)
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        self._first_only(handle)
        return next(self.energy_mj)

    def _first_only(self, handle: object) -> None:
        if handle:
            raise NotSupportedError("Not Supported")
