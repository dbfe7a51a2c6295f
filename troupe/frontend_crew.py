"""The frontend processes of a server: started, started again, drained.

Owns the processes, the ports that they share, and what each of them says of itself. One that dies
takes its connections and its requests with it, and nothing else; another one takes its place, at
once the first time, later and later if that goes on. Processes are spawned, never forked from this
one, which has threads.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Final

import trio

from actors.frontends.answers import Answers
from actors.frontends.board import Board
from actors.frontends.core_link import CoreLink
from actors.frontends.pipe import SocketPipe
from actors.frontends.records import Rest
from actors.lifecycle.model_repository import StartupFailed
from actors.policy.restarting import Restarts
from actors.ports.port import reserve
from actors.settings.options import ServerOptions
from actors.wiring import Core
from repo.backends.python.layout import WireError

log = logging.getLogger(__name__)

# Requests of a process are numbered from its own number on, in this many bits: at a million a
# second they last for twelve days per request in flight, and never meet another process's.
NUMBER_BITS: Final = 40
# How long a process that has been told to drain may take to end once its link has closed.
FAREWELL_SECONDS: Final = 2.0
# Modules come from where this process has them, and never from the working directory.
_MAIN: Final = "from troupe.frontend import main; sys.exit(main(sys.argv[1:]))"


class FrontendCrew:
    """See the module's docstring."""

    def __init__(self, options: ServerOptions, core: Core) -> None:
        self._options = options
        self._core = core
        self._board = Board(core.index, core.regions)
        self._answers = Answers(core.http_control(options), core.grpc_routes())
        self._numbers = itertools.count(1)
        self._links: dict[int, CoreLink] = {}  # by slot
        self._tallies: dict[int, dict[str, int]] = {}  # connections by slot and protocol
        self._started: dict[int, None] = {}  # slots whose first process serves
        self._all_started = trio.Event()
        self._draining = trio.Event()
        self._reserved: list[trio.socket.SocketType] = []
        self.pids: dict[int, int] = {}  # by slot, of processes that live

    def connections(self, protocol: str) -> int:
        """Those that are open, as far as their processes have said."""
        return sum(tally.get(protocol, 0) for tally in self._tallies.values())

    async def run(
        self, *, task_status: trio.TaskStatus[ServerOptions] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `drain`; reports the options with the ports in use once all serve.

        Raises AddressInUse, and StartupFailed when a process ends before it has served.
        """
        try:
            await self._reserve_ports()
            async with trio.open_nursery() as nursery:
                for slot in range(self._options.frontend_workers):
                    nursery.start_soon(self._keep, slot)
                await self._all_started.wait()
                task_status.started(self._options)
        finally:
            for sock in self._reserved:
                sock.close()

    def drain(self) -> None:
        """Accept no more; end when the last connection has. Doing so again changes nothing."""
        if self._draining.is_set():
            return
        self._draining.set()
        for link in self._links.values():
            link.say({"drain": True})

    def reload(self) -> None:
        """Have every process look at its files again."""
        for link in self._links.values():
            link.say({"reload": True})

    async def _reserve_ports(self) -> None:
        options = self._options
        ports: dict[str, int] = {}
        if options.allow_grpc:
            sock = await reserve(
                options.grpc_address, options.grpc_port, is_shared=options.reuse_grpc_port
            )
            self._reserved.append(sock)
            ports["grpc_port"] = sock.getsockname()[1]
        if options.allow_http:
            sock = await reserve(
                options.http_address, options.http_port, is_shared=options.reuse_http_port
            )
            self._reserved.append(sock)
            ports["http_port"] = sock.getsockname()[1]
        self._options = replace(options, **ports)  # type: ignore[arg-type]  # both are numbers

    async def _keep(self, slot: int) -> None:
        restarts = Restarts()
        while not self._draining.is_set():
            began_at = trio.current_time()
            status = await self._live(slot)
            if self._draining.is_set():
                return
            if slot not in self._started:
                raise StartupFailed(f"a frontend process ended with status {status}")
            seconds = restarts.delay(trio.current_time() - began_at)
            log.error(
                "a frontend process ended with status %s; another one starts in %s s",
                status,
                seconds,
            )
            with trio.move_on_after(seconds):
                await self._draining.wait()

    async def _live(self, slot: int) -> int | None:
        """The life of one process; the result is its exit status."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first_number = next(self._numbers) << NUMBER_BITS
        with theirs:
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-c",
                    f"import sys; sys.path[:] = {sys.path!r}; {_MAIN}",
                    str(theirs.fileno()),
                    str(first_number),
                ],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        link = CoreLink(
            SocketPipe(ours),
            calls=self._core.calls,
            board=self._board,
            answers=self._answers,
            heard=lambda message: self._hear(slot, message),
        )
        self._links[slot] = link
        self.pids[slot] = process.pid
        try:
            await self._brief(process)
            if self._draining.is_set():
                link.say({"drain": True})
            await link.run()
        except* WireError as errors:
            log.error("a frontend process talks nonsense: %s", errors.exceptions)
        except* Exception:  # ring boundary: a frontend never ends its core
            log.exception("the link to a frontend process has ended by an error")
        finally:
            del self._links[slot]
            del self.pids[slot]
            self._tallies.pop(slot, None)
            with trio.CancelScope(shield=True):
                with trio.move_on_after(FAREWELL_SECONDS if self._draining.is_set() else 0):
                    await process.wait()
                process.kill()
                await process.wait()
        return process.returncode

    async def _brief(self, process: trio.Process) -> None:
        assert process.stdin is not None, "it was asked for"
        try:
            await process.stdin.send_all(json.dumps(asdict(self._options)).encode())
            await process.stdin.aclose()
        except trio.BrokenResourceError:
            log.warning("a frontend process died before it had heard its options")

    def _hear(self, slot: int, message: Rest) -> None:
        if "started" in message:
            self._started[slot] = None
            if len(self._started) == self._options.frontend_workers:
                self._all_started.set()
        tally = message.get("connections")
        if isinstance(tally, dict):
            self._tallies[slot] = tally


class WorkersPort:
    """One port of the crew's, as the server looks at its ports."""

    def __init__(self, crew: FrontendCrew, protocol: str) -> None:
        self._crew = crew
        self._protocol = protocol

    @property
    def connection_count(self) -> int:
        return self._crew.connections(self._protocol)

    def drain(self) -> None:
        """All ports of a process drain together."""
        self._crew.drain()
