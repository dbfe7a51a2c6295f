"""An ASGI server and its browser, in process: scope, receive and send, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.admin.asgi import Application, Message


@dataclass
class Exchange:
    """One request and what came back."""

    application: Application
    path: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = (("host", "localhost:8003"),)
    status: int = 0
    told: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    gone: trio.Event = field(default_factory=trio.Event)  # set: the browser has left
    stalls: bool = False  # takes the head and nothing else
    news: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> Exchange:
        scope = {
            "type": "http",
            "path": self.path,
            "method": self.method,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in self.headers],
        }
        await self.application(scope, self._receive, self._send)
        return self

    def json(self) -> Any:
        return json.loads(self.body)

    async def event(self) -> tuple[str, Any]:
        """The next one of a stream of events."""
        while b"\n\n" not in self.body:
            self.news = trio.Event()
            await self.news.wait()
        text, _, self.body = self.body.partition(b"\n\n")
        kind, data = text.decode().split("\n")
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.told = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        if self.stalls:
            await trio.sleep_forever()
        self.body += message["body"]
        self.news.set()


async def get(application: Application, path: str, **more: Any) -> Exchange:
    """One request and its whole answer."""
    return await Exchange(application, path, **more).run()
