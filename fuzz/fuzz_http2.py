"""Fuzz the HTTP/2 connection: `python fuzz/fuzz_http2.py --seconds 60`.

An input is what a client sends after its preface and first SETTINGS. Invariants: `receive` returns
events, of which a ConnectionClosed is the last, and never raises; the events do not depend on how
the bytes are cut; what is held is bounded by the limits; what is written are whole frames no longer
than the client allows, DATA never beyond the windows that it gave; a closed connection holds
nothing. A frontend that answers in odd ways changes none of that.
"""

# ruff: noqa: SLF001  # the fuzzer audits the codec's books

from __future__ import annotations

import struct
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.mutations import Fuzzer, main
from protocol.http2 import Http2Connection, Http2Limits
from protocol.http2_control import DRAIN_PING
from protocol.http2_events import (
    CallHalfClosed,
    CallOpened,
    CallReset,
    ConnectionClosed,
    Event,
    HttpRequest,
    MessageReceived,
    UnaryCall,
)
from protocol.http2_heads import RequestHead
from protocol.http2_output import REMEMBERED_RESETS
from protocol.http2_wire import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    HEADERS,
    PREFACE,
    WINDOW_UPDATE,
    frame,
    rst_stream_frame,
    settings_frame,
)

# Small enough for inputs of a few kilobytes to reach every one of them.
LIMITS = Http2Limits(
    max_concurrent_streams=8,
    max_frame_bytes=16_384,
    max_message_bytes=3_000,
    stream_window_bytes=2_000,
    connection_window_bytes=DEFAULT_WINDOW,
    assembly_bytes=2_500,
    max_header_list_bytes=1_024,
    max_header_block_bytes=2_048,
    output_bytes=500,
    pending_bytes=1_000,
    max_queued_bytes=50_000,
    unread_control_frames=200,
    budget_tokens=300.0,
)
HELD_BYTES = (
    LIMITS.max_concurrent_streams * LIMITS.stream_window_bytes
    + LIMITS.connection_window_bytes
    + LIMITS.assembly_bytes
    + LIMITS.max_message_bytes
)
PATHS = frozenset(("/u",))
MAX_BYTES_ONE_BY_ONE = 2_048
SETTINGS = settings_frame({})
SIZES = (1, 10, 100, 700, 2_000)

_UNARY = b"\x83\x86\x44\x02/u\x41\x01h\x5f\x10application/grpc\x40\x02te\x08trailers"
_STREAMING = b"\x83\x86\x44\x02/s\x41\x01h\x5f\x10application/grpc"
_PLAIN = b"\x82\x86\x84\x41\x01h"

_MESSAGES = (b"\x00\x00\x00\x00\x05hello", b"\x01\x00\x00\x00\x00", b"\x00\x00\x00\x0b\x00")
_SETTINGS = ((1, 0), (3, 1), (4, 0), (4, 10), (4, 70_000), (5, 20_000))

TOKENS = (
    *(frame(HEADERS, flags, stream_id, block)
      for flags in (4, 5) for stream_id in (1, 3, 5, 7) for block in (_UNARY, _STREAMING, _PLAIN)),
    *(frame(DATA, flags, stream_id, body)
      for flags in (0, 1) for stream_id in (1, 3, 5) for body in _MESSAGES),
    *(frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))
      for stream_id in (0, 1, 3) for increment in (0, 1, 500, 2**31 - 1)),
    *(settings_frame({key: value}) for key, value in _SETTINGS),
    *(rst_stream_frame(stream_id, 8) for stream_id in (1, 3, 5)),
    frame(HEADERS, 0, 1, _UNARY[:9]), frame(CONTINUATION, 4, 1, _UNARY[9:]),
    frame(HEADERS, 0x2C, 3, b"\x02\x00\x00\x00\x00\xff" + _UNARY + b"00"),
    frame(HEADERS, 5, 1, b"\x00\x01a\x01b"), frame(DATA, 8, 1, b"\x03abc000"),
    frame(2, 0, 1, bytes(5)), frame(2, 0, 3, b"\x00"), frame(7, 0, 0, bytes(8)),
    frame(6, 0, 0, bytes(8)), frame(6, 1, 0, DRAIN_PING), frame(0xBE, 0, 1, b"grease"),
    b"\x00\x00\x00", b"\x00\x40\x00", b"\x00\x00\x01", b"\xff\xff\xff\xff", b"\x00",
)  # fmt: skip

