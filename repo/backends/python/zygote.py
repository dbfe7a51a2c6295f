"""A worker that has imported everything but a model, and forks workers that start at once.

Importing numpy is most of a worker's start and of its memory; forked from here, a worker starts in
milliseconds and shares those pages. The server asks over a socket, sending the descriptors that
the worker shall have, and gets a pidfd back. Nothing of a model ever runs in this process itself.

When the server is gone this process kills every worker it forked, even one whose model holds the
interpreter's lock for ever, and ends.
"""

from __future__ import annotations

import array
import gc
import os
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

from . import worker

REQUEST = struct.Struct("<B")
REPLY = struct.Struct("<q")  # a process id, or a negative errno

# Descriptors of a request: the worker's ends of `work` and `control`, its progress, and where its
# output and its errors go.
DESCRIPTORS = 5

READY = b"ready"


class _Forked(Exception):  # not an error: the child leaves the loop by it
    def __init__(self, descriptors: list[int]) -> None:
        super().__init__()
        self.descriptors = descriptors


def main(descriptor: int) -> None:
    """Serve until the server is gone; in a forked child, be a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: the server waits by pidfd
    # Otherwise the collector would write to every object's header and so unshare its page.
    gc.collect()
    gc.freeze()
    try:
        _serve(socket.socket(fileno=descriptor))
    except _Forked as forked:
        inherited = forked.descriptors
    worker.main(*inherited, parent_is_server=False)


def _serve(server: socket.socket) -> NoReturn:
    server.send(READY)
    workers: list[int] = []  # pidfds
    while True:
        try:
            packet, descriptors = _receive(server)
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            for pidfd in workers:
                _kill(pidfd)
            os._exit(0)
        workers = [pidfd for pidfd in workers if not _has_ended(pidfd)]
        try:
            pid = os.fork()
        except OSError as error:
            server.send(REPLY.pack(-(error.errno or 1)))
        else:
            if pid == 0:
                _become_worker(server, descriptors, workers)
            pidfd = os.pidfd_open(pid)
            workers.append(pidfd)
            rights = array.array("i", [pidfd])
            server.sendmsg([REPLY.pack(pid)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        for received in descriptors:
            os.close(received)


def _receive(server: socket.socket) -> tuple[bytes, list[int]]:
    packet, ancillary, _, _ = server.recvmsg(64, socket.CMSG_SPACE(4 * DESCRIPTORS))
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content)
    return packet, list(descriptors)


def _become_worker(server: socket.socket, descriptors: list[int], others: list[int]) -> NoReturn:
    """Undo, in a child, what makes this process a zygote."""
    server.close()
    for pidfd in others:
        os.close(pidfd)
    *inherited, output, errors = descriptors
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Siblings must not draw the same numbers; `random` sees to itself.
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()
    raise _Forked(inherited)


def _has_ended(pidfd: int) -> bool:
    """Whether a worker has ended; closes its pidfd then."""
    if not select.select([pidfd], [], [], 0)[0]:
        return False
    os.close(pidfd)
    return True


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
