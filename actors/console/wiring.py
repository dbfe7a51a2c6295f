"""The map of the console: the observer, and the application of the admin port.

Imported only where there is an admin port, so that a server without one does not pay for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from actors.admin.asgi import Page
from actors.console.application import AllowedHosts, ConsoleApplication, is_loopback
from actors.console.observer import Observer
from actors.metrics.gpus import GpuReading
from actors.metrics.slow_requests import SlowRequests
from actors.settings.options import ServerOptions
from actors.wiring import Core
from protocol.api_keys import Guard, Keyring
from protocol.openapi import document_text
from protocol.restriction import RestrictedApis

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Console:
    """Wired, but nothing of it runs."""

    observer: Observer
    application: ConsoleApplication


def wire_console(
    options: ServerOptions,
    core: Core,
    slow: SlowRequests,
    *,
    server_version: str,
    metrics: Page | None,
    gpus: Callable[[], Sequence[GpuReading]],
    connections: Callable[[], Mapping[str, int]],
    keyring: Keyring | None = None,
) -> Console:
    """`slow` is what the street tells of slow requests; without `metrics` there is no such page."""
    if not is_loopback(options.admin_address):
        log.warning(
            "the admin port asks for no key: whoever reaches %s:%s sees names of models, ids of "
            "requests and texts of errors",
            options.admin_address,
            options.admin_port,
        )
    observer = Observer(
        server={"id": options.id, "version": server_version},
        slow=slow,
        statistics=core.reader,
        index=core.index,
        mailboxes=core.mailboxes,
        gpus=gpus,
        connections=connections,
    )
    application = ConsoleApplication(
        hosts=AllowedHosts([options.admin_address, *options.admin_host]),
        guard=Guard(RestrictedApis.parse(options.http_restricted_api), keyring),
        observer=observer.commands,
        openapi=partial(document_text, server_version=server_version),
        metrics=metrics,
    )
    return Console(observer, application)
