"""A port for operators and scrapers: an ASGI application that Hypercorn serves.

Owns the socket, and the application of the metrics port: pages at fixed paths, each made from what
other actors answer at that moment. The console's application is `actors/console/application.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from actors.admin.asgi import (
    JSON,
    Application,
    Page,
    Receive,
    Scope,
    Send,
    decline,
    live,
    respond,
    serve_application,
)

METRICS_TYPE: Final = b"text/plain; charset=utf-8"


class AdminFrontend:
    """One port."""

    def __init__(self, listener: trio.SocketListener, application: Application) -> None:
        self._listener = listener
        self._application = application

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        await serve_application(self._application, self._listener, task_status=task_status)


class Pages:
    """The application of the metrics port."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        if scope["type"] == "websocket":
            await decline(send)
            return
        page = self._pages.get(scope["path"])
        if page is None:
            await respond(send, 404, JSON, b'{"error":"Not Found"}')
        elif scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, JSON, b'{"error":"Method Not Allowed"}')
        else:
            text = await page()
            await respond(send, 200, METRICS_TYPE, text.encode())
