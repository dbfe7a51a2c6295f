"""`troupe perf`, also known as `perf_analyzer`: the load generator, with a server at hand.

Owns the one thing that the load generator lacks: how to start Troupe in the same process, for
`--service-kind triton_c_api`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from actors.lifecycle.model_repository import StartupFailed
from actors.settings.options import ServerOptions
from actors.street.local_calls import open_call
from actors.wiring import Core
from perf_analyzer.main import perf
from perf_analyzer.model import SetupError
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError
from repo.config_json import to_dict
from troupe.server import Server

Json = Mapping[str, object]


def perf_analyzer_main() -> None:
    """The entry point that takes perf_analyzer's command line unchanged."""
    sys.exit(perf(sys.argv[1:], embed=embedded))


class _Embedded:
    """The questions and requests of the load generator, put to the actors themselves."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def respond(self, request: InferRequest, take: Callable[[InferResponse], None]) -> None:
        async with open_call(self._core.calls, request) as call:
            while (response := await call.next()) is not None:
                take(response)

    async def is_ready(self) -> bool:
        return await self._core.control_plane.is_ready()

    def server_metadata(self) -> Json:
        return self._core.control_plane.server_metadata()

    def model_metadata(self, name: str, version: str) -> Json:
        return self._core.control_plane.model_metadata(name, version)

    def model_config(self, name: str, version: str) -> Json:
        return to_dict(self._core.control_plane.model_config(name, version).config)

    async def statistics(self, name: str, version: str) -> Json:
        return await self._core.control_plane.model_statistics(name, version)


@asynccontextmanager
async def embedded(repository: str) -> AsyncIterator[_Embedded]:
    """A server without a port on `repository`, until the end of the block. Raises SetupError."""
    options = ServerOptions(
        model_repository=(repository,),
        allow_http=False,
        allow_grpc=False,
        allow_metrics=False,
        exit_on_error=False,
    )
    try:
        server = Server(options)
    except ServerError as error:
        raise SetupError(f"failed to load the models: {error.message}") from None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(server.run)
        except* StartupFailed as group:
            raise SetupError(f"failed to load the models: {group.exceptions[0]}") from None
        try:
            yield _Embedded(server.core)
        finally:
            server.stop()
