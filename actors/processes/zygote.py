"""How worker processes come to be: as interpreters of their own, or forked from a zygote.

Owns the zygote process: a worker that has imported everything but a model. It is one for all
models of a server. A worker forked from it is ready in milliseconds and shares its memory; one
that needs another interpreter or environment is started afresh all the same, as is any while the
zygote is not there.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import trio

from actors.processes.child import Child, start_child
from actors.processes.ports import Log
from repo.backends.python.environment import own_environment
from repo.backends.python.launch import WorkerSpec, zygote_command
from repo.backends.python.zygote import DESCRIPTORS, READY, REPLY, REQUEST

# A fork takes milliseconds; whoever takes longer is stopped, or swapped out for good.
_ANSWER_SECONDS: Final = 10.0

_DESCRIPTOR_BYTES: Final = socket.CMSG_SPACE(4)


# From this start on, restarts and further instances are likely enough to be worth 16 MB.
STARTS_WITHOUT_ZYGOTE: Final = 4
# A zygote that takes longer than this is not waited for.
SETTLE_SECONDS: Final = 5.0


class Starter(Protocol):
    """What a WorkerProcess needs to exist."""

    async def start(self, spec: WorkerSpec, descriptors: Sequence[int], *, log: Log) -> Child:
        """A process with the worker's descriptors, which stay the caller's. Raises OSError."""


class FreshInterpreters:
    """Every worker is an interpreter of its own, started from nothing."""

    async def start(self, spec: WorkerSpec, descriptors: Sequence[int], *, log: Log) -> Child:
        await trio.lowlevel.checkpoint()
        return start_child(spec.command(descriptors), spec.environment, descriptors, log=log)


class Zygote:
    """See the module's docstring; `run` it once beside whatever starts workers."""

    def __init__(self, *, log: Log) -> None:
        self._log = log
        self._fresh = FreshInterpreters()
        self._socket: trio.socket.SocketType | None = None
        self._process: Child | None = None
        self._variables: Mapping[str, str] = {}
        self._asking = trio.Lock()
        self._settled = trio.Event()  # ready, or known not to come
        self.fork_count = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the zygote, call `started` at once, and keep it until cancelled.

        It is not replaced if it dies: workers are started afresh then.
        """
        task_status.started()
        try:
            await self._run()
        finally:
            self._settled.set()

    async def settle(self) -> None:
        """Wait until it is ready or known not to come."""
        await self._settled.wait()

    async def _run(self) -> None:
        own = own_environment()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as connection:
            try:
                command = zygote_command(theirs.fileno())
                child = start_child(command, own.variables, [theirs.fileno()], log=self._log)
            except OSError as error:
                self._log("WARNING", f"workers start without a zygote: {error}")
                return
            finally:
                theirs.close()
            self._process = child
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.run)
                nursery.start_soon(self._greet, connection, own.variables)
                await child.wait()
                self._socket = None
                self._log("WARNING", "the zygote has died: workers start without it")
                nursery.cancel_scope.cancel()

    async def start(self, spec: WorkerSpec, descriptors: Sequence[int], *, log: Log) -> Child:
        """Fork a worker where it can be one. Raises OSError.

        A zygote that does not answer is killed, and the worker is not started afresh: the zygote
        may have forked one by then, and two workers must not share their sockets.
        """
        own = spec.interpreter == own_environment().interpreter
        if self._socket is None or not own or spec.environment != self._variables:
            return await self._fresh.start(spec, descriptors, log=log)
        async with self._asking:
            child = await self._fork(descriptors, log)
        if child is None:
            return await self._fresh.start(spec, descriptors, log=log)
        return child

    async def _greet(
        self, connection: trio.socket.SocketType, variables: Mapping[str, str]
    ) -> None:
        if await connection.recv(len(READY)) == READY:
            self._socket = connection
            self._variables = variables
        self._settled.set()

    async def _fork(self, descriptors: Sequence[int], log: Log) -> Child | None:
        """Have a worker forked; None when the zygote cannot."""
        connection = self._socket
        if connection is None:
            return None
        output, output_end = os.pipe()
        errors, errors_end = os.pipe()
        rights = array.array("i", [*descriptors, output_end, errors_end])
        assert len(rights) == DESCRIPTORS, "what a zygote expects"
        pid, pidfd = -1, -1
        try:
            # Shielded, because once asked for, the answer must not be lost.
            with trio.CancelScope(shield=True), trio.fail_after(_ANSWER_SECONDS):
                await connection.sendmsg(
                    [REQUEST.pack(0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                )
                packet, ancillary, _, _ = await connection.recvmsg(REPLY.size, _DESCRIPTOR_BYTES)
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    (pidfd,) = array.array("i", content)
            pid = REPLY.unpack(packet)[0] if packet else -1
        except trio.TooSlowError:
            self._socket = None
            assert self._process is not None, "set before the socket"
            self._process.kill()
            raise OSError("the zygote does not answer") from None
        except OSError:
            self._socket = None
        finally:
            os.close(output_end)
            os.close(errors_end)
            if pid < 0 or pidfd < 0:
                os.close(output)
                os.close(errors)
        if pid < 0 or pidfd < 0:
            return None
        self.fork_count += 1
        return Child(pid, pidfd, output=output, errors=errors, log=log)


class ZygoteOnDemand:
    """A zygote that exists only once it pays: a server with one model is better off without.

    `run` it once beside whatever starts workers.
    """

    def __init__(self, *, log: Log) -> None:
        self._zygote = Zygote(log=log)
        self._wanted = trio.Event()
        self._starts = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait until workers have been started often enough, then keep a zygote."""
        task_status.started()
        await self._wanted.wait()
        await self._zygote.run()

    async def start(self, spec: WorkerSpec, descriptors: Sequence[int], *, log: Log) -> Child:
        """A worker: a fresh interpreter at first, then forked. Raises OSError."""
        self._starts += 1
        if self._starts >= STARTS_WITHOUT_ZYGOTE:
            self._wanted.set()
            # Waiting for one interpreter is sooner done than starting another beside it.
            with trio.move_on_after(SETTLE_SECONDS):
                await self._zygote.settle()
        return await self._zygote.start(spec, descriptors, log=log)
