"""The REST port: accepts connections and ends them in order.

Owns the listeners and what its connections share. What a connection does is `connection`'s.
"""

from __future__ import annotations

from typing import Final

import trio

from actors.http.connection import HttpConnection
from actors.http.operations import HttpOperations
from actors.http.reply_desk import ReplyDesk
from actors.ports.inlets import Inlet, SocketInlet, StreamInlet
from actors.ports.port import Port
from actors.ports.sockets import PeerStream
from actors.ports.tls import Tls
from actors.readiness import current_readiness
from protocol.http1 import HttpLimits
from protocol.http1_head import HeadParser

# How often connections are looked over for time-outs; their limits are seconds, so this is exact
# enough and costs nothing per request.
SWEEP_SECONDS: Final = 1.0


class HttpFrontend:
    """The REST port."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        *,
        operations: HttpOperations,
        limits: HttpLimits,
        tls: Tls | None = None,
    ) -> None:
        """Without `tls` the port speaks plain text."""
        self._operations = operations
        self._limits = limits
        self._tls = tls
        self._heads = HeadParser(max_header_lines=limits.max_header_lines)
        self._desk = ReplyDesk()
        self._port = Port(listeners, self._connect, sweep_seconds=SWEEP_SECONDS)

    @property
    def connection_count(self) -> int:
        return self._port.connection_count

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `drain`; return when the last connection has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._desk.run)
            await self._port.run(task_status=task_status)
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Accept no more; idle connections close now, busy ones after their answer."""
        self._port.drain()

    def _connect(self, stream: PeerStream) -> HttpConnection:
        secured: trio.abc.HalfCloseableStream = stream
        inlet: Inlet
        if self._tls is None:
            inlet = SocketInlet(stream, current_readiness())
        else:  # bytes on the socket are not yet bytes of HTTP
            secured = self._tls.secured(stream)
            inlet = StreamInlet(secured)
        return HttpConnection(
            secured,
            inlet,
            operations=self._operations,
            desk=self._desk,
            limits=self._limits,
            heads=self._heads,
        )
