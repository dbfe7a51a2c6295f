"""A gRPC load generator that costs little: closed loops of one small unary call.

It keeps `streams` calls in flight on each of `connections` connections and counts the answers by
their trailers. Frames are encoded once; per call only the stream identifier changes and, with
`fresh_headers`, one header value that no table has seen before. It checks that answers come and
counts their bytes, not what they say: the caller compares one answer with a real client's first.

    python bench/wire_load.py --address 127.0.0.1:8001 --message request.bin \
        --connections 4 --streams 16 --seconds 3
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import time
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = struct.Struct(">IBI")  # length and type, flags, stream
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_WINDOW = 2**31 - 1
READ_BYTES = 1 << 20


def literal(name: bytes, value: bytes, *, kind: int = 0) -> bytes:
    """A header field spelled out; kind 0x40 also puts it into the dynamic table."""
    assert max(len(name), len(value)) < 127, "one octet holds the length"
    return bytes([kind, len(name)]) + name + bytes([len(value)]) + value


class Connection:
    """One socket with its calls in flight."""

    window = MAX_WINDOW  # that the server is given, for the connection and for each call

    def __init__(self, address: str, path: str, message: bytes, *, fresh_headers: bool) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", 4, self.window, 2, 0)
        widen = struct.pack(">I", self.window - 65_535)
        self.socket.sendall(
            PREFACE
            + FRAME.pack(len(settings) << 8 | SETTINGS, 0, 0)
            + settings
            + FRAME.pack(4 << 8 | WINDOW_UPDATE, 0, 0)
            + widen
        )
        self.socket.setblocking(False)
        self._fixed = (
            b"\x83\x86"  # :method POST, :scheme http
            + literal(b":path", path.encode())
            + literal(b":authority", address.encode())
            + literal(b"te", b"trailers")
            + literal(b"content-type", b"application/grpc")
            + literal(b"user-agent", b"wire-load")
        )
        self._fresh = fresh_headers
        self._body = b"\x00" + struct.pack(">I", len(message)) + message
        self._next_stream = 1
        self._window = 65_535  # the connection's
        self._initial = 65_535  # a new stream's
        self._max_frame = 16_384
        self._max_streams = 100  # until the server says how many
        self._started = 0
        self._inbound = bytearray()  # an unfinished frame that is not DATA
        self._skip = 0  # payload of the DATA frame under way, which nobody looks at
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._outbound = bytearray()  # small things, joined
        self._parts: list[memoryview] = []  # what goes out before them, large bodies uncopied
        self._view = memoryview(self._body)
        self._unsent: dict[int, list[int]] = {}  # stream → [offset into the body, its window]
        self._ungranted = 0  # bytes of DATA since the server's window was last widened
        self.message_bytes = 0  # all that came in DATA
        self.answered = 0
        self.failed = 0

    @property
    def room(self) -> int:
        """How many more calls the server lets a client have open."""
        return self._max_streams - (self._started - self.answered)

    def start(self, calls: int) -> None:
        """Begin so many calls."""
        size = len(self._body)
        self._started += calls
        for _ in range(calls):
            stream = self._next_stream
            self._next_stream = stream + 2
            block = self._fixed
            if self._fresh:
                block += literal(b"x-request-id", b"%032x" % stream, kind=0x40)
            self._outbound += FRAME.pack(len(block) << 8 | HEADERS, END_HEADERS, stream)
            self._outbound += block
            if size <= min(self._window, self._initial, self._max_frame) and not self._unsent:
                self._window -= size
                self._outbound += FRAME.pack(size << 8 | DATA, END_STREAM, stream)
                self._outbound += self._body
            else:
                self._unsent[stream] = [0, self._initial]
        if self._unsent:
            self._send_what_fits()

    def _send_what_fits(self) -> None:
        """Go on with bodies that wait for a window, oldest first."""
        size = len(self._body)
        for stream, state in list(self._unsent.items()):
            while (part := min(size - state[0], self._window, state[1], self._max_frame)) > 0:
                end = state[0] + part
                flags = END_STREAM if end == size else 0
                self._outbound += FRAME.pack(part << 8 | DATA, flags, stream)
                self._parts += [memoryview(bytes(self._outbound)), self._view[state[0] : end]]
                self._outbound.clear()
                state[0] = end
                state[1] -= part
                self._window -= part
                if end == size:
                    del self._unsent[stream]
                    break
            if self._window <= 0:
                return

    def flush(self) -> None:
        if self._outbound:
            self._parts.append(memoryview(bytes(self._outbound)))
            self._outbound.clear()
        while self._parts:
            try:
                sent = self.socket.sendmsg(self._parts[:64])
            except BlockingIOError:
                return
            while sent and sent >= len(self._parts[0]):
                sent -= len(self._parts.pop(0))
            if sent:
                self._parts[0] = self._parts[0][sent:]

    def receive(self) -> int:
        """Take what has come; the result is how many calls have ended."""
        size = self.socket.recv_into(self._buffer)
        if not size:
            raise ConnectionError("the server closed the connection")
        skipped = min(self._skip, size)
        self._skip -= skipped
        inbound = self._inbound
        inbound += self._buffer[skipped:size]
        position, end, done = 0, len(inbound), 0
        unpack = FRAME.unpack_from
        while end - position >= 9:
            head, flags, stream = unpack(inbound, position)
            length = head >> 8
            kind = head & 0xFF
            if kind == DATA:
                self._ungranted += length
                self.message_bytes += length
                self._skip = max(0, position + 9 + length - end)
            elif end - position - 9 < length:
                break
            elif kind == HEADERS and flags & END_STREAM:
                done += 1
            elif kind in (RST_STREAM, GOAWAY):
                self.failed += 1
                done += kind == RST_STREAM
            elif kind == WINDOW_UPDATE:
                (more,) = struct.unpack_from(">I", inbound, position + 9)
                if stream == 0:
                    self._window += more
                elif stream in self._unsent:
                    self._unsent[stream][1] += more
            elif kind == SETTINGS and not flags & ACK:
                self._apply(inbound[position + 9 : position + 9 + length])
                self._outbound += FRAME.pack(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self._outbound += FRAME.pack(8 << 8 | PING, ACK, 0)
                self._outbound += inbound[position + 9 : position + 17]
            position += 9 + length
        del inbound[:position]
        if self._ungranted > 1 << 29:
            self._outbound += FRAME.pack(4 << 8 | WINDOW_UPDATE, 0, 0)
            self._outbound += struct.pack(">I", self._ungranted)
            self._ungranted = 0
        self.answered += done
        if self._unsent:
            self._send_what_fits()
        return done

    def _apply(self, settings: bytes | bytearray) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == 4:
                for state in self._unsent.values():
                    state[1] += value - self._initial
                self._initial = value
            elif name == 3:
                self._max_streams = value
            elif name == 5:
                self._max_frame = value


def drive(
    address: str,
    path: str,
    message: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float,
    fresh_headers: bool = False,
) -> dict[str, float]:
    """Answers per second over `seconds`, after a tenth of that as warm-up; mean latency in µs.

    `answers` and `received_bytes`, those of messages, are of the whole time.
    """
    selector = selectors.DefaultSelector()
    peers = [
        Connection(address, path, message, fresh_headers=fresh_headers) for _ in range(connections)
    ]
    for peer in peers:
        selector.register(peer.socket, selectors.EVENT_READ, peer)
        peer.start(streams)
        peer.flush()
    began = time.perf_counter()
    warm_until, counted, until = began + seconds / 10, 0, began + seconds * 1.1
    warm = False
    while (now := time.perf_counter()) < until:
        if not warm and now >= warm_until:
            warm, counted, began = True, sum(peer.answered for peer in peers), now
        for key, _ in selector.select(timeout=1.0):
            peer = key.data
            peer.start(peer.receive())
            peer.flush()
    elapsed = time.perf_counter() - began
    answered = sum(peer.answered for peer in peers) - counted
    for peer in peers:
        peer.socket.close()
    return {
        "answers_per_second": answered / elapsed,
        "latency_us": connections * streams * elapsed / max(1, answered) * 1e6,
        "failed": sum(peer.failed for peer in peers),
        "answers": sum(peer.answered for peer in peers),
        "received_bytes": sum(peer.message_bytes for peer in peers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--path", default="/inference.GRPCInferenceService/ModelInfer")
    parser.add_argument("--message", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--fresh-headers", action="store_true")
    given = parser.parse_args()
    result = drive(
        given.address,
        given.path,
        given.message.read_bytes(),
        connections=given.connections,
        streams=given.streams,
        seconds=given.seconds,
        fresh_headers=given.fresh_headers,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
