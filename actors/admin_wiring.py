"""The map of what operators look at: metrics, the console, and who looks at things for them.

`wire_observation` makes what lives as long as the server; the ports that show it are made from
that. Nothing here stands on the way of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from actors.admin_frontend import AdminFrontend, Pages
from actors.console.application import AllowedHosts, ConsoleApplication
from actors.console.observer import Observer
from actors.gpu_monitor import GpuMonitor
from actors.metrics import Metrics, Processor
from actors.options import ServerOptions
from actors.wiring import Core
from protocol.openapi import document_text

# Triton looks at the hardware twice per --metrics-interval-ms.
LOOKS_PER_INTERVAL: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What is observed, wired but not running."""

    metrics: Metrics
    gpus: GpuMonitor | None
    observer: Observer | None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.gpus is not None:
                await nursery.start(self.gpus.run)
            if self.observer is not None:
                await nursery.start(self.observer.run)
            task_status.started()


def wire_observation(options: ServerOptions, core: Core, *, server_version: str) -> Observation:
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
    observer = None
    if core.slow is not None:
        observer = Observer(
            server={"id": options.id, "version": server_version},
            slow=core.slow,
            statistics=core.reader,
            index=core.index,
            mailboxes=core.mailboxes,
            gpus=(lambda: gpus.readings.value) if gpus is not None else tuple,
        )
    return Observation(metrics, gpus, observer)


def wire_metrics(observation: Observation, listener: trio.SocketListener) -> AdminFrontend:
    """The metrics port."""
    page = observation.metrics.page
    return AdminFrontend(listener, Pages({"/metrics": page, "/metrics/": page}))


def console_application(
    options: ServerOptions, observation: Observation, *, server_version: str
) -> ConsoleApplication:
    """What the admin port serves."""
    assert observation.observer is not None, "an admin port has an observer"
    return ConsoleApplication(
        hosts=AllowedHosts([options.admin_address, *options.admin_host]),
        observer=observation.observer.commands,
        openapi=partial(document_text, server_version=server_version),
        metrics=observation.metrics.page if options.allow_metrics else None,
    )
