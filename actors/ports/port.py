"""A listening port and the connections that came in through it, whatever they speak.

Owns the listeners and the set of live connections. A connection that raises ends alone: this is
the connection ring of supervision.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from actors.ports.sockets import PeerStream

log = logging.getLogger(__name__)

# Connections that the kernel completes before anyone accepts them.
BACKLOG: Final = 1024


class Connection(Protocol):
    """What a port needs of a connection."""

    async def run(self) -> None:
        """Serve the peer to the end; closes the stream."""

    def sweep(self, now: float) -> None:
        """Act on whatever time has brought about."""

    def drain(self, now: float) -> None:
        """The server stops: end as soon as nothing is owed."""


class AddressInUse(Exception):  # the words are those that the operator reads
    """The port is taken."""


async def listen(address: str, port: int, *, reuse_port: bool) -> list[trio.SocketListener]:
    """Listening sockets; port 0 asks the system for a free one. Raises AddressInUse."""
    try:
        if not reuse_port:
            return await trio.open_tcp_listeners(port, host=address, backlog=BACKLOG)
        found = await trio.socket.getaddrinfo(
            address, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
        )
        family, kind, protocol, _, bound = found[0]
        sock = trio.socket.socket(family, kind, protocol)
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        await sock.bind(bound)
        sock.listen(BACKLOG)
        return [trio.SocketListener(sock)]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"Socket '{address}:{port}' already in use ") from error
        raise


async def reserve(address: str, port: int, *, is_shared: bool) -> trio.socket.SocketType:
    """A port that is ours, for other processes of ours to listen on; nobody listens here.

    Unless it `is_shared` nobody else may have it. Raises AddressInUse.
    """
    if not is_shared:  # two servers would else divide the clients between them
        for probe in await listen(address, port, reuse_port=False):
            port = probe.socket.getsockname()[1]
            await probe.aclose()
    found = await trio.socket.getaddrinfo(
        address, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
    )
    family, kind, protocol, _, bound = found[0]
    sock = trio.socket.socket(family, kind, protocol)
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
    await sock.bind(bound)
    return sock


def port_of(listeners: Sequence[trio.SocketListener]) -> int:
    """The port that the system chose, or the one that was asked for."""
    port: int = listeners[0].socket.getsockname()[1]
    return port


class Quiet(trio.TaskStatus[object]):
    """Reports that something has started, but not with what: for servers that tell too much."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status

    def started(self, value: object = None) -> None:
        self._task_status.started()


class Port:
    """Accepts connections and serves each until it ends."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        connect: Callable[[PeerStream], Connection],
        *,
        sweep_seconds: float,
    ) -> None:
        self._listeners = listeners
        self._connect = connect
        self._sweep_seconds = sweep_seconds
        self._connections: dict[Connection, None] = {}
        self._accepting = trio.CancelScope()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `drain`; return when the last connection has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            async with trio.open_nursery() as connections:
                with self._accepting:
                    await trio.serve_listeners(
                        self._serve,
                        self._listeners,
                        handler_nursery=connections,
                        task_status=Quiet(task_status),
                    )
                now = trio.current_time()
                for connection in list(self._connections):
                    connection.drain(now)
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Accept no more and ask every connection to end."""
        self._accepting.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = self._connect(PeerStream(stream))
        self._connections[connection] = None
        try:
            await connection.run()
        except Exception:  # ring boundary: one connection never ends another
            log.exception("connection ended by an error")
        finally:
            del self._connections[connection]

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._sweep_seconds)
            now = trio.current_time()
            for connection in list(self._connections):
                connection.sweep(now)
