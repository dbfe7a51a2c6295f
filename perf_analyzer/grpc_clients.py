"""The clients for gRPC: unary calls, and bidirectional streams.

Owns the HTTP/2 connections of a load and which call uses which: several calls share a connection,
and streaming keeps one stream per worker. Sends what it is given at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from google.protobuf.message import DecodeError

from perf_analyzer.calls import Buffer, Call
from perf_analyzer.connecting import CannotConnect, Connect
from perf_analyzer.http2_client import Http2Client
from perf_analyzer.requests import GrpcEncoder
from perf_analyzer.wires import Wire, Wires
from protocol.proto.messages import ModelStreamInferResponse

# Triton's C++ client library lets this many clients share a connection, and so do its users.
CALLS_PER_CONNECTION: Final = 6
# More would only cost system calls: HTTP/2 has room for hundreds of calls on each.
MAX_GRPC_CONNECTIONS: Final = 16
# A server that accepts connections answers the HTTP/2 preface within this, or never.
HANDSHAKE_SECONDS: Final = 10.0

FINAL_RESPONSE: Final = "triton_final_response"
SERVICE: Final = "/inference.GRPCInferenceService/"


async def open_http2(wires: Wires, connect: Connect, codec: Http2Client) -> Wire:
    """A connection whose handshake is done. Raises CannotConnect."""
    arrived = trio.Event()
    codec.on_ready = arrived.set
    wire = wires.attach(await connect(), codec)
    with trio.move_on_after(HANDSHAKE_SECONDS):
        await arrived.wait()
    if not codec.ready:
        wire.close()
        raise CannotConnect(codec.problem or "the server does not speak HTTP/2")
    return wire


def grpc_fields(
    method: str, authority: str, metadata: Sequence[tuple[str, str]], *, tls: bool, encoding: str
) -> list[tuple[str, str]]:
    """The header fields of every call of one method."""
    fields = [
        (":method", "POST"),
        (":scheme", "https" if tls else "http"),
        (":path", SERVICE + method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "troupe-perf"),
        ("grpc-accept-encoding", "identity,deflate,gzip"),
    ]
    if encoding != "identity":
        fields.append(("grpc-encoding", encoding))
    return [*fields, *((name.lower(), value) for name, value in metadata)]


class _GrpcConnections:
    """As many HTTP/2 connections as a number of calls needs."""

    def __init__(
        self, wires: Wires, connect: Connect, fields: list[tuple[str, str]], *, compressed: bool
    ) -> None:
        self._wires = wires
        self._connect = connect
        self._fields = fields
        self._compressed = compressed
        self.codecs: list[Http2Client] = []
        self.wires: list[Wire] = []

    async def widen(self, width: int) -> None:
        wanted = min(math.ceil(width / CALLS_PER_CONNECTION), MAX_GRPC_CONNECTIONS)
        while len(self.codecs) < wanted:
            codec = Http2Client(self._fields, compressed=self._compressed)
            wire = await open_http2(self._wires, self._connect, codec)
            self.codecs.append(codec)
            self.wires.append(wire)

    async def replace(self, place: int) -> None:
        """A new connection for one that the server takes no more calls on; what is under way
        there runs on. Raises CannotConnect."""
        codec = Http2Client(self._fields, compressed=self._compressed)
        wire = await open_http2(self._wires, self._connect, codec)
        self.codecs[place] = codec
        self.wires[place] = wire


class GrpcClient:
    """Unary ModelInfer calls. Run `run` beside it."""

    def __init__(
        self,
        wires: Wires,
        connect: Connect,
        encoder: GrpcEncoder,
        fields: list[tuple[str, str]],
    ) -> None:
        self._all_wires = wires
        self._encoder = encoder
        compressed = encoder.plan.compression != "identity"
        self._connections = _GrpcConnections(wires, connect, fields, compressed=compressed)
        self._codecs = self._connections.codecs
        self._wires = self._connections.wires
        self._waiting: deque[Call] = deque()  # for a connection that is being replaced
        self._short = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Replace connections that the server goes away from, until cancelled."""
        while True:
            await self._short.park()
            while self._waiting:
                place = self._waiting[0].number % len(self._codecs)
                if not self._codecs[place].takes_calls:
                    try:
                        await self._connections.replace(place)
                    except CannotConnect as error:
                        while self._waiting:
                            call = self._waiting.popleft()
                            call.load.failed(call, str(error))
                        break
                self.send(self._waiting.popleft())
            self._all_wires.flush()

    async def widen(self, width: int) -> None:
        await self._connections.widen(width)

    def send(self, call: Call) -> None:
        place = call.number % len(self._codecs)
        codec = self._codecs[place]
        if not codec.takes_calls:
            self._waiting.append(call)
            self._short.unpark()
            return
        codec.start(call, call, self._encoder.message(call), keeps=call.bodies is not None)
        self._wires[place].touch()

    def flush(self) -> None:
        self._all_wires.flush()

    async def close(self) -> None:
        """Connections end with the wires."""


