"""A KServe v2 REST server over memory streams, with latencies that a test chooses.

It speaks real HTTP/1.1 to the real client; only time and bytes do not leave the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from perf_analyzer.options import Options
from perf_analyzer.setup import Target

Latency = Callable[[int], float]  # number of the request, from 0 → seconds


@dataclass
class Infer:
    """One request as the server saw it."""

    at: float
    document: dict[str, Any]
    binary: bytes
    headers: dict[str, str]

    @property
    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document.get("parameters", {})
        return found


def metadata(
    *, inputs: list[dict[str, Any]] | None = None, outputs: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The metadata of a model with one FP32[4] input and output, unless told otherwise."""
    one = [{"name": "IN", "datatype": "FP32", "shape": [4]}]
    return {
        "name": "m",
        "versions": ["1"],
        "platform": "x",
        "inputs": inputs or one,
        "outputs": outputs or [{"name": "OUT", "datatype": "FP32", "shape": [4]}],
    }


@dataclass
class FakeServer:
    """Answers infer requests after `latency(number)` seconds, each connection on its own."""

    latency: Latency = lambda _: 0.010
    metadata: dict[str, Any] = field(default_factory=metadata)
    config: dict[str, Any] | None = field(default_factory=lambda: {"name": "m"})
    extensions: tuple[str, ...] = ("statistics",)
    output: Callable[[Infer], bytes] = lambda infer: infer.binary
    infer_error: str = ""
    pages: dict[str, tuple[int, Any]] = field(default_factory=dict)
    closes: str = ""  # "told": each connection after one answer; "silently": without a word
    serial: bool = False  # one request at a time, like a model with one instance
    infers: list[Infer] = field(default_factory=list)
    posts: list[tuple[str, Any]] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    occupied: float = 0.0  # integral of `busy` over time
    service_ns: int = 0
    _since: float = 0.0
    _nursery: trio.Nursery | None = None
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def target(self, _options: Options) -> Target:
        async def connect() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            assert self._nursery is not None
            self._nursery.start_soon(self.connection, theirs)
            return ours

        return Target(connect, "fake:8000", tls=False)

    def _occupy(self, change: int) -> None:
        now = trio.current_time()
        self.occupied += self.busy * (now - self._since)
        self._since = now
        self.busy += change
        self.busiest = max(self.busiest, self.busy)

    async def connection(self, stream: trio.abc.Stream) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                data = await stream.receive_some()
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
            size = int(headers.get("content-length", 0))
            while len(received) < size:
                received += await stream.receive_some()
            body, received = received[:size], received[size:]
            status, reply_headers, reply = await self._answer(method, path, headers, body)
            if self.closes == "told":
                reply_headers += "Connection: close\r\n"
            response = f"HTTP/1.1 {status} X\r\n{reply_headers}Content-Length: {len(reply)}\r\n\r\n"
            await stream.send_all(response.encode() + reply)
            if self.closes:
                await stream.aclose()
                return

    async def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        if path.endswith("/infer"):
            return await self._infer(headers, body)
        if method == "POST":
            self.posts.append((path, json.loads(body) if body else None))
            return 200, "", b""
        status, document = self.pages.get(path, (404, {"error": "Not Found"}))
        if callable(document):
            document = document()
        if path not in self.pages:
            if path == "/v2":
                status, document = 200, {"name": "fake", "extensions": list(self.extensions)}
            elif path.startswith("/v2/health"):
                status, document = 200, {}
            elif path == "/v2/models/m":
                status, document = 200, self.metadata
            elif path == "/v2/models/m/config" and self.config is not None:
                status, document = 200, self.config
            elif path == "/v2/models/m/stats":
                status, document = 200, self._statistics()
        text = document if isinstance(document, str) else json.dumps(document)
        return status, "", text.encode()

    def _statistics(self) -> dict[str, Any]:
        count = len(self.infers) - self.busy

        def spent(ns: int) -> dict[str, int]:
            return {"count": count, "ns": ns * count}

        return {
            "model_stats": [
                {
                    "name": "m",
                    "version": "1",
                    "inference_count": count,
                    "execution_count": count,
                    "inference_stats": {
                        "success": {"count": count, "ns": self.service_ns},
                        "queue": spent(100_000),
                        "compute_input": spent(10_000),
                        "compute_infer": spent(300_000),
                        "compute_output": spent(20_000),
                    },
                }
            ]
        }

    async def _infer(self, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        json_bytes = int(headers.get("inference-header-content-length", len(body)))
        infer = Infer(
            trio.current_time(), json.loads(body[:json_bytes]), body[json_bytes:], headers
        )
        number = len(self.infers)
        self.infers.append(infer)
        self._occupy(1)
        seconds = self.latency(number)
        if self.serial:
            async with self._lock:
                await trio.sleep(seconds)
        else:
            await trio.sleep(seconds)
        self.service_ns += int(seconds * 1e9)
        self._occupy(-1)
        if self.infer_error:
            return 400, "", json.dumps({"error": self.infer_error}).encode()
        output = self.output(infer)
        reply = json.dumps(
            {
                "model_name": "m",
                "outputs": [
                    {
                        "name": "OUT",
                        "datatype": "FP32",
                        "shape": [len(output) // 4],
                        "parameters": {"binary_data_size": len(output)},
                    }
                ],
            }
        ).encode()
        return 200, f"Inference-Header-Content-Length: {len(reply)}\r\n", reply + output
