"""How bytes come in: from sockets watched together, and from streams one by one."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from actors.policy.reading import LEAST_REQUESTS, MOST_REQUESTS
from actors.ports.inlets import Inlet, SocketInlet, StreamInlet
from actors.ports.sockets import PeerStream
from actors.readiness import DESCRIPTORS_PER_LOOK, Readiness
from actors.turns import current_turns

Said = Callable[[bytes], None]


class Ear:
    """Keeps what it hears, and raises what it is told to. To it every byte is a request."""

    def __init__(self, *, read_size: int = 65536) -> None:
        self.heard: list[bytes] = []
        self.lost = 0
        self.read_size = read_size
        self.deafened_by: Exception | None = None
        self.on_hearing: Callable[[], None] | None = None

    def hear(self, data: bytes) -> int:
        if self.deafened_by is not None:
            raise self.deafened_by
        self.heard.append(data)
        if self.on_hearing is not None:
            self.on_hearing()
        return len(data)

    def lose(self) -> None:
        self.lost += 1


class Line:
    """Our inlet and the peer's end of one connection."""

    def __init__(self, readiness: Readiness) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        self.stream = PeerStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.inlet = SocketInlet(self.stream, readiness)
        self.ear = Ear()

    async def until(self, heard: bytes) -> None:
        """Return once the peer has been heard to say so much, or its last."""
        while b"".join(self.ear.heard) != heard:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.peer.close()
        await trio.aclose_forcefully(self.stream)


async def test_sockets_of_a_port_are_heard_until_their_peers_have_said_their_last() -> None:
    readiness = Readiness()
    lines = [Line(readiness) for _ in range(3)]
    async with trio.open_nursery() as port:
        port.start_soon(readiness.run)
        async with trio.open_nursery() as nursery:
            for line in lines:
                nursery.start_soon(line.inlet.run, line.ear)
            await wait_all_tasks_blocked()
            for number, line in enumerate(lines):
                line.peer.sendall(b"one %d " % number)
            for number, line in enumerate(lines):
                await line.until(b"one %d " % number)
                line.peer.sendall(b"two")
                line.peer.shutdown(socket.SHUT_WR)
        for number, line in enumerate(lines):
            assert b"".join(line.ear.heard) == b"one %d two" % number
            assert line.ear.heard[-1] == b""
            assert line.ear.heard.count(b"") == 1
            assert line.ear.lost == 0
            await line.aclose()
        port.cancel_scope.cancel()
    readiness.close()


async def test_a_read_asks_for_no_more_than_its_hearer_wants() -> None:
    readiness = Readiness()
    line = Line(readiness)
    line.ear.read_size = 3
    async with trio.open_nursery() as port:
        port.start_soon(readiness.run)
        port.start_soon(line.inlet.run, line.ear)
        line.peer.sendall(b"abcdefgh")
        await line.until(b"abcdefgh")
        assert line.ear.heard == [b"abc", b"def", b"gh"]
        port.cancel_scope.cancel()
    await line.aclose()
    readiness.close()


@pytest.mark.parametrize("kind", ["socket", "stream"])
async def test_a_paused_inlet_hears_nothing_until_it_is_resumed(kind: str) -> None:
    readiness = Readiness()
    line = Line(readiness)
    inlet: Inlet = line.inlet if kind == "socket" else StreamInlet(line.stream)
    async with trio.open_nursery() as port:
        port.start_soon(readiness.run)
        port.start_soon(inlet.run, line.ear)
        await wait_all_tasks_blocked()
        line.ear.on_hearing = inlet.pause
        line.peer.sendall(b"first")
        await line.until(b"first")
        line.peer.sendall(b" second")
        await wait_all_tasks_blocked()
        assert b"".join(line.ear.heard) == b"first"

        inlet.resume()
        await line.until(b"first second")
        port.cancel_scope.cancel()
    await line.aclose()
    readiness.close()


@pytest.mark.parametrize("kind", ["socket", "stream"])
async def test_a_reset_is_a_loss(kind: str) -> None:
    readiness = Readiness()
    line = Line(readiness)
    inlet: Inlet = line.inlet if kind == "socket" else StreamInlet(line.stream)
    async with trio.open_nursery() as port:
        port.start_soon(readiness.run)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inlet.run, line.ear)
            await wait_all_tasks_blocked()
            line.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.peer.close()
        port.cancel_scope.cancel()
    assert (line.ear.heard, line.ear.lost) == ([], 1)
    inlet.resume()  # has nothing to do any longer
    await line.aclose()
    readiness.close()


