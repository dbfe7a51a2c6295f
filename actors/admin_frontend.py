"""The metrics port: an ASGI application that Hypercorn serves.

Owns no state: each page is made from what other actors answer at that moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from actors.port import Quiet

Scope = MutableMapping[str, Any]  # Any: ASGI's own types, fixed by its specification
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Page = Callable[[], Awaitable[str]]
"""Makes the text of one page."""

METRICS_TYPE: Final = b"text/plain; charset=utf-8"


class AdminFrontend:
    """Serves pages at fixed paths, for operators and scrapers."""

    def __init__(self, listener: trio.SocketListener, *, pages: Mapping[str, Page]) -> None:
        self._listener = listener
        self._pages = pages

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        config = Config()
        # Hypercorn takes the open socket over, which tells the port before it is served.
        config.bind = [f"fd://{self._listener.socket.detach()}"]
        config.accesslog = None
        config.errorlog = None
        config.graceful_timeout = 1.0
        config.include_server_header = False
        await serve(
            self._application,
            config,
            shutdown_trigger=trio.sleep_forever,
            task_status=Quiet(task_status),
        )

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        page = self._pages.get(scope["path"])
        if page is None:
            await _respond(send, 404, b"application/json", b'{"error":"Not Found"}')
        elif scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, b"application/json", b'{"error":"Method Not Allowed"}')
        else:
            text = await page()
            await _respond(send, 200, METRICS_TYPE, text.encode())


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _respond(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
