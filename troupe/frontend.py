"""A frontend process: the ports of a server whose core is another process, which has started this.

Owns the process: its log, its signals, and its end, which comes when the core has gone or when the
last connection has ended after the core's order to drain. Signals go to the core, which says what
they mean. It is not for use by hand: the core passes a socket, and the options on standard input.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final

import trio

from actors.frontends.pipe import SocketPipe
from actors.frontends.records import Rest
from actors.frontends.remote import Remote
from actors.grpc.frontend import GrpcFrontend
from actors.http.frontend import HttpFrontend
from actors.ports.key_file import KeyFile
from actors.ports.port import listen
from actors.ports.tls import Tls
from actors.settings.options import ServerOptions
from actors.wiring import wire_grpc, wire_http
from troupe.heap import settle_heap
from troupe.logs import configure, reopen

# How often the core hears how many connections there are.
TALLY_SECONDS: Final = 1.0


class Frontend:
    """See the module's docstring."""

    def __init__(self, options: ServerOptions, sock: socket.socket, first_number: int) -> None:
        self._options = options
        self._remote = Remote(SocketPipe(sock), options, first_number=first_number, obey=self._obey)
        self._keys = KeyFile(options)
        self._http_tls = Tls.of(options, "http") if options.allow_http else None
        self._grpc_tls = Tls.of(options, "grpc") if options.allow_grpc else None
        self._ports: dict[str, HttpFrontend | GrpcFrontend] = {}

    async def run(self) -> None:
        """Serve until drained, or until the core has gone."""
        async with trio.open_nursery() as life:
            life.start_soon(self._run_uplink, life.cancel_scope)
            await self._remote.uplink.has_index.wait()
            async with trio.open_nursery() as ports:
                await self._open_ports(ports)
                settle_heap()
                self._remote.uplink.say({"started": True})
                life.start_soon(self._tally)
            life.cancel_scope.cancel()

    async def _run_uplink(self, life: trio.CancelScope) -> None:
        await self._remote.run()
        life.cancel()

    async def _open_ports(self, nursery: trio.Nursery) -> None:
        options = self._options
        keyring = self._keys.keyring
        if options.allow_grpc:
            listeners = await listen(options.grpc_address, options.grpc_port, reuse_port=True)
            grpc = wire_grpc(options, self._remote, listeners, tls=self._grpc_tls, keyring=keyring)
            await nursery.start(grpc.run)
            self._ports["grpc"] = grpc
        if options.allow_http:
            listeners = await listen(options.http_address, options.http_port, reuse_port=True)
            http = wire_http(options, self._remote, listeners, tls=self._http_tls, keyring=keyring)
            await nursery.start(http.run)
            self._ports["http"] = http

    async def _tally(self) -> None:
        told: Mapping[str, int] = {}
        while True:
            await trio.sleep(TALLY_SECONDS)
            tally = {name: port.connection_count for name, port in self._ports.items()}
            if tally != told:
                told = tally
                self._remote.uplink.say({"connections": tally})

    def _obey(self, order: Rest) -> None:
        if "drain" in order:
            for port in self._ports.values():
                port.drain()
        elif "reload" in order:
            reopen()
            self._keys.reload()
            for tls in (self._http_tls, self._grpc_tls):
                if tls is not None:
                    tls.refresh()


def options_of(text: str) -> ServerOptions:
    """The options that a core has written down."""
    said: Mapping[str, object] = json.loads(text)
    known = {field.name for field in fields(ServerOptions)}
    plain = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in said.items()
        if name in known
    }
    return ServerOptions(**plain)  # type: ignore[arg-type]  # as the core's own options were


def main(arguments: Sequence[str]) -> int:
    """Serve; `arguments` are the socket's descriptor and the first number of a request."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal, or systemd, sends them to everybody
    descriptor, first_number = map(int, arguments)
    options = options_of(sys.stdin.read())
    configure(options)
    frontend = Frontend(options, socket.socket(fileno=descriptor), first_number)
    trio.run(frontend.run)
    return 0
