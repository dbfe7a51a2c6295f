"""Looks at the GPUs every now and then, so that a metrics page never waits for a driver.

Owns the last readings, and a thread at a time to take them in. It says nothing to anybody: whoever
makes a page looks at `readings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from actors.channels import Watch
from actors.metrics.gpus import GpuReading, Gpus, open_gpus
from protocol.metrics_families import family
from protocol.metrics_text import Family, Sample

# However often the operator wants it: a look takes milliseconds of a thread.
MIN_PERIOD_SECONDS: Final = 0.05


class GpuMonitor:
    """The actor; without GPUs it ends at once."""

    def __init__(
        self, *, period_seconds: float, open_gpus: Callable[[], Gpus | None] = open_gpus
    ) -> None:
        self._period_seconds = max(MIN_PERIOD_SECONDS, period_seconds)
        self._open_gpus = open_gpus
        self.readings: Watch[Sequence[GpuReading]] = Watch(())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled. Nobody waits for the first look: drivers can be slow to wake."""
        task_status.started()
        gpus = await trio.to_thread.run_sync(self._open_gpus, abandon_on_cancel=True)
        while gpus is not None:
            self.readings.value = await trio.to_thread.run_sync(gpus.read, abandon_on_cancel=True)
            await trio.sleep(self._period_seconds)

    def families(self) -> list[Family]:
        """For the metrics page: what was last seen."""
        samples: dict[str, list[Sample]] = {}
        for reading in self.readings.value:
            labels: Mapping[str, str] = {"gpu_uuid": reading.uuid}
            for name, value in reading.values.items():
                samples.setdefault(name, []).append(Sample(value, labels))
        return [family(name, each) for name, each in samples.items()]
