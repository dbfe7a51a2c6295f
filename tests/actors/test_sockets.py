"""The stream over an accepted socket: what it reads and writes, when it waits, how it breaks."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.ports.sockets import (
    FIRST_READ_BYTES,
    MAX_PARTS,
    TURN_BYTES,
    Buffer,
    PeerStream,
    send_parts,
)


def pair() -> tuple[PeerStream, trio.SocketStream]:
    """A stream and its peer, over loopback TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    return (
        PeerStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours))),
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
    )


async def read(stream: trio.abc.ReceiveStream, nbytes: int) -> bytes:
    heard = bytearray()
    while len(heard) < nbytes:
        data = await stream.receive_some(nbytes - len(heard))
        assert data, "the other side closed too early"
        heard += data
    return bytes(heard)


async def test_what_is_said_is_heard_in_order() -> None:
    ours, theirs = pair()
    async with ours, theirs:
        parts: list[Buffer] = [b"one ", bytearray(b"two "), b"", memoryview(b"three")]
        await ours.send_parts(parts)
        await ours.send_all(b" four")
        await ours.send_parts([])
        assert await read(theirs, 18) == b"one two three four"
        await theirs.send_all(b"five")
        assert await read(ours, 4) == b"five"
        await theirs.send_eof()
        assert await ours.receive_some() == b""
        await ours.send_eof()
        assert await theirs.receive_some() == b""


async def test_more_than_the_kernel_takes_goes_out_as_the_peer_reads() -> None:
    # More parts than one call takes, of sizes that no boundary falls on.
    parts = [bytes([number % 251]) * (3_000 + number) for number in range(3 * MAX_PARTS)]
    whole = b"".join(parts)
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:
        sent = trio.Event()

        async def send() -> None:
            await ours.send_parts(parts)
            sent.set()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert not sent.is_set(), "nobody has read anything"
        assert await read(theirs, len(whole)) == whole
        await sent.wait()


async def test_a_send_that_waits_can_be_cancelled() -> None:
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            await ours.send_all(bytes(1 << 26))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_small_send_is_no_turn_but_many_are() -> None:
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count_turns)
        await trio.lowlevel.checkpoint()
        before = turns
        await ours.send_all(b"hello")
        assert turns == before
        with trio.CancelScope(shield=True):
            for _ in range(TURN_BYTES // 1024 + 1):
                await ours.send_all(bytes(1024))
                await read(theirs, 1024 if _ else 1029)
        assert turns > before
        nursery.cancel_scope.cancel()


async def test_reads_grow_while_they_come_back_full() -> None:
    ours, theirs = pair()
    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, bytes(1 << 23))
        left, sizes = 1 << 23, []
        while left:
            await wait_all_tasks_blocked()
            sizes.append(len(await ours.receive_some()))
            left -= sizes[-1]
        assert sizes[0] <= FIRST_READ_BYTES < max(sizes)
        # Small ones bring it down again, so that an idle connection asks for little.
        for _ in range(32):
            await theirs.send_all(b"x")
            assert await ours.receive_some() == b"x"
        nursery.start_soon(theirs.send_all, bytes(1 << 20))
        await wait_all_tasks_blocked()
        assert len(await ours.receive_some()) == FIRST_READ_BYTES
        nursery.cancel_scope.cancel()


async def test_a_peer_that_resets_breaks_the_stream() -> None:
    ours, theirs = pair()
    async with ours:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"anybody there?")


@pytest.mark.parametrize(
    "use",
    [
        lambda stream: stream.receive_some(),
        lambda stream: stream.send_all(b"hello"),
        lambda stream: stream.wait_send_all_might_not_block(),
    ],
)
async def test_a_stream_that_was_closed_says_so(
    use: Callable[[PeerStream], trio.abc.AsyncResource],
) -> None:
    ours, theirs = pair()
    await theirs.aclose()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await use(ours)  # type: ignore[misc]  # a coroutine, whatever it gives


async def test_closing_wakes_who_waits() -> None:
    ours, theirs = pair()
    async with theirs, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await ours.aclose()


async def test_parts_go_over_any_stream() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await send_parts(ours, [b"one ", b"two"])
    assert await theirs.receive_some() == b"one two"
    socket_stream, peer = pair()
    async with socket_stream, peer:
        await send_parts(socket_stream, [b"one ", b"two"])
        assert await read(peer, 7) == b"one two"
