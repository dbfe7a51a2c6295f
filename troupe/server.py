"""The server as a value: the production wiring, its ports, and how it starts and stops.

The command line runs one of these; a program that embeds Troupe does the same:

    async with trio.open_nursery() as nursery:
        server = Server(ServerOptions(model_repository=("models",), http_port=0, grpc_port=0))
        await nursery.start(server.run)
        response = await server.infer(InferRequest("simple", inputs=[...]))
        server.stop()
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Final

import trio

from actors.admin.wiring import wire_admin, wire_metrics, wire_observation
from actors.fine_timer import FineTimer
from actors.grpc.frontend import GrpcFrontend
from actors.http.frontend import HttpFrontend
from actors.ports.key_file import KeyFile
from actors.ports.port import listen, port_of
from actors.ports.tls import Tls
from actors.processes.zygote import ZygoteOnDemand
from actors.settings.options import ServerOptions
from actors.street.local_calls import infer
from actors.turns import open_turns
from actors.wiring import Core, wire_core, wire_grpc, wire_http
from protocol.inference import InferRequest, InferResponse
from troupe.draining import report_connections, report_models
from troupe.production import log_of_workers, production_ports
from troupe.tables import agent_table, backend_table, model_table, option_table

if TYPE_CHECKING:
    from actors.console.wiring import Console
    from troupe.frontend_crew import FrontendCrew, WorkersPort

log = logging.getLogger(__name__)

# How the log of a drain names what it waits for.
HTTP_CONNECTIONS: Final = "HTTP service connections"
GRPC_CONNECTIONS: Final = "gRPC service connections and inference handlers"
_PROTOCOLS: Final = {HTTP_CONNECTIONS: "http", GRPC_CONNECTIONS: "grpc"}


class ExitTimeout(Exception):  # the words are those that the operator reads
    """Work that was under way did not end within --exit-timeout-secs."""


VERSION = metadata.version("troupe")


class Server:
    """One server. `run` serves until `stop`; both may be called once."""

    def __init__(
        self, options: ServerOptions, *, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        """`announce` takes the tables that a terminal shows at start.

        Raises ServerError when the files for TLS or of API keys cannot be used.
        """
        self.options = options
        self._announce = announce
        self._zygote = ZygoteOnDemand(log=log_of_workers)
        ports = production_ports(options, self._zygote)
        self.core: Core = wire_core(options, ports, server_version=VERSION)
        self._pinned_memory = ports.pinned_memory
        self.http_port = 0  # the ports in use, once `run` has reported `started`
        self.grpc_port = 0
        self.metrics_port = 0
        self.admin_port = 0
        self._stopping = trio.Event()
        self._grpc_tls = Tls.of(options, "grpc") if options.allow_grpc else None
        self._key_file = KeyFile(options)
        self._http_tls = Tls.of(options, "http") if options.allow_http else None
        self._frontends: list[tuple[str, HttpFrontend | GrpcFrontend | WorkersPort]] = []
        self._crew: FrontendCrew | None = None  # with --frontend-workers

    async def infer(self, request: InferRequest, *, deadline_at: float = math.inf) -> InferResponse:
        """One inference without a socket. Raises ServerError."""
        return await infer(self.core.calls, request, deadline_at=deadline_at)

    async def register_repository(
        self, location: str, mapping: Mapping[str, str] | None = None
    ) -> None:
        """Look for models in one more place; `mapping` is model name → directory there.

        A directory that is mapped is seen under that name only. For explicit mode; a model that is
        found there is loaded when somebody asks for it. Raises ServerError.
        """
        await self.core.control_plane.register_repository(location, mapping or {})

    async def unregister_repository(self, location: str) -> None:
        """Look there no longer. Models that were loaded from it go on. Raises ServerError."""
        await self.core.control_plane.unregister_repository(location)

    def reload(self) -> None:
        """Look at the files that may change under a server: its certificates and API keys."""
        self._key_file.reload()
        for tls in (self._http_tls, self._grpc_tls):
            if tls is not None:
                tls.refresh()
        if self._crew is not None:
            self._crew.reload()

    def stop(self) -> None:
        """Begin an orderly stop: no new connections, finish what is under way, unload."""
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models, open the ports, report `started`, serve, drain.

        Raises StartupFailed or AddressInUse before `started`, and ExitTimeout when what was under
        way did not end within --exit-timeout-secs.
        """
        open_turns(timer=FineTimer())
        with trio.CancelScope() as life:
            # From the outside in: metrics outlive the models, and those outlive the frontends.
            async with trio.open_nursery() as observers:
                observers.start_soon(self._await_stop, life)
                await observers.start(self._zygote.run)
                async with trio.open_nursery() as models:
                    try:
                        await models.start(self.core.run)
                    finally:  # whoever looks for the reason of a failure finds it there
                        self._show_tables()
                    async with trio.open_nursery() as frontends:
                        if not self._stopping.is_set():
                            await self._open_ports(frontends, observers)
                        task_status.started()
                        await self._stopping.wait()
                        for _, frontend in self._frontends:
                            frontend.drain()
                        observers.start_soon(report_connections, self._frontends, life)
                    log.info("Waiting for in-flight requests to complete.")
                    self.core.repository.stop_accepting()
                    self.core.repository.drain()
                    alive = self.core.repository.alive
                    observers.start_soon(report_models, alive, life.deadline)
                observers.cancel_scope.cancel()
        if life.cancelled_caught and not self.core.has_drained:  # traces that are lost are logged
            raise ExitTimeout("Internal - Exit timeout expired. Exiting immediately.")

    async def _await_stop(self, life: trio.CancelScope) -> None:
        """From the wish to stop on the clock runs, whatever is going on: loading models, say."""
        await self._stopping.wait()
        self.core.control_plane.stop()  # probes first, so that traffic turns away
        life.deadline = trio.current_time() + self.options.exit_timeout_secs

    def _show_tables(self) -> None:
        index = self.core.index.value
        self._announce(agent_table())
        self._announce(backend_table(index, self.options))
        self._announce(model_table(index))
        self._announce(option_table(self.options, VERSION))

    async def _open_ports(self, frontends: trio.Nursery, observers: trio.Nursery) -> None:
        """In Triton's order, since scripts wait for the last line of the three."""
        options = self.options
        observation = wire_observation(
            options,
            self.core,
            server_version=VERSION,
            connections=self._connections,
            keyring=self._key_file.keyring,
            pinned_memory=self._pinned_memory,
        )
        await observers.start(observation.run)
        if observation.console is not None:
            await self._open_admin_port(observation.console, observers)
        if options.frontend_workers:
            await self._start_workers(frontends)
        else:
            await self._open_frontends(frontends)
        if options.allow_metrics:
            address = options.effective_metrics_address
            listeners = await listen(address, options.metrics_port, reuse_port=False)
            self.metrics_port = port_of(listeners)
            await observers.start(wire_metrics(observation, listeners[0]).run)
            log.info("Started Metrics Service at %s:%s", address, self.metrics_port)

    async def _start_workers(self, frontends: trio.Nursery) -> None:
        """Connections are served by processes of their own."""
        from troupe.frontend_crew import FrontendCrew, WorkersPort

        options = self.options
        crew = self._crew = FrontendCrew(options, self.core)
        ports: ServerOptions = await frontends.start(crew.run)
        if options.allow_grpc:
            self.grpc_port = ports.grpc_port
            self._frontends.append((GRPC_CONNECTIONS, WorkersPort(crew, "grpc")))
            log.info("Started GRPCInferenceService at %s:%s", options.grpc_address, self.grpc_port)
        if options.allow_http:
            self.http_port = ports.http_port
            self._frontends.append((HTTP_CONNECTIONS, WorkersPort(crew, "http")))
            log.info("Started HTTPService at %s:%s", options.http_address, self.http_port)

    async def _open_frontends(self, frontends: trio.Nursery) -> None:
        options = self.options
        if options.allow_grpc:
            listeners = await listen(
                options.grpc_address, options.grpc_port, reuse_port=options.reuse_grpc_port
            )
            self.grpc_port = port_of(listeners)
            grpc = wire_grpc(
                options,
                self.core,
                listeners,
                tls=self._grpc_tls,
                keyring=self._key_file.keyring,
            )
            await frontends.start(grpc.run)
            self._frontends.append((GRPC_CONNECTIONS, grpc))
            log.info("Started GRPCInferenceService at %s:%s", options.grpc_address, self.grpc_port)
        if options.allow_http:
            listeners = await listen(
                options.http_address, options.http_port, reuse_port=options.reuse_http_port
            )
            self.http_port = port_of(listeners)
            http = wire_http(
                options,
                self.core,
                listeners,
                tls=self._http_tls,
                keyring=self._key_file.keyring,
            )
            await frontends.start(http.run)
            self._frontends.append((HTTP_CONNECTIONS, http))
            log.info("Started HTTPService at %s:%s", options.http_address, self.http_port)

    def _connections(self) -> Mapping[str, int]:
        """Those that are open, by protocol."""
        return {_PROTOCOLS[name]: each.connection_count for name, each in self._frontends}

    async def _open_admin_port(self, console: Console, observers: trio.Nursery) -> None:
        """Before the others, whose last line scripts wait for."""
        options = self.options
        listeners = await listen(options.admin_address, options.admin_port, reuse_port=False)
        self.admin_port = port_of(listeners)
        await observers.start(wire_admin(console, listeners[0]).run)
        log.info("Started Admin Service at %s:%s", options.admin_address, self.admin_port)
