"""A client for tests that speaks HTTP/2 frame by frame, right or wrong as the test wishes.

Header blocks are made and read by the `hpack` library, so that ours is never its own judge.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import hpack

from protocol.http2 import Http2Connection, Http2Limits
from protocol.http2_events import ConnectionClosed, Event, UnaryCall
from protocol.http2_wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    settings_frame,
)

Fields = list[tuple[str, str]]

REQUEST: Final[tuple[tuple[str, str], ...]] = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    (":authority", "localhost:8001"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "test"),
)
PATH: Final = REQUEST[2][1]


def request(**changes: str | None) -> Fields:
    """The usual request fields; `path=None` drops `:path`, `te="x"` replaces it or adds it."""
    fields: Fields = []
    left = {name.replace("_", "-"): value for name, value in changes.items()}
    for name, value in REQUEST:
        changed = left.pop(name.removeprefix(":"), value)
        if changed is not None:
            fields.append((name, changed))
    return fields + [(name, value) for name, value in left.items() if value is not None]


def grpc(payload: bytes, *, flag: int = 0) -> bytes:
    """One gRPC message with its prefix."""
    return struct.pack(">BI", flag, len(payload)) + payload


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last four octets: an error code or a window increment."""
        return int.from_bytes(self.payload[4:8] or self.payload, "big")


def split_frames(octets: bytes) -> list[Frame]:
    frames = []
    pos = 0
    while pos < len(octets):
        word, flags, stream_id = struct.unpack_from(">IBI", octets, pos)
        stop = pos + 9 + (word >> 8)
        assert stop <= len(octets), "the server wrote half a frame"
        frames.append(Frame(word & 0xFF, flags, stream_id, octets[pos + 9 : stop]))
        pos = stop
    return frames


class Peer:
    """One connection of ours and the client at its other end.

    `send` hands over bytes and returns the events; what the server wrote is in `frames`.
    """

    def __init__(
        self,
        limits: Http2Limits | None = None,
        *,
        unary_paths: frozenset[str] = frozenset(),
        handshake: bool = True,
        settings: dict[int, int] | None = None,
    ) -> None:
        self.now = 0.0
        self.connection = Http2Connection(limits, unary_paths=unary_paths, now=0.0)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.frames: list[Frame] = []
        if handshake:
            assert self.send(PREFACE + settings_frame(settings or {})) == []
            self.frames.clear()

    def send(self, *parts: bytes) -> list[Event]:
        events = self.connection.receive(b"".join(parts), self.now)
        self.read()
        return events

    def read(self) -> list[Frame]:
        """Take everything that the server has to say; returns the new frames."""
        new: list[Frame] = []
        while self.connection.has_output:
            octets = b"".join(self.connection.take_output())
            if not octets:
                break
            new += split_frames(octets)
        self.frames += new
        return new

    def tick(self, now: float) -> list[Event]:
        self.now = now
        events = self.connection.tick(now)
        self.read()
        return events

    # What a client writes.

    def headers(
        self,
        stream_id: int,
        fields: Fields | None = None,
        *,
        flags: int = END_HEADERS,
        end: bool = False,
    ) -> bytes:
        block = self.encoder.encode(request() if fields is None else fields)
        return frame(HEADERS, flags | (END_STREAM if end else 0), stream_id, block)

    def data(self, stream_id: int, payload: bytes, *, end: bool = False, flags: int = 0) -> bytes:
        return frame(DATA, flags | (END_STREAM if end else 0), stream_id, payload)

    def call(
        self, stream_id: int, message: bytes = b"hello", fields: Fields | None = None
    ) -> bytes:
        """A whole unary call."""
        return self.headers(stream_id, fields) + self.data(stream_id, grpc(message), end=True)

    def opened(self, stream_id: int, message: bytes = b"hello") -> UnaryCall:
        """Send a whole unary call that must be taken as such."""
        (event,) = self.send(self.call(stream_id, message))
        assert isinstance(event, UnaryCall)
        return event

    # What a client reads.

    def of(self, kind: int, stream_id: int | None = None) -> list[Frame]:
        return [
            frame
            for frame in self.frames
            if frame.kind == kind and stream_id in (None, frame.stream_id)
        ]

    def body(self, stream_id: int) -> bytes:
        return b"".join(frame.payload for frame in self.of(DATA, stream_id))

    def heads(self, stream_id: int) -> list[Fields]:
        """The header blocks of a stream. Every block received is decoded, in order, once."""
        found: list[Fields] = []
        block = b""
        for written in self.frames:
            if written.kind in (HEADERS, CONTINUATION):
                block += written.payload
                if written.flags & END_HEADERS:
                    fields = [(str(name), str(value)) for name, value in self.decoder.decode(block)]
                    block = b""
                    if written.stream_id == stream_id:
                        found.append(fields)
        self.frames = [f for f in self.frames if f.kind not in (HEADERS, CONTINUATION)]
        return found

    def reset_of(self, stream_id: int) -> ErrorCode | None:
        """The error code of the RST_STREAM that the server sent for this stream."""
        resets = self.of(RST_STREAM, stream_id)
        return ErrorCode(resets[-1].number) if resets else None

    def goaway_code(self) -> ErrorCode | None:
        goaways = self.of(GOAWAY)
        return ErrorCode(goaways[-1].number) if goaways else None

    def window_updates(self, stream_id: int) -> list[int]:
        return [frame.number for frame in self.of(WINDOW_UPDATE, stream_id)]

    def settings_acks(self) -> int:
        return sum(frame.flags & 1 for frame in self.of(SETTINGS))


def closed_with(events: list[Event]) -> ConnectionClosed:
    """The event that must end these."""
    assert events, "nothing happened"
    last = events[-1]
    assert isinstance(last, ConnectionClosed), last
    return last
