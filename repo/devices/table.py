"""Which GPUs there are, in CUDA's numbering, by NVML: no CUDA context is made for it.

Owns the way to NVML and the meaning of CUDA_VISIBLE_DEVICES. NVML numbers GPUs by their place on
the PCI bus and CUDA by their speed, unless CUDA_DEVICE_ORDER says otherwise; so it is made to.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from repo.devices.port import Device, DeviceError, MemoryUse
from repo.instance_groups import DeviceTable, GpuDevice

log = logging.getLogger(__name__)

# The environment variable with which Triton is told that there are no GPUs, whatever its value.
CPU_ONLY: Final = "TRITON_SERVER_CPU_ONLY"
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
BY_BUS: Final = "PCI_BUS_ID"


class Nvml(Protocol):
    """The part of the module `pynvml` that is used; a GPU's handle is opaque."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802  # NVML's own names
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> Sequence[int]: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetPowerManagementLimit(self, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int: ...  # noqa: N802


def load_nvml(environment: Mapping[str, str] = os.environ) -> Nvml | None:
    """The module, not initialised; None where it is not installed or GPUs are not wanted."""
    if CPU_ONLY in environment:
        return None
    if importlib.util.find_spec("pynvml") is None:
        log.debug("no GPU is looked for: pynvml is not installed (pip install troupe[gpu])")
        return None
    return cast("Nvml", importlib.import_module("pynvml"))


def uuid_of(nvml: Nvml, handle: object) -> str:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid.decode() if isinstance(uuid, bytes) else uuid


def visible(uuids: Sequence[str], wanted: str | None) -> list[int]:
    """NVML's numbers in CUDA's order, by what CUDA_VISIBLE_DEVICES says; None says nothing.

    An entry is a number or the beginning of a UUID. As in CUDA the first one that names no GPU
    ends the list, and one that comes twice leaves none.
    """
    if wanted is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (each.strip() for each in wanted.split(",")):
        if entry.isdecimal() and int(entry) < len(uuids):
            chosen.append(int(entry))
            continue
        named = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(named) != 1:
            break
        chosen += named
    return chosen if len(set(chosen)) == len(chosen) else []


class Opener(Protocol):
    """Makes the device of a GPU by CUDA's number. Raises DeviceError."""

    def __call__(self, device_id: int) -> Device: ...


class NvmlDevices:
    """The GPUs that NVML lists and CUDA may see; implements `Devices`.

    A GPU is opened when it is first needed, so that a server without GPU models makes no context.
    """

    def __init__(
        self,
        nvml: Nvml,
        opener: Opener,
        *,
        minimum: float,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`minimum` is the compute capability that a GPU must have. Raises NVMLError."""
        self._nvml = nvml
        self._opener = opener
        self._opened: dict[int, Device] = {}
        nvml.nvmlInit()
        handles = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]
        uuids = [uuid_of(nvml, handle) for handle in handles]
        order = visible(uuids, environment.get(VISIBLE))
        self._handles = dict(enumerate(handles[index] for index in order))
        everything = tuple(
            GpuDevice(number, self._capability(handle)) for number, handle in self._handles.items()
        )
        self.table = DeviceTable(everything).at_least(minimum)
        for gpu in everything:
            if gpu not in self.table.gpus:
                log.warning(
                    "GPU %s is ignored: its compute capability is %s.%s, and at least %s is asked "
                    "for (--min-supported-compute-capability)",
                    gpu.device_id,
                    *gpu.compute_capability,
                    minimum,
                )

    def open(self, device_id: int) -> Device:
        if device_id not in self.table.gpu_ids:
            raise DeviceError(f"there is no GPU {device_id}")
        if device_id not in self._opened:
            self._opened[device_id] = self._opener(device_id)
        return self._opened[device_id]

    def memory_use(self, device_id: int) -> MemoryUse:
        if device_id not in self._handles:
            raise DeviceError(f"there is no GPU {device_id}")
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handles[device_id])
        except self._nvml.NVMLError as error:
            raise DeviceError(f"GPU {device_id} does not tell its memory: {error}") from None
        return MemoryUse(memory.total, memory.total - memory.used)

    def _capability(self, handle: object) -> tuple[int, int]:
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return major, minor
