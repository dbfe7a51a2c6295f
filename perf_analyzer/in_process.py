"""A server in this process: requests as values, no socket, no bytes.

Owns the client and the control of such a server. The server itself comes from whoever starts this
program, as an `EmbeddedServer`: the load generator does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from perf_analyzer.calls import Call
from perf_analyzer.control import ControlError, MemoryKind
from perf_analyzer.model import Document
from perf_analyzer.requests import LocalEncoder
from protocol.inference import InferRequest, InferResponse, ResponsePlan
from protocol.status import ServerError, StatusCode
from protocol.v2_grpc import encode_infer_response


class EmbeddedServer(Protocol):
    """What is needed of a server in this process. All raise ServerError."""

    async def respond(self, request: InferRequest, take: Callable[[InferResponse], None]) -> None:
        """Give every response to `take` as it comes; return after the last."""

    async def is_ready(self) -> bool: ...

    def server_metadata(self) -> Document: ...

    def model_metadata(self, name: str, version: str) -> Document: ...

    def model_config(self, name: str, version: str) -> Document: ...

    async def statistics(self, name: str, version: str) -> Document: ...


# Starts a server on a model repository; it stops at the end of the block.
Embed = Callable[[str], AbstractAsyncContextManager[EmbeddedServer]]


class LocalControl:
    """The questions, asked of the server's own objects."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    async def ready(self) -> bool:
        return await self._server.is_ready()

    async def server_metadata(self) -> Document:
        return self._server.server_metadata()

    async def model_metadata(self, name: str, version: str) -> Document:
        return _told(lambda: self._server.model_metadata(name, version))

    async def model_config(self, name: str, version: str) -> Document:
        return _told(lambda: self._server.model_config(name, version))

    async def statistics(self, name: str, version: str) -> Document:
        try:
            return await self._server.statistics(name, version)
        except ServerError as error:
            raise ControlError(error.message) from None

    async def unregister_all(self) -> None:
        """There are no regions."""

    async def unregister(self, region: str, kind: MemoryKind) -> None:
        """There are no regions."""

    async def register(self, region: str, key: str, byte_size: int) -> None:
        raise ControlError("a server in this process shares all memory already")

    async def register_cuda(self, region: str, handle: bytes, device: int, byte_size: int) -> None:
        raise ControlError("a server in this process shares all memory already")

    async def set_trace(self, settings: Mapping[str, str]) -> None:
        raise ControlError("tracing is not supported in this process", unsupported=True)


def _told(ask: Callable[[], Document]) -> Document:
    try:
        return ask()
    except ServerError as error:
        unsupported = error.status is StatusCode.UNSUPPORTED
        raise ControlError(error.message, unsupported=unsupported) from None


class LocalClient:
    """A task per call: what a program that embeds the server would do."""

    def __init__(
        self, server: EmbeddedServer, encoder: LocalEncoder, nursery: trio.Nursery
    ) -> None:
        self._server = server
        self._encoder = encoder
        self._nursery = nursery

    async def run(self) -> None:
        """Nothing goes on beside the load."""

    async def widen(self, width: int) -> None:
        """Nothing limits the width."""

    def send(self, call: Call) -> None:
        self._nursery.start_soon(self._run, call, self._encoder.request(call))

    async def _run(self, call: Call, request: InferRequest) -> None:
        call.begun_at = trio.current_time()

        def take(response: InferResponse) -> None:
            kept = _kept(response) if call.bodies is not None else b""
            call.respond((-1, kept), trio.current_time(), empty=not response.outputs)

        try:
            await self._server.respond(request, take)
        except ServerError as error:
            call.load.failed(call, error.message)
            return
        call.load.completed(call, trio.current_time())

    def flush(self) -> None:
        """Nothing is buffered."""

    async def close(self) -> None:
        """Nothing is open."""


def _kept(response: InferResponse) -> bytes:
    """The response as a message, for the export and validation."""
    return b"".join(encode_infer_response(response, ResponsePlan()))
