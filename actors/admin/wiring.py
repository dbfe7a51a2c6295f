"""The map of what operators look at: metrics, the console, and who looks at things for them.

`wire_observation` makes what lives as long as the server; the ports that show it are made from
that. Nothing here stands on the way of a request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from actors.admin.frontend import AdminFrontend, Pages
from actors.metrics.gpu_monitor import GpuMonitor
from actors.metrics.page import Metrics, Processor
from actors.settings.options import ServerOptions
from actors.wiring import Core
from protocol.api_keys import Keyring
from repo.devices.port import MemoryUse, PinnedMemory

if TYPE_CHECKING:
    from actors.console.wiring import Console

log = logging.getLogger(__name__)

# Triton looks at the hardware twice per --metrics-interval-ms.
LOOKS_PER_INTERVAL: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What is observed, wired but not running."""

    metrics: Metrics
    gpus: GpuMonitor | None
    console: Console | None  # None: there is no admin port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled. Whoever looks may fail; the server goes on without."""
        async with trio.open_nursery() as nursery:
            if self.gpus is not None:
                nursery.start_soon(_in_a_ring, "GPU metrics", self.gpus.run)
            if self.console is not None:
                nursery.start_soon(_in_a_ring, "the console", self.console.observer.run)
            task_status.started()


async def _in_a_ring(what: str, run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except Exception:  # ring boundary: a look at the server never ends it
        log.exception("%s ended by an error", what)


def wire_observation(
    options: ServerOptions,
    core: Core,
    *,
    server_version: str,
    connections: Callable[[], Mapping[str, int]] = dict,
    keyring: Keyring | None = None,
    pinned_memory: PinnedMemory = lambda: MemoryUse(0, 0),
) -> Observation:
    """What the pages are made of; `connections` counts those that are open, by protocol."""
    gpus = None
    if options.allow_metrics and options.allow_gpu_metrics:
        gpus = GpuMonitor(period_seconds=options.metrics_interval_ms / 1e3 / LOOKS_PER_INTERVAL)
    metrics = Metrics(
        statistics=core.reader,
        index=core.index,
        options=options,
        processor=Processor(),
        custom=core.custom_metrics,
        pinned_memory=pinned_memory,
        mailboxes=core.mailboxes,
        gpus=gpus,
        connections=connections,
    )
    console = None
    if core.slow is not None:
        from actors.console.wiring import wire_console

        console = wire_console(
            options,
            core,
            core.slow,
            server_version=server_version,
            metrics=metrics.page if options.allow_metrics else None,
            gpus=(lambda: gpus.readings.value) if gpus is not None else tuple,
            connections=connections,
            keyring=keyring,
        )
    return Observation(metrics, gpus, console)


def wire_metrics(observation: Observation, listener: trio.SocketListener) -> AdminFrontend:
    """The metrics port."""
    page = observation.metrics.page
    return AdminFrontend(listener, Pages({"/metrics": page, "/metrics/": page}))


def wire_admin(console: Console, listener: trio.SocketListener) -> AdminFrontend:
    """The admin port."""
    return AdminFrontend(listener, console.application)
