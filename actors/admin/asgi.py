"""What every ASGI application here needs: types, its life, an answer, and Hypercorn to serve it.

Hypercorn is imported when the first port is served: it takes a while, and not every server has one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import trio

from actors.ports.port import Quiet

Scope = MutableMapping[str, Any]  # Any: ASGI's own types, fixed by its specification
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Page = Callable[[], Awaitable[str]]
"""Makes the text of one page."""

JSON: Final = b"application/json"
Header = tuple[bytes, bytes]
# What may still be under way when the server has ended, once it is told to.
_GRACE_SECONDS: Final = 1.0


async def serve_application(
    application: Application,
    listener: trio.SocketListener,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve on an open socket until cancelled."""
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    # Hypercorn takes the open socket over, which tells the port before it is served.
    config.bind = [f"fd://{listener.socket.detach()}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = _GRACE_SECONDS
    config.include_server_header = False
    await serve(
        application,
        config,
        shutdown_trigger=trio.sleep_forever,
        task_status=Quiet(task_status),
    )


async def live(receive: Receive, send: Send) -> None:
    """Answer what the server says of its life."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def decline(send: Send) -> None:
    """A WebSocket is wanted; there is none here."""
    await send({"type": "websocket.close"})


async def respond(
    send: Send,
    status: int,
    content_type: bytes,
    body: bytes,
    headers: Iterable[Header] = (),
    *,
    is_head: bool = False,
) -> None:
    """One whole answer; to a HEAD request the same without its body."""
    await begin(send, status, content_type, [(b"content-length", b"%d" % len(body)), *headers])
    await send({"type": "http.response.body", "body": b"" if is_head else body})


async def begin(
    send: Send, status: int, content_type: bytes, headers: Iterable[Header] = ()
) -> None:
    """The head of an answer whose body is sent in pieces."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), *headers],
        }
    )
