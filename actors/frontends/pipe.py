"""The way of packets between the core and a frontend process.

Owns one end of a pair of SEQPACKET sockets. A packet arrives whole, in order, or not at all; a
packet may bring a descriptor along. Nothing here waits but the two coroutines that say so, and
nothing here knows what a packet says. Simulations have a pipe of their own.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Final, Protocol

import trio

from repo.backends.python.records import MESSAGE_LIMIT

# Room for one packet; a sender never exceeds MESSAGE_LIMIT.
PACKET_BYTES: Final = MESSAGE_LIMIT + 4096
# Asked of the kernel, which grants what it may: packets that wait for a busy peer.
SOCKET_BUFFER_BYTES: Final = 1 << 20

_DESCRIPTOR_BYTES: Final = socket.CMSG_SPACE(4)


class PeerGone(Exception):  # a fact; it ends the conversation
    """The process at the other end has closed it, or is dead."""


class Pipe(Protocol):
    """One end."""

    def send(self, packet: bytes, descriptor: int = -1) -> bool:
        """Send a packet, and give a descriptor away with it; False when there is no room now.

        Raises PeerGone.
        """

    def receive(self) -> tuple[bytes, int] | None:
        """The next packet and its descriptor or -1, None when there is none. Raises PeerGone."""

    async def wait_readable(self) -> None: ...

    async def wait_writable(self) -> None: ...

    def close(self) -> None: ...


class SocketPipe:
    """See the module's docstring."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes the socket over."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self._socket = sock
        # Kept: allocating a buffer of this size is a system call in itself.
        self._buffer = bytearray(PACKET_BYTES)
        self._view = memoryview(self._buffer)

    def send(self, packet: bytes, descriptor: int = -1) -> bool:
        try:
            if descriptor < 0:
                self._socket.send(packet)
                return True
            rights = array.array("i", [descriptor])
            self._socket.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerGone(str(error)) from error
        os.close(descriptor)
        return True

    def receive(self) -> tuple[bytes, int] | None:
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into(
                [self._buffer], _DESCRIPTOR_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerGone(str(error)) from error
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        for extra in descriptors[1:]:
            os.close(extra)
        if not size:
            raise PeerGone("the other end was closed")
        return bytes(self._view[:size]), descriptors[0] if descriptors else -1

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._socket)

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)

    def close(self) -> None:
        self._socket.close()
