"""The map of what operators look at: the metrics page, and who looks at the hardware for it.

`wire_observation` makes what lives as long as the server; the ports that show it are made from
that. Nothing here stands on the way of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from actors.admin_frontend import AdminFrontend
from actors.gpu_monitor import GpuMonitor
from actors.metrics import Metrics, Processor
from actors.options import ServerOptions
from actors.wiring import Core

# Triton looks at the hardware twice per --metrics-interval-ms.
LOOKS_PER_INTERVAL: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What is observed, wired but not running."""

    metrics: Metrics
    gpus: GpuMonitor | None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the hardware until cancelled."""
        task_status.started()
        if self.gpus is not None:
            await self.gpus.run()


def wire_observation(options: ServerOptions, core: Core) -> Observation:
    """What the pages are made of."""
    gpus = None
    if options.allow_metrics and options.allow_gpu_metrics:
        gpus = GpuMonitor(period_seconds=options.metrics_interval_ms / 1e3 / LOOKS_PER_INTERVAL)
    metrics = Metrics(
        statistics=core.reader,
        index=core.index,
        options=options,
        processor=Processor(),
        custom=core.custom_metrics,
        mailboxes=core.mailboxes,
        gpus=gpus,
    )
    return Observation(metrics, gpus)


def wire_metrics(observation: Observation, listener: trio.SocketListener) -> AdminFrontend:
    """The metrics port."""
    page = observation.metrics.page
    return AdminFrontend(listener, pages={"/metrics": page, "/metrics/": page})
