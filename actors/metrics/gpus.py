"""What NVML says of this machine's GPUs, in the units of the metrics page.

Owns the handles of the GPUs. Every call may block for milliseconds, so this is for a worker thread;
no clock and no trio here. What a GPU cannot tell is left out, and said in the log once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repo.devices.table import Nvml, load_nvml, uuid_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment: family → value, for what the GPU can tell."""

    uuid: str
    values: Mapping[str, float]


@dataclass(slots=True, eq=False)
class _Gpu:
    """A GPU, and what it said when the server started."""

    uuid: str
    handle: object
    energy_mj: int | None = None


class Gpus:
    """The GPUs of this machine. `read` is the only call that is made again and again."""

    def __init__(self, nvml: Nvml) -> None:
        """Raises `nvml.NVMLError` where there is no driver or no GPU that answers."""
        self._nvml = nvml
        self._silent: set[tuple[str, str]] = set()  # (uuid, family) that the log knows of
        nvml.nvmlInit()
        self._gpus = [self._open(index) for index in range(nvml.nvmlDeviceGetCount())]

    def read(self) -> Sequence[GpuReading]:
        """Every GPU as it is now."""
        return [GpuReading(gpu.uuid, self._values(gpu)) for gpu in self._gpus]

    def _open(self, index: int) -> _Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        gpu = _Gpu(uuid_of(self._nvml, handle), handle)
        energy = self._ask(
            gpu, "nv_energy_consumption", self._nvml.nvmlDeviceGetTotalEnergyConsumption
        )
        gpu.energy_mj = energy
        return gpu

    def _values(self, gpu: _Gpu) -> Mapping[str, float]:
        nvml = self._nvml
        values: dict[str, float] = {}
        rates = self._ask(gpu, "nv_gpu_utilization", nvml.nvmlDeviceGetUtilizationRates)
        if rates is not None:
            values["nv_gpu_utilization"] = rates.gpu / 100
        memory = self._ask(gpu, "nv_gpu_memory_total_bytes", nvml.nvmlDeviceGetMemoryInfo)
        if memory is not None:
            values["nv_gpu_memory_total_bytes"] = memory.total
            values["nv_gpu_memory_used_bytes"] = memory.used
        usage = self._ask(gpu, "nv_gpu_power_usage", nvml.nvmlDeviceGetPowerUsage)
        if usage is not None:
            values["nv_gpu_power_usage"] = usage / 1e3
        limit = self._ask(gpu, "nv_gpu_power_limit", nvml.nvmlDeviceGetPowerManagementLimit)
        if limit is not None:
            values["nv_gpu_power_limit"] = limit / 1e3
        energy = None
        if gpu.energy_mj is not None:
            energy = self._ask(
                gpu, "nv_energy_consumption", nvml.nvmlDeviceGetTotalEnergyConsumption
            )
        if energy is not None:
            assert gpu.energy_mj is not None, "only then it was asked for"
            # The driver counts from its own start; one that was restarted begins anew.
            values["nv_energy_consumption"] = max(0, energy - gpu.energy_mj) / 1e3
        return values

    def _ask(self, gpu: _Gpu, family: str, question: Callable[[object], Any]) -> Any:
        """The answer, None if the GPU has none this time."""
        try:
            return question(gpu.handle)
        except self._nvml.NVMLError as error:
            if (gpu.uuid, family) not in self._silent:
                self._silent.add((gpu.uuid, family))
                log.warning("GPU %s does not tell %s: %s", gpu.uuid, family, error)
            return None


def open_gpus() -> Gpus | None:
    """The GPUs, or None where there are none to be looked at, with the reason in the log."""
    nvml = load_nvml()
    if nvml is None:
        return None
    try:
        return Gpus(nvml)
    except nvml.NVMLError as error:
        log.info("no GPU metrics: %s", error)
        return None