async def test_a_hearer_that_raises_ends_its_own_inlet_alone() -> None:
    readiness = Readiness()
    bad, good = Line(readiness), Line(readiness)
    bad.ear.deafened_by = ZeroDivisionError("a defect")
    async with trio.open_nursery() as port:
        port.start_soon(readiness.run)
        port.start_soon(good.inlet.run, good.ear)
        bad.peer.sendall(b"x")
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await bad.inlet.run(bad.ear)
        good.peer.sendall(b"still here")
        await good.until(b"still here")
        port.cancel_scope.cancel()
    await bad.aclose()
    await good.aclose()
    readiness.close()


async def test_one_may_end_another_that_was_to_be_read_in_the_same_turn() -> None:
    readiness = Readiness()
    lines = [Line(readiness) for _ in range(2)]
    async with trio.open_nursery() as port:
        for line in lines:
            port.start_soon(line.inlet.run, line.ear)
        await wait_all_tasks_blocked()
        for line, other in zip(lines, lines[::-1], strict=True):
            line.peer.sendall(b"x")
            line.ear.on_hearing = other.inlet.pause
        port.start_soon(readiness.run)
        while not any(line.ear.heard for line in lines):
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert sorted(line.ear.heard for line in lines) == [[], [b"x"]]
        port.cancel_scope.cancel()
    for line in lines:
        await line.aclose()
    readiness.close()


async def test_a_turn_has_a_limit_and_everybody_is_read_all_the_same() -> None:
    readiness = Readiness()
    lines = [Line(readiness) for _ in range(DESCRIPTORS_PER_LOOK + 8)]
    async with trio.open_nursery() as port:
        for line in lines:
            port.start_soon(line.inlet.run, line.ear)
            line.peer.sendall(b"x")
        await wait_all_tasks_blocked()
        port.start_soon(readiness.run)
        for line in lines:
            await line.until(b"x")
        port.cancel_scope.cancel()
    for line in lines:
        await line.aclose()
    readiness.close()


async def test_a_flood_leaves_others_their_turns() -> None:
    readiness = Readiness()
    lines = [Line(readiness) for _ in range(3)]
    order: list[int] = []
    turns_of_others = 0

    def hears(number: int) -> Callable[[], None]:
        return lambda: order.append(number)

    async def other() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as port:
        for number, line in enumerate(lines):
            line.ear.read_size = MOST_REQUESTS
            line.ear.on_hearing = hears(number)
            port.start_soon(line.inlet.run, line.ear)
            line.peer.sendall(bytes(2 * MOST_REQUESTS))
        await wait_all_tasks_blocked()
        port.start_soon(readiness.run)
        port.start_soon(other)
        for line in lines:
            await line.until(bytes(2 * MOST_REQUESTS))
        port.cancel_scope.cancel()

    assert sorted(order[:3]) == [0, 1, 2]  # nobody twice before everybody once
    assert order[3:] == order[:3]
    assert turns_of_others >= len(order)
    for line in lines:
        await line.aclose()
    readiness.close()


async def test_a_port_whose_requests_are_refused_reads_little_at_a_time() -> None:
    readiness = Readiness()
    line = Line(readiness)
    said = bytes(4 * MOST_REQUESTS)
    line.ear.read_size = MOST_REQUESTS

    def refuse() -> None:
        current_turns().refused += len(line.ear.heard[-1])

    line.ear.on_hearing = refuse
    async with trio.open_nursery() as port:
        port.start_soon(line.inlet.run, line.ear)
        line.peer.sendall(said)
        await wait_all_tasks_blocked()
        port.start_soon(readiness.run)
        await line.until(said)
        port.cancel_scope.cancel()

    sizes = [len(data) for data in line.ear.heard]
    assert sizes[0] == MOST_REQUESTS
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes[3:-1]) == {LEAST_REQUESTS + 1}  # the last one whole
    await line.aclose()
    readiness.close()


async def test_a_memory_stream_is_heard_too() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    ear = Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(StreamInlet(ours).run, ear)
        await theirs.send_all(b"said")
        await theirs.send_eof()
    assert ear.heard == [b"said", b""]
