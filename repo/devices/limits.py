"""What options say of GPUs, one by one: how full a GPU may become, and how large pools are.

Owns the form `<gpu>:<value>`, of which the last one for a GPU holds. It looks at no GPU itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocol.status import unavailable
from repo.devices.port import DeviceError, Devices


def by_gpu(entries: Iterable[str]) -> dict[int, str]:
    """GPU → value; the flags' own parser has seen that the form is right."""
    pairs = (entry.partition(":") for entry in entries)
    return {int(gpu): value for gpu, _, value in pairs}


class LoadLimits:
    """--model-load-gpu-limit: the fraction of a GPU's memory that loading models may fill."""

    def __init__(self, entries: Iterable[str], devices: Devices) -> None:
        self._fractions = {gpu: float(value) for gpu, value in by_gpu(entries).items()}
        self._devices = devices

    def check_of(self, instance_name: str, device_id: int) -> Callable[[], None] | None:
        """What to call when the instance has been created; None if nothing limits its GPU.

        The call may block, and raises ServerError UNAVAILABLE when the GPU is too full. A GPU that
        does not tell refuses nothing.
        """
        fraction = self._fractions.get(device_id)
        if fraction is None:
            return None

        def check() -> None:
            try:
                memory = self._devices.memory_use(device_id)
            except DeviceError:
                return
            if memory.used > fraction * memory.total:
                raise unavailable(
                    f"can not create model '{instance_name}': memory limit set for GPU "
                    f"{device_id} has exceeded, model loading is rejected."
                )

        return check
