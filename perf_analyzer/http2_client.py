"""The client's side of HTTP/2 as gRPC uses it: bytes in, callbacks out; calls in, bytes out.

Owns one connection: its streams, both directions' windows, header compression and the framing of
gRPC messages. Sans-IO: it never sees a socket or a clock; `receive` is told the instant. Made for
many calls of one method: the header block is encoded once, and blocks of the server that were
seen before are not decoded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from perf_analyzer.calls import Buffer, Stamped
from perf_analyzer.http2_stream import ResponseHead, Stream, StreamCall
from protocol import grpc_compression, hpack
from protocol.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    DATA_AND_PREFIX,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_FRAME_BYTES,
    PADDED,
    PING,
    PREFACE,
    PREFIX,
    PREFIX_BYTES,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING_ENABLE_PUSH,
    SETTING_HEADER_TABLE_SIZE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ErrorCode,
    goaway_frame,
    ping_frame,
    rst_stream_frame,
    settings_frame,
    settings_of,
    window_update_frame,
)
from protocol.status import ServerError

# Every message this tool accepts; gRPC's own ceiling.
MAX_MESSAGE_BYTES: Final = 2**31 - 1
# A frame of a response may be this long: large tensors in few frames.
RECEIVE_FRAME_BYTES: Final = 1 << 20
# Half the window that the server was given: updates are rare, and it never stalls.
UPDATE_AFTER_BYTES: Final = MAX_WINDOW // 2
# Distinct header blocks that a server sends are few: initial headers and trailers.
MAX_REMEMBERED_BLOCKS: Final = 256
# Responses carry a handful of header fields; gRPC error texts may be long.
MAX_HEADER_LIST_BYTES: Final = 1 << 20

# gRPC status codes that the client itself comes to.
UNKNOWN: Final = 2
UNAVAILABLE: Final = 14


class ConnectionFailed(Exception):
    """The connection cannot go on; the text says why."""


def _nothing() -> None:
    pass


class Http2Client:
    """One client connection: `start` calls, send `out`, `receive` what comes back."""

    def __init__(self, fields: Iterable[tuple[str, str]], *, compressed: bool = False) -> None:
        """`fields` are the header fields of every call, `:method` first; `compressed` says that
        messages are given compressed by the `grpc-encoding` that is among them."""
        self._compressed = int(compressed)
        self._fields = tuple(fields)
        self._block = b""  # of every call but the first
        self._decoder = hpack.Decoder(MAX_HEADER_LIST_BYTES)
        self._blocks: dict[bytes, ResponseHead] = {}
        self._blocks_generation = 0
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._tail = b""
        self._continued: tuple[int, int, bytes] | None = None  # stream, flags, block so far
        self._window = DEFAULT_WINDOW
        self._blocked: dict[int, None] = {}  # streams that have bytes but no window
        self._waiting: deque[tuple[StreamCall, Stamped, Buffer, bool, bytes]] = deque()
        self._peer_window = DEFAULT_WINDOW
        self._peer_frame_bytes = MIN_FRAME_BYTES
        self._peer_streams = MAX_STREAM_ID
        self._peer_table_bytes = hpack.DEFAULT_TABLE_BYTES
        self._consumed = 0
        self._goaway = False
        self.ready = False  # the server's settings are here
        self.on_ready: Callable[[], None] = _nothing  # called then, or when that cannot be
        self.problem = ""  # why the connection is of no more use
        self.unsent: list[Stamped] = []
        self.out: list[Buffer] = [
            PREFACE,
            settings_frame(
                {
                    SETTING_ENABLE_PUSH: 0,
                    SETTING_INITIAL_WINDOW_SIZE: MAX_WINDOW,
                    SETTING_MAX_FRAME_SIZE: RECEIVE_FRAME_BYTES,
                }
            ),
            window_update_frame(0, MAX_WINDOW - DEFAULT_WINDOW),
        ]

    @property
    def takes_calls(self) -> bool:
        """Whether `start` may be used; a server that goes away still answers what it has."""
        return not self._goaway and self._next_id <= MAX_STREAM_ID

    @property
    def open_calls(self) -> int:
        return len(self._streams) + len(self._waiting)

    # Sending

    def start(
        self,
        call: StreamCall,
        stamped: Stamped,
        message: Buffer,
        *,
        keeps: bool = True,
        block: bytes = b"",
    ) -> None:
        """A unary call with its one message. Without `keeps` the response is not looked at.

        `block` is for calls of another method: their header block, which inserts nothing.
        """
        if len(self._streams) >= self._peer_streams:
            self._waiting.append((call, stamped, message, keeps, block))
        else:
            self._send_call(call, stamped, message, keeps, block)

    def _send_call(
        self, call: StreamCall, stamped: Stamped, message: Buffer, keeps: bool, block: bytes
    ) -> None:
        stream_id = self._open(call, keeps=keeps)
        self.unsent.append(stamped)
        block = block or self._block or self._first_block()
        size = len(message) + PREFIX_BYTES
        if size <= self._window and size <= self._peer_window and size <= self._peer_frame_bytes:
            self._window -= size
            self.out.append(
                FRAME.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id)
                + block
                + DATA_AND_PREFIX.pack(
                    size << 8 | DATA, END_STREAM, stream_id, self._compressed, size - PREFIX_BYTES
                )
            )
            self.out.append(message)
        else:
            self.out.append(FRAME.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id) + block)
            self._enqueue(stream_id, message, end=True)

    def open_stream(self, call: StreamCall) -> int:
        """A streaming call without a message yet; returns the stream's id."""
        stream_id = self._open(call, keeps=True)
        block = self._block or self._first_block()
        self.out.append(FRAME.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id) + block)
        return stream_id

    def send_message(self, stream_id: int, stamped: Stamped, message: Buffer) -> None:
        """One more message on a streaming call."""
        stream = self._streams[stream_id]
        self.unsent.append(stamped)
        size = len(message) + PREFIX_BYTES
        if (
            size <= self._window
            and size <= stream.window
            and size <= self._peer_frame_bytes
            and not stream.pending
        ):
            self._window -= size
            stream.window -= size
            self.out.append(
                DATA_AND_PREFIX.pack(
                    size << 8 | DATA, 0, stream_id, self._compressed, size - PREFIX_BYTES
                )
            )
            self.out.append(message)
        else:
            self._enqueue(stream_id, message, end=False)

    def half_close(self, stream_id: int) -> None:
        """No more messages on this streaming call; what is queued goes first."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.pending:
            stream.pending.append((memoryview(b""), True))
        else:
            self.out.append(FRAME.pack(DATA, END_STREAM, stream_id))

    def cancel(self, stream_id: int) -> None:
        """Give up a call; nothing more is heard of it."""
        if self._streams.pop(stream_id, None) is not None:
            self._blocked.pop(stream_id, None)
            self.out.append(rst_stream_frame(stream_id, ErrorCode.CANCEL))
            self._admit_waiting()

    def close(self) -> None:
        """Say goodbye; the bytes are in `out`."""
        self.out.append(goaway_frame(0, ErrorCode.NO_ERROR))

    def _open(self, call: StreamCall, *, keeps: bool) -> int:
        stream_id = self._next_id
        if not self.takes_calls:
            raise ConnectionFailed("the server takes no more calls on this connection")
        self._next_id = stream_id + 2
        self._streams[stream_id] = Stream(call, self._peer_window, keeps=keeps)
        return stream_id

    def _first_block(self) -> bytes:
        """The block of the first call. It leaves the fields in the server's table, so that every
        later block is some ten bytes instead of some hundred."""
        coded = [hpack.encode([pair]) for pair in self._fields]
        literals = [pair for pair, octets in zip(self._fields, coded, strict=True) if octets[1:]]
        size = sum(len(name) + len(value) + hpack.FIELD_OVERHEAD for name, value in literals)
        if not self.ready or size > self._peer_table_bytes:
            self._block = b"".join(coded)
            return self._block
        first = b""
        for pair, octets in zip(self._fields, coded, strict=True):
            if len(octets) == 1:  # the static table has the whole field
                first += octets
                self._block += octets
            else:  # the newest entry of the dynamic table has the lowest index
                first += hpack.encode_literal(*pair, 0x40, 6)
                place = len(literals) - 1 - literals.index(pair)
                self._block += hpack.write_integer(hpack.STATIC_COUNT + 1 + place, 7, 0x80)
        return first

    def _enqueue(self, stream_id: int, message: Buffer, *, end: bool) -> None:
        stream = self._streams[stream_id]
        framed = PREFIX.pack(self._compressed, len(message)) + message
        stream.pending.append((memoryview(framed), end))
        self._blocked[stream_id] = None
        self._send_blocked()

    def _send_blocked(self) -> None:
        """Frame what the windows allow, one frame per stream and round, so that none starves."""
        progress = True
        while progress and self._blocked:
            progress = False
            for stream_id in list(self._blocked):
                stream = self._streams[stream_id]
                data, end = stream.pending[0]
                size = min(len(data), self._window, stream.window, self._peer_frame_bytes)
                if size <= 0 < len(data):
                    continue
                last = end and size == len(data)
                self.out.append(FRAME.pack(size << 8 | DATA, END_STREAM if last else 0, stream_id))
                self.out.append(data[:size])
                self._window -= size
                stream.window -= size
                progress = True
                if size < len(data):
                    stream.pending[0] = (data[size:], end)
                else:
                    stream.pending.popleft()
                    if not stream.pending:
                        del self._blocked[stream_id]

    # Receiving

    def receive(self, data: bytes, now: float) -> None:
        """Take what has arrived. Raises ConnectionFailed."""
        if self._tail:
            data = self._tail + data
        position = 0
        end = len(data)
        streams = self._streams
        while end - position >= HEADER_BYTES:
            word, flags, stream_id = FRAME.unpack_from(data, position)
            start = position + HEADER_BYTES
            position = start + (word >> 8)
            if position > end:
                position = start - HEADER_BYTES
                break
            kind = word & 0xFF
            if self._continued is not None and kind != CONTINUATION:
                raise ConnectionFailed("a header block was interrupted")
            if kind == DATA:
                length = word >> 8
                self._consumed += length
                stream = streams.get(stream_id)
                if stream is not None and stream.keeps:
                    self._data(stream_id, stream, data[start:position], flags, now)
                if flags & END_STREAM and stream is not None:
                    self._end(stream_id, UNKNOWN, "the stream ended without a status", now)
            elif kind == HEADERS:
                if flags & END_HEADERS and not flags & (PADDED | WITH_PRIORITY):
                    self._headers(stream_id, data[start:position], flags, now)
                else:
                    self._unusual_headers(stream_id, data[start:position], flags, now)
            else:
                self._control(kind, flags, stream_id, data[start:position], now)
        self._tail = data[position:]
        if self._consumed > UPDATE_AFTER_BYTES:
            self.out.append(window_update_frame(0, self._consumed))
            self._consumed = 0

    def receive_eof(self, _now: float) -> None:
        """The server has closed the connection: every call that is open fails."""
        self.fail("the connection was closed by the server")

    def fail(self, text: str) -> None:
        """Every open call fails with `text`."""
        calls = [stream.call for stream in self._streams.values()]
        calls += [call for call, *_ in self._waiting]
        self._streams.clear()
        self._waiting.clear()
        self._blocked.clear()
        self._goaway = True
        self.problem = text
        self.on_ready()
        for call in calls:
            call.on_failure(text)

    def _data(self, stream_id: int, stream: Stream, payload: bytes, flags: int, now: float) -> None:
        stream.consumed += len(payload)
        if stream.consumed > UPDATE_AFTER_BYTES and not flags & END_STREAM:
            self.out.append(window_update_frame(stream_id, stream.consumed))
            stream.consumed = 0
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        received = stream.received
        if not received and len(payload) >= PREFIX_BYTES:
            compressed, size = PREFIX.unpack_from(payload)
            if len(payload) == size + PREFIX_BYTES:  # one frame, one message: the usual case
                stream.call.on_message(self._plain(stream, compressed, payload[5:]), now)
                return
        received += payload
        while len(received) >= PREFIX_BYTES:
            compressed, size = PREFIX.unpack_from(received)
            if len(received) < size + PREFIX_BYTES:
                break
            message = bytes(memoryview(received)[PREFIX_BYTES : PREFIX_BYTES + size])
            del received[: PREFIX_BYTES + size]
            stream.call.on_message(self._plain(stream, compressed, message), now)

    def _plain(self, stream: Stream, compressed: int, message: bytes) -> bytes:
        if not compressed:
            return message
        try:
            return grpc_compression.decompress(message, stream.encoding, MAX_MESSAGE_BYTES)
        except ServerError as error:
            raise ConnectionFailed(error.message) from None

    def _headers(self, stream_id: int, block: bytes, flags: int, now: float) -> None:
        if self._blocks_generation != self._decoder.generation:
            self._blocks.clear()
            self._blocks_generation = self._decoder.generation
        head = self._blocks.get(block)
        if head is None:
            try:
                head = ResponseHead(self._decoder.decode(block))
            except (hpack.HpackError, hpack.HeaderListTooLarge) as error:
                raise ConnectionFailed(f"the server's headers cannot be read: {error}") from None
            if self._blocks_generation == self._decoder.generation:
                if len(self._blocks) >= MAX_REMEMBERED_BLOCKS:
                    self._blocks.clear()
                self._blocks[block] = head
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if flags & END_STREAM:
            if head.status is None:
                self._end(stream_id, UNKNOWN, head.problem or "no grpc-status", now)
            else:
                self._end(stream_id, head.status, head.text, now)
        elif head.problem:
            self.cancel(stream_id)
            stream.call.on_end(UNKNOWN, head.problem, now)
        else:
            stream.encoding = head.encoding

    def _unusual_headers(self, stream_id: int, payload: bytes, flags: int, now: float) -> None:
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if flags & WITH_PRIORITY:
            payload = payload[5:]
        if flags & END_HEADERS:
            self._headers(stream_id, payload, flags, now)
        else:
            self._continued = (stream_id, flags, payload)

    def _end(self, stream_id: int, status: int, text: str, now: float) -> None:
        stream = self._streams.pop(stream_id)
        if stream.pending:
            self._blocked.pop(stream_id, None)
            self.out.append(rst_stream_frame(stream_id, ErrorCode.CANCEL))
        stream.call.on_end(status, text, now)
        if self._waiting:
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._peer_streams:
            self._send_call(*self._waiting.popleft())

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        if kind == CONTINUATION:
            if self._continued is None or self._continued[0] != stream_id:
                raise ConnectionFailed("a header block continues that had not begun")
            _, first_flags, block = self._continued
            block += payload
            if len(block) > MAX_HEADER_LIST_BYTES:
                raise ConnectionFailed("a header block is too large")
            if flags & END_HEADERS:
                self._continued = None
                self._headers(stream_id, block, first_flags, now)
            else:
                self._continued = (stream_id, first_flags, block)
        elif kind == SETTINGS and not flags & ACK:
            for identifier, value in settings_of(payload):
                self._apply(identifier, value)
            self.out.append(SETTINGS_ACK)
            if not self.ready:
                self.ready = True
                self.on_ready()
            self._send_blocked()
        elif kind == PING and not flags & ACK:
            self.out.append(ping_frame(payload, ack=True))
        elif kind == WINDOW_UPDATE:
            self._widen(stream_id, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == RST_STREAM:
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                self._blocked.pop(stream_id, None)
                code = int.from_bytes(payload, "big")
                stream.call.on_end(UNAVAILABLE, f"the call was reset by the server ({code})", now)
                self._admit_waiting()
        elif kind == GOAWAY:
            self._going_away(payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionFailed("the server pushes, which it was told not to")

    def _apply(self, identifier: int, value: int) -> None:
        if identifier == SETTING_INITIAL_WINDOW_SIZE:
            for stream in self._streams.values():
                stream.window += value - self._peer_window
            self._peer_window = value
        elif identifier == SETTING_MAX_FRAME_SIZE:
            self._peer_frame_bytes = value
        elif identifier == SETTING_MAX_CONCURRENT_STREAMS:
            self._peer_streams = value
        elif identifier == SETTING_HEADER_TABLE_SIZE:
            self._peer_table_bytes = value

    def _widen(self, stream_id: int, increment: int) -> None:
        if stream_id == 0:
            self._window += increment
        elif stream_id in self._streams:
            self._streams[stream_id].window += increment
        if self._blocked:
            self._send_blocked()

    def _going_away(self, payload: bytes) -> None:
        self._goaway = True
        last = int.from_bytes(payload[:4], "big") & MAX_STREAM_ID
        debug = payload[8:].decode("latin-1")
        for stream_id in [each for each in self._streams if each > last]:
            stream = self._streams.pop(stream_id)
            self._blocked.pop(stream_id, None)
            stream.call.on_failure(f"the server closes the connection: {debug or 'goaway'}")