class _StreamLane:
    """One bidirectional stream and the calls whose responses come on it."""

    def __init__(self, codec: Http2Client, wire: Wire) -> None:
        self.codec = codec
        self.wire = wire
        self.calls: dict[str, Call] = {}
        self.ended = trio.Event()
        self.stream_id = codec.open_stream(self)
        wire.touch()

    def on_message(self, message: Buffer, now: float) -> None:
        try:
            reply = ModelStreamInferResponse.FromString(bytes(message))
        except DecodeError:
            self.on_failure("the server sent a message that is no ModelStreamInferResponse")
            return
        response = reply.infer_response
        if reply.error_message:
            call = self.calls.pop(response.id, None) or next(iter(self.calls.values()), None)
            if call is not None:
                call.load.failed(call, reply.error_message)
            return
        call = self.calls.get(response.id)
        if call is None:
            return
        parameters = response.parameters
        final = FINAL_RESPONSE not in parameters or parameters[FINAL_RESPONSE].bool_param
        kept = response.SerializeToString() if call.bodies is not None else b""
        call.respond((-1, kept), now, empty=final and not response.outputs)
        if final:
            del self.calls[response.id]
            call.load.completed(call, now)

    def on_end(self, status: int, text: str, now: float) -> None:
        self.ended.set()
        if status or self.calls:
            self.on_failure(text or "the stream ended before its last response")

    def on_failure(self, text: str) -> None:
        self.ended.set()
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.load.failed(call, text)


class GrpcStreamClient:
    """ModelStreamInfer: requests of a worker share its stream."""

    def __init__(
        self,
        wires: Wires,
        connect: Connect,
        encoder: GrpcEncoder,
        fields: list[tuple[str, str]],
        *,
        max_streams: int,
    ) -> None:
        self._all_wires = wires
        self._encoder = encoder
        compressed = encoder.plan.compression != "identity"
        self._connections = _GrpcConnections(wires, connect, fields, compressed=compressed)
        self._max_streams = max_streams
        self._lanes: list[_StreamLane] = []

    async def run(self) -> None:
        """Nothing to do: a stream that ends takes its load with it."""

    async def widen(self, width: int) -> None:
        wanted = min(width, self._max_streams)
        await self._connections.widen(wanted)
        codecs = self._connections.codecs
        while len(self._lanes) < wanted:
            place = len(self._lanes) % len(codecs)
            self._lanes.append(_StreamLane(codecs[place], self._connections.wires[place]))

    def send(self, call: Call) -> None:
        lane = self._lanes[call.number % len(self._lanes)]
        assert call.request_id, "responses of a stream are told apart by their id"
        lane.calls[call.request_id] = call
        message = self._encoder.message(call)
        if lane.ended.is_set():
            lane.on_failure("the stream has ended")
        else:
            lane.codec.send_message(lane.stream_id, call, message)
            lane.wire.touch()

    def flush(self) -> None:
        self._all_wires.flush()

    async def close(self) -> None:
        """Half-close every stream and wait for the server to end it."""
        for lane in self._lanes:
            if not lane.ended.is_set():
                lane.codec.half_close(lane.stream_id)
                lane.wire.touch()
        self._all_wires.flush()
        with trio.move_on_after(1):
            for lane in self._lanes:
                await lane.ended.wait()