Seen = list[tuple[object, ...]]


def fuzz_one(data: bytes) -> None:
    """Feed one input, cut in several ways; raises if an invariant does not hold."""
    whole = _seen(data, [len(data)])
    step = 1 if len(data) <= MAX_BYTES_ONE_BY_ONE else 7
    assert _seen(data, [step] * (len(data) // step + 1)) == whole, "bytes one by one differ"
    cut = 1 + len(data) // 3
    assert _seen(data, [cut] * 3) == whole, "bytes in three parts differ"
    for cut in (len(data) + 1, 1 + len(data) // 4, 1 + len(data) // 16):
        _Server(data).run(cut)


def _connect() -> Http2Connection:
    connection = Http2Connection(LIMITS, unary_paths=PATHS, now=0.0)
    assert connection.receive(PREFACE + SETTINGS, 0.0) == []
    connection.take_output()
    return connection


def _seen(data: bytes, sizes: list[int]) -> Seen:
    connection = _connect()
    seen: Seen = []
    start = 0
    for size in sizes:
        events = connection.receive(data[start : start + size], 0.0)
        start += size
        assert not any(isinstance(event, ConnectionClosed) for event in events[:-1])
        for event in events:
            seen += _told(event)
        _check(connection)
        if connection.is_closed:
            assert connection.receive(b"more", 0.0) == []
            break
    return seen


def _told(event: Event) -> Seen:
    """An event as plain values; a UnaryCall as the three that it stands for."""
    match event:
        case UnaryCall(stream_id, head, compressed, message):
            return [
                ("opened", stream_id, _head(head), False),
                ("message", stream_id, compressed, bytes(message)),
                ("half-closed", stream_id),
            ]
        case CallOpened(stream_id, head, end_stream):
            return [("opened", stream_id, _head(head), end_stream)]
        case HttpRequest(stream_id, head, end_stream):
            return [("request", stream_id, _head(head), end_stream)]
        case MessageReceived(stream_id, compressed, message):
            return [("message", stream_id, compressed, bytes(message))]
        case CallHalfClosed(stream_id):
            return [("half-closed", stream_id)]
        case ConnectionClosed(error_code, _):
            return [("closed", int(error_code))]
        case _:
            return [(type(event).__name__, *event)]


def _head(head: RequestHead) -> tuple[object, ...]:
    assert not head.fault, "a malformed request was let through"
    return (head.path, head.headers, head.method, head.is_grpc)


def _check(connection: Http2Connection) -> None:
    """What must hold between any two chunks."""
    assert 0 <= connection.buffered_bytes <= HELD_BYTES
    assert connection.open_calls <= LIMITS.max_concurrent_streams
    assert len(connection._partial) <= LIMITS.max_header_block_bytes + 4_096 + 9
    assert len(connection._resets) <= REMEMBERED_RESETS
    if connection.is_closed:
        assert connection.buffered_bytes == connection.open_calls == 0
        assert connection.pending_bytes(1) == 0
    else:
        credit = connection._recv_window + connection._credit
        credit += connection._held_bytes + connection._data_left
        assert credit == LIMITS.connection_window_bytes, "credit was lost or made up"
        assert connection._queued_bytes == sum(
            call.outbox.nbytes for call in connection._calls.values() if call.outbox
        )


class _Server:
    """A frontend whose odd ways are drawn from the input, and the client's view of its output."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.connection = _connect()
        self.choice = len(data)
        self.heads: dict[int, int] = {}
        self.windows = _Windows(data)
        self.pending = b""

    def run(self, cut: int) -> None:
        now = 0.0
        for start in range(0, len(self.data), cut):
            now += self._draw(5)
            chunk = self.data[start : start + cut]
            events = self.connection.receive(chunk, now)
            self.windows.sent(chunk)
            if self._draw(4) == 0:
                events += self.connection.tick(now)
            for event in events:
                self._answer(event)
            if self._draw(3):
                self._read()
            _check(self.connection)
            if self._draw(40) == 0:
                self.connection.goaway(now)
        now += 1_000.0
        for _ in range(3):
            self.connection.tick(now)
            now += LIMITS.stall_timeout_seconds
            self._read()
        _check(self.connection)
        assert self.connection.next_wake > 0.0
        self.connection.receive_eof()
        _check(self.connection)

    def _draw(self, count: int) -> int:
        """A number below `count` that depends on the input alone."""
        self.choice = (self.choice * 1_103_515_245 + 12_345 + len(self.data)) % 2**31
        return (self.choice >> 16) % count

    def _answer(self, event: Event) -> None:
        connection = self.connection
        match event:
            case HttpRequest(stream_id=stream_id):
                connection.send_http_response(stream_id, 415, (), bytes(SIZES[self._draw(5)]))
            case UnaryCall(stream_id=stream_id, message=message):
                connection.acknowledge(stream_id, len(message))
                if self._draw(4):
                    connection.send_unary_reply(stream_id, bytes(SIZES[self._draw(5)]))
                else:
                    connection.send_trailers(stream_id, self._draw(3), "m" * self._draw(2))
            case CallOpened(stream_id=stream_id):
                if self._draw(3):
                    connection.send_response_headers(stream_id)
                    connection.send_message(stream_id, bytes(SIZES[self._draw(5)]))
            case MessageReceived(stream_id=stream_id, message=message):
                if self._draw(3):
                    connection.acknowledge(stream_id, len(message))
            case CallHalfClosed(stream_id=stream_id):
                match self._draw(4):
                    case 0:
                        connection.reset(stream_id)
                    case 1 if connection.pending_bytes(stream_id) == 0:
                        connection.send_unary_reply(stream_id, bytes(SIZES[self._draw(5)]))
                    case _:
                        connection.send_trailers(stream_id, self._draw(2))
            case CallReset(stream_id=stream_id):
                assert not connection.send_unary_reply(stream_id, b"late")
            case _:
                pass

    def _read(self) -> None:
        octets = self.pending + b"".join(self.connection.take_output())
        pos = 0
        while pos < len(octets):
            word, flags, stream_id = struct.unpack_from(">IBI", octets, pos)
            length = word >> 8
            pos += 9 + length
            assert pos <= len(octets), "half a frame was written"
            self.windows.received(word & 0xFF, flags, stream_id, length)


class _Windows:
    """An upper bound of what the client allows, from a look at whole frames in its bytes."""

    def __init__(self, data: bytes) -> None:
        self.frame_bytes = 20_000 if settings_frame({5: 20_000}) in data else 16_384
        self.connection = DEFAULT_WINDOW
        self.given: dict[int, int] = {}
        self.taken: dict[int, int] = {}
        self.initial = DEFAULT_WINDOW
        self.left = b""
        self.block = 0

    def sent(self, chunk: bytes) -> None:
        octets = self.left + chunk
        pos = 0
        while len(octets) - pos >= 9:
            word, flags, stream_id = struct.unpack_from(">IBI", octets, pos)
            stop = pos + 9 + (word >> 8)
            if stop > len(octets):
                break
            payload = octets[pos + 9 : stop]
            stream_id &= 2**31 - 1
            if word & 0xFF == WINDOW_UPDATE and len(payload) == 4:
                increment = int.from_bytes(payload, "big") & (2**31 - 1)
                if stream_id:
                    self.given[stream_id] = self.given.get(stream_id, 0) + increment
                else:
                    self.connection += increment
            elif word & 0xFF == 4 and not flags & 1:
                for key, value in struct.iter_unpack(">HI", payload[: len(payload) // 6 * 6]):
                    self.initial = max(self.initial, value) if key == 4 else self.initial
                    if key == 5:
                        self.frame_bytes = max(self.frame_bytes, value)
            pos = stop
        self.left = octets[pos:]

    def received(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        assert length <= max(self.frame_bytes, 4_096)
        assert not self.block or (kind, stream_id) == (CONTINUATION, self.block), "a block is cut"
        if kind in (HEADERS, CONTINUATION):
            self.block = 0 if flags & END_HEADERS else stream_id
        elif kind == DATA:
            self.connection -= length
            assert self.connection >= 0, "DATA beyond the connection's window"
            taken = self.taken[stream_id] = self.taken.get(stream_id, 0) + length
            assert taken <= self.initial + self.given.get(stream_id, 0), "DATA beyond its window"


FUZZER = Fuzzer("http2", fuzz_one, TOKENS)

if __name__ == "__main__":
    main(FUZZER, __doc__)
