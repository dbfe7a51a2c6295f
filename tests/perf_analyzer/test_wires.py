"""Real sockets: what the memory streams of the other tests do not show."""

from __future__ import annotations

import socket

import pytest
import trio

from perf_analyzer.http1_client import Head, Http1Client
from perf_analyzer.timer import TimerSleeper
from perf_analyzer.wires import Wire, Wires


class Waiting:
    """Somebody who waits for an answer."""

    def __init__(self) -> None:
        self.begun_at = 0.0
        self.done = trio.Event()
        self.body = b""
        self.failure = ""

    def on_answer(self, head: Head, body: bytes | bytearray | memoryview, now: float) -> None:
        self.body = bytes(body)
        self.done.set()

    def on_failure(self, text: str) -> None:
        self.failure = text
        self.done.set()


async def pair() -> tuple[trio.SocketStream, socket.socket]:
    """A connected socket for us, and the other end of it, blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs


async def attached(nursery: trio.Nursery) -> tuple[Wires, Wire, Http1Client, socket.socket]:
    wires, codec = Wires(), Http1Client()
    await nursery.start(wires.run)
    stream, peer = await pair()
    return wires, wires.attach(stream, codec), codec, peer


async def test_a_request_larger_than_the_socket_takes_arrives_whole() -> None:
    async with trio.open_nursery() as nursery:
        wires, wire, codec, peer = await attached(nursery)
        call, request = Waiting(), bytes(range(256)) * 20_000
        before = trio.current_time()
        codec.start(call, call, request)
        wire.touch()
        wires.flush()
        received = await trio.to_thread.run_sync(read_exactly, peer, len(request))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await call.done.wait()
        peer.close()
        nursery.cancel_scope.cancel()

    assert received == request
    assert call.body == b"ok"
    assert before <= call.begun_at <= before + 1
    assert wires.sent == 1


def read_exactly(peer: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += peer.recv(1 << 16)
    return received


async def test_a_peer_that_closes_fails_the_request() -> None:
    async with trio.open_nursery() as nursery:
        wires, wire, codec, peer = await attached(nursery)
        call = Waiting()
        codec.start(call, call, b"x")
        wire.touch()
        wires.flush()
        peer.recv(10)
        peer.close()
        await call.done.wait()
        assert wire.closed
        nursery.cancel_scope.cancel()

    assert call.failure == "the connection was closed by the server"


async def test_what_is_no_http_fails_the_request() -> None:
    async with trio.open_nursery() as nursery:
        wires, wire, codec, peer = await attached(nursery)
        call = Waiting()
        codec.start(call, call, b"x")
        wire.touch()
        wires.flush()
        peer.sendall(b"hello?\r\n\r\n")
        await call.done.wait()
        peer.close()
        nursery.cancel_scope.cancel()

    assert call.failure == "not an HTTP status line: 'hello?'"


async def test_a_timer_does_not_end_early() -> None:
    try:
        sleeper = TimerSleeper()
    except OSError:
        pytest.skip("no timerfd here")
    for seconds in (0.0003, 0.002, 0.0, -1.0):
        due_at = trio.current_time() + seconds
        await sleeper.sleep_until(due_at)
        assert trio.current_time() >= due_at - 20e-6
    sleeper.close()
