"""A raw HTTP/1.1 client of the production wiring in virtual time, over memory streams.

The client says exactly the bytes that a test gives it, and reads only when a test asks.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio
import trio.testing

from actors.http.connection import HttpConnection
from actors.http.control import HttpControl
from actors.http.frontend import SWEEP_SECONDS
from actors.http.operations import HttpOperations
from actors.http.reply_desk import ReplyDesk
from actors.ports.inlets import StreamInlet
from actors.settings.options import ServerOptions
from actors.street.executor import Executor
from actors.traces.ports import TracePorts
from protocol.api_keys import Guard
from protocol.http1 import HttpLimits
from protocol.http1_head import HeadParser
from protocol.restriction import RestrictedApis
from protocol.v2_json import InferDecoder
from protocol.v2_json_response import InferEncoder
from repo.backends.base import InstanceContext
from repo.model_config import is_decoupled
from simulation.world import SimulatedModel, World
from tests.actors.grpc_rig import ANY, Repeater

MAX_INPUT: Final = 1 << 20


@dataclass
class Response:
    """One reply as it came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._heard = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, path: str, *lines: str) -> Response:
        await self.send(head("GET", path, *lines))
        return await self.response()

    async def post(self, path: str, body: bytes = b"", *lines: str) -> Response:
        await self.send(request(path, body, *lines))
        return await self.response()

    async def response(self, *, to_head: bool = False) -> Response:
        """The next reply, whole."""
        response = await self.head()
        if to_head:
            return response
        if response.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                response.body += chunk
        elif "content-length" in response.headers:
            response.body = await self._take(int(response.headers["content-length"]))
        else:
            response.body = await self.rest()
        return response

    async def head(self) -> Response:
        """The head of the next reply; its body is left where it is."""
        status_line, *lines = (await self._take_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        assert status_line.startswith("HTTP/1.1 ")
        pairs = (line.partition(": ") for line in lines)
        return Response(int(status_line.split()[1]), {k.lower(): v for k, _, v in pairs})

    async def chunk(self) -> bytes:
        """The next chunk of the current body; empty after the last."""
        size = int(await self._take_until(b"\r\n"), 16)
        data = await self._take(size)
        assert await self._take(2) == b"\r\n"
        return data

    async def rest(self) -> bytes:
        """Everything until the server hangs up."""
        while await self._read():
            pass
        heard, self._heard = self._heard, b""
        return heard

    async def _take(self, size: int) -> bytes:
        while len(self._heard) < size:
            assert await self._read(), "the server has hung up"
        taken, self._heard = self._heard[:size], self._heard[size:]
        return taken

    async def _take_until(self, mark: bytes) -> bytes:
        while mark not in self._heard:
            assert await self._read(), "the server has hung up"
        taken, _, self._heard = self._heard.partition(mark)
        return taken

    async def _read(self) -> bytes:
        data = bytes(await self.stream.receive_some(65536))
        self._heard += data
        return data


def head(method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    fields = "".join(f"{line}\r\n" for line in ("Host: x", *lines))
    return f"{method} {path} HTTP/{version}\r\n{fields}\r\n".encode("latin-1")


def request(path: str, body: bytes, *lines: str, version: str = "1.1") -> bytes:
    return head("POST", path, f"Content-Length: {len(body)}", *lines, version=version) + body


def infer(model: str, *values: float, id: str = "", lines: tuple[str, ...] = ()) -> bytes:  # noqa: A002  # the protocol's word
    """An inference of shape [1, n] in JSON, whole."""
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}
    body = json.dumps({"id": id, "inputs": [tensor]}).encode()
    return request(f"/v2/models/{model}/infer", body, *lines)


def generate(
    model: str, *values: float, stream: bool = True, lines: tuple[str, ...] = (), more: Any = None
) -> bytes:
    body = json.dumps({"INPUT": list(values), **(more or {})}).encode()
    name = "generate_stream" if stream else "generate"
    return request(f"/v2/models/{model}/{name}", body, *lines)


Scenario = Callable[["HttpWorld"], Awaitable[None]]


class HttpWorld(World):
    """Simulated models, decoupled ones among them, and clients that connect to them."""

    def __init__(
        self,
        models: Mapping[str, SimulatedModel],
        *,
        limits: HttpLimits | None = None,
        guard: Guard | None = None,
        options: ServerOptions | None = None,
        load_report: Mapping[str, float] | None = None,
        tracing: TracePorts | None = None,
    ) -> None:
        super().__init__(models, options=options, expected_errors=ANY, tracing=tracing)
        self.repeaters: dict[str, Repeater] = {}
        self.connections: list[HttpConnection] = []  # those that run
        self._limits = limits or HttpLimits()
        self._guard = guard or Guard(RestrictedApis({}))
        self._load_report = load_report or {}
        self._heads = HeadParser(max_header_lines=self._limits.max_header_lines)
        self.operations: HttpOperations

    def _make_executor(self, context: InstanceContext) -> Executor:
        if is_decoupled(context.config):
            repeater = self.repeaters[context.model_name] = Repeater(context)
            return repeater
        return super()._make_executor(context)

    def make_operations(self) -> HttpOperations:
        return HttpOperations(
            calls=self.core.calls,
            control=HttpControl(self.core.control_plane, max_input_size=MAX_INPUT),
            regions=self.core.regions,
            decoder=InferDecoder(max_input_size=MAX_INPUT),
            encoder=InferEncoder(),
            guard=self._guard,
            max_input_size=MAX_INPUT,
            load_report=lambda: self._load_report,
        )

    @asynccontextmanager
    async def connect(self, *, lockstep: bool = False) -> AsyncIterator[Client]:
        """A connected client, which hangs up at the end of the block.

        With `lockstep` nothing lies between the two: what one side sends waits for the other to
        read it. The connection must have ended a while after its client.
        """
        pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        ours, theirs = pair()
        desk = ReplyDesk()
        connection = HttpConnection(
            theirs,
            StreamInlet(theirs),
            operations=self.make_operations(),
            desk=desk,
            limits=self._limits,
            heads=self._heads,
        )
        async with trio.open_nursery() as port:
            port.start_soon(self._sweep, connection)
            port.start_soon(desk.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, connection)
                yield Client(ours)
                await trio.aclose_forcefully(ours)
            port.cancel_scope.cancel()

    async def _serve(self, connection: HttpConnection) -> None:
        self.connections.append(connection)
        await connection.run()
        self.connections.remove(connection)

    async def _sweep(self, connection: HttpConnection) -> None:
        """What the port does for all its connections."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            connection.sweep(trio.current_time())

    def run_bounded(self, scenario: Scenario, *, seed: int = 0) -> None:
        """Run the scenario to its end, in no more than an hour of virtual time."""

        async def bounded(_: World) -> None:
            with trio.fail_after(3600):
                await scenario(self)

        self.run(bounded, seed=seed)
        assert not self.connections, "every connection ends with its client"

    async def settle(self) -> None:
        """Return once nothing more can happen at this instant."""
        await trio.testing.wait_all_tasks_blocked()

    def pending(self, model: str) -> int:
        """Requests that the model has accepted and does not execute yet."""
        return self.core.index.value.find(model, "").pending()
