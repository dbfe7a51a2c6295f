"""Reading a server's Prometheus metrics while it is under load.

Owns the polling task and what it has seen since the last window. An unreachable address is an
error; metrics that the server lacks are a warning, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from perf_analyzer.connecting import CannotConnect, Connect
from perf_analyzer.http1_client import Head, Http1Client
from perf_analyzer.model import SetupError
from perf_analyzer.telemetry import GpuFigures, missing, read_metrics
from perf_analyzer.wires import Wires

# Metrics are a page of text; a server that needs longer has other worries.
POLL_SECONDS: Final = 10.0


class _Page:
    """One GET."""

    def __init__(self) -> None:
        self.begun_at = 0.0
        self.done = trio.Event()
        self.status = 0
        self.text = ""
        self.problem = ""

    def on_answer(self, head: Head, body: bytes | bytearray | memoryview, now: float) -> None:
        self.status = head.status
        self.text = bytes(body).decode("utf-8", "replace")
        self.done.set()

    def on_failure(self, text: str) -> None:
        self.problem = text
        self.done.set()


class MetricsPoller:
    """Looks at the metrics every so often. Call `look` once before `run`."""

    def __init__(
        self,
        *,
        wires: Wires,
        connect: Connect,
        url: str,
        seconds: float,
        warn: Callable[[str], None],
    ) -> None:
        self._wires = wires
        self._connect = connect
        self._url = url
        self._seconds = seconds
        self._warn = warn
        self._warned = False
        self._seen: list[GpuFigures] = []

    async def look(self) -> None:
        """One look. Raises SetupError when nobody answers with metrics."""
        problem = f"metrics endpoint at '{self._url}' "
        codec = Http1Client()
        try:
            wire = self._wires.attach(await self._connect(), codec)
        except CannotConnect as error:
            raise SetupError(f"{problem}cannot be reached: {error}") from None
        page = _Page()
        host, _, path = self._url.partition("://")[2].partition("/")
        request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        codec.start(page, page, request.encode("latin-1"))
        wire.touch()
        self._wires.flush()
        with trio.move_on_after(POLL_SECONDS):
            await page.done.wait()
        wire.close()
        if page.status != 200:
            reason = page.problem or (f"HTTP status {page.status}" if page.status else "no answer")
            raise SetupError(f"{problem}is not usable: {reason}")
        poll = read_metrics(page.text)
        if (absent := missing(poll)) and not self._warned:
            self._warned = True
            self._warn(f"WARNING: the server has no metrics {', '.join(absent)}")
        self._seen.append(GpuFigures(poll))

    async def run(self) -> None:
        """Look again and again, until cancelled; a look that fails is left out."""
        while True:
            await trio.sleep(self._seconds)
            try:
                await self.look()
            except SetupError as error:
                self._warn(f"WARNING: {error}")

    def cut(self) -> GpuFigures:
        """What was seen since the last cut."""
        seen, self._seen = self._seen, []
        return GpuFigures.merged(seen)
