"""The gRPC port: accepts connections, in plain text or over TLS.

Owns the listening port and what all connections share: the routes of the services and the
operator's settings. What happens on a connection is `actors/grpc/connection.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio
from grpclib.const import Cardinality

from actors.control.shared_memory import SharedMemory
from actors.grpc.connection import GrpcConnection
from actors.grpc.terms import GrpcSettings
from actors.ports.inlets import Inlet, SocketInlet, StreamInlet
from actors.ports.port import Port
from actors.ports.sockets import PeerStream
from actors.ports.tls import Tls
from actors.readiness import current_readiness
from actors.street.calls import Calls
from protocol.grpc_service import Route

# How often connections are looked over for keep-alive and stalls, whose limits are seconds.
SWEEP_SECONDS: Final = 1.0


class GrpcFrontend:
    """The gRPC port."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        *,
        calls: Calls,
        regions: SharedMemory,
        routes: Mapping[str, Route],
        settings: GrpcSettings,
        tls: Tls | None = None,
    ) -> None:
        """`routes` by method path. Without `tls` the port speaks plain text."""
        self._calls = calls
        self._regions = regions
        self._routes = routes
        self._settings = settings
        self._tls = tls
        self._unary_paths = frozenset(
            path for path, route in routes.items() if route.cardinality is Cardinality.UNARY_UNARY
        )
        self._port = Port(listeners, self._connect, sweep_seconds=SWEEP_SECONDS)

    @property
    def connection_count(self) -> int:
        return self._port.connection_count

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `drain`; return when the last connection has ended."""
        await self._port.run(task_status=task_status)

    def drain(self) -> None:
        """Accept no more; send GOAWAY, let open calls end."""
        self._port.drain()

    def _connect(self, stream: PeerStream) -> GrpcConnection:
        secured: trio.abc.Stream = stream
        inlet: Inlet
        if self._tls is None:
            inlet = SocketInlet(stream, current_readiness())
        else:  # bytes on the socket are not yet bytes of HTTP/2
            secured = self._tls.secured(stream)
            inlet = StreamInlet(secured)
        return GrpcConnection(
            secured,
            inlet,
            calls=self._calls,
            regions=self._regions,
            routes=self._routes,
            settings=self._settings,
            unary_paths=self._unary_paths,
        )
