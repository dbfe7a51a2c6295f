"""One HTTP/2 connection of the gRPC port: it hears its client, and answers in turns.

Owns the codec and the connection's open calls. What it hears feeds the codec and begins calls; a
turn sends whatever has been said since the last one, in one go. A ModelInfer takes no task of its
own, every other call gets one. The credit of a message's bytes goes back to the client once
the message has been accepted, so that a slow server slows its clients.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from actors.channels import Mailbox
from actors.control.shared_memory import SharedMemory
from actors.grpc.infer_stream import SHUTTING_DOWN, InferStream
from actors.grpc.streams import MessageStream, StreamCall, UnaryStream, Wire
from actors.grpc.terms import GrpcSettings, Refusal, Terms, TermsReader
from actors.grpc.unary import UnaryInfers
from actors.ports.inlets import Inlet
from actors.ports.sockets import FIRST_READ_BYTES, Buffer, next_read_bytes, send_nowait, send_parts
from actors.ports.tls import HTTP2, HandshakeFailed, handshake
from actors.street.calls import Calls
from actors.traces.tracing import Received
from actors.turns import Line
from protocol.grpc_compression import IDENTITY, decompress
from protocol.grpc_service import (
    MODEL_INFER,
    MODEL_STREAM_INFER,
    Route,
    encode_message,
    status_of,
)
from protocol.http2 import Http2Connection
from protocol.http2_events import (
    CallHalfClosed,
    CallOpened,
    CallReset,
    ConnectionClosed,
    Event,
    GoAwayReceived,
    HttpRequest,
    MessageReceived,
    PingAcked,
    UnaryCall,
)
from protocol.http2_heads import RequestHead
from protocol.status import ServerError, deadline_exceeded, internal, unavailable, unsupported

log = logging.getLogger(__name__)

# What is sent before others have a turn: twice what the codec frames at once, 2 MiB of tensors.
OUTPUTS_PER_TURN: Final = 2
# How long a peer may take to read what a connection that is over still has to tell it.
LAST_WORDS_SECONDS: Final = 1.0


class GrpcConnection:
    """One peer. `run` ends when either side has closed."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        inlet: Inlet,
        *,
        calls: Calls,
        regions: SharedMemory,
        routes: Mapping[str, Route],
        settings: GrpcSettings,
        unary_paths: frozenset[str],
    ) -> None:
        self._stream = stream
        self._inlet = inlet
        self._read_bytes = FIRST_READ_BYTES
        self._calls = calls
        self._regions = regions
        self._routes = routes
        self._settings = settings
        self._terms = TermsReader(settings)
        self._http2 = Http2Connection(
            settings.limits, unary_paths=unary_paths, now=trio.current_time()
        )
        self._mailbox = Mailbox()
        self._infers = UnaryInfers(
            self._http2, self._mailbox, calls=calls, regions=regions, settings=settings
        )
        # The four below by HTTP/2 stream, at most as many as a client may open.
        self._tasks: dict[int, trio.CancelScope] = {}
        self._streams: dict[int, StreamCall] = {}
        self._stopped: dict[int, None] = {}  # streaming calls to be rung when there is room
        self._strangers: set[int] = set()  # requests that are not gRPC, and not whole yet
        self._waited_from = trio.current_time()  # since when for what comes next, for traces
        self._draining = False
        self._is_met = False  # whether TLS has been agreed on, if there is any
        self._is_sending = False  # a task is, because not everything left at once
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the peer until it leaves, breaks the protocol or has been drained."""
        try:
            with self._scope:
                await handshake(self._stream, HTTP2, required=True)
                self._is_met = True
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._inlet.run, self)
                    await self._mailbox.serve(self._turn, Line.ANSWERS)
                    self._nursery.cancel_scope.cancel()
        except HandshakeFailed as error:
            log.debug("%s", error)
        finally:
            self._infers.abandon_all()
            self._mailbox.close()
            with trio.CancelScope(shield=True), trio.move_on_after(LAST_WORDS_SECONDS):
                await trio.aclose_forcefully(self._stream)

    def sweep(self, now: float) -> None:
        """Act on whatever time has brought about."""
        if now >= self._http2.next_wake:
            self._take(self._http2.tick(now))
            self._mailbox.ring()
        if self._http2.is_closed:
            # The writer may be stuck with a peer that reads nothing.
            self._scope.deadline = min(self._scope.deadline, now + LAST_WORDS_SECONDS)

    def drain(self, now: float) -> None:
        """Ask the client to open no more calls; the connection ends with the last of them."""
        self._draining = True
        if not self._is_met:
            self._scope.cancel()
            return
        self._http2.goaway(now)
        for stream in list(self._streams.values()):
            stream.drain()
        self._mailbox.ring()

    # --- reader ------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        return self._read_bytes

    def hear(self, data: bytes) -> int:
        """Take in what the client has sent; nothing if it has sent its last."""
        http2 = self._http2
        if data:
            events = http2.receive(data, trio.current_time())
            self._read_bytes = next_read_bytes(self._read_bytes, len(data), len(events))
            self._take(events)
            if events and self._calls.tracing.is_active:
                self._waited_from = trio.current_time()
        else:
            events = http2.receive_eof()
            self._take(events)
        if http2.has_output or http2.is_closed or self._stopped:
            self._mailbox.ring()
        return len(events)

    def lose(self) -> None:
        """The connection has broken."""
        self.hear(b"")

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case UnaryCall():
                    self._begin(event)
                case CallOpened(stream_id, head, end_stream):
                    stream = self._open(stream_id, head)
                    if stream is not None and end_stream:
                        stream.half_close()
                case MessageReceived(stream_id, compressed, message):
                    if stream_id in self._streams:
                        self._streams[stream_id].receive(message, compressed=compressed)
                case CallHalfClosed(stream_id):
                    if stream_id in self._streams:
                        self._streams[stream_id].half_close()
                    elif stream_id in self._strangers:
                        self._turn_away(stream_id)
                case CallReset(stream_id):
                    self._abandon(stream_id)
                case HttpRequest(stream_id, _, end_stream):
                    self._strangers.add(stream_id)
                    if end_stream:
                        self._turn_away(stream_id)
                case ConnectionClosed():
                    self._infers.abandon_all()
                case GoAwayReceived() | PingAcked():
                    continue

    def _turn_away(self, stream_id: int) -> None:
        """Answer a request that is not gRPC, now that it is whole: many a client would not read
        an answer that comes before, and take the reset behind it for the answer.
        """
        self._strangers.discard(stream_id)
        self._http2.send_http_response(
            stream_id, 415, (("content-type", "text/plain"),), b"this port speaks gRPC"
        )

    def _begin(self, event: UnaryCall) -> None:
        stream_id, head, compressed, message = event
        if not head.is_unary:
            stream = self._open(stream_id, head)
            if stream is not None:
                stream.receive(message, compressed=compressed)
                stream.half_close()
            return
        terms = self._terms.read(head)
        if terms.refusal is not None:
            self._fail(stream_id, terms.refusal)
            return
        nbytes = len(message)
        try:
            if compressed:
                limit = self._settings.limits.max_message_bytes
                message = decompress(message, terms.encoding, limit)
            if head.path == MODEL_INFER:
                if self._draining:
                    raise unavailable(SHUTTING_DOWN)
                received: Received | None = None
                if self._calls.tracing.is_active:
                    received = Received.over_grpc(self._waited_from, head.headers)
                self._infers.begin(
                    stream_id, message, nbytes, terms, self._nursery, received=received
                )
            else:
                route = self._routes[head.path]
                request = UnaryStream(route.decode(message))
                self._start(stream_id, terms, head.path, self._answer, stream_id, route, request)
        except ServerError as error:
            self._fail(stream_id, error)

    def _open(self, stream_id: int, head: RequestHead) -> StreamCall | None:
        """Begin a streaming call; None if it is answered already."""
        terms = self._terms.read(head)
        route = self._routes.get(head.path)
        if terms.refusal is not None:
            self._fail(stream_id, terms.refusal)
            return None
        if route is None:
            self._fail(stream_id, self._unknown(head.path))
            return None
        if route.cardinality is Cardinality.UNARY_UNARY:
            self._fail(stream_id, internal(f"{head.path} takes exactly one request message"))
            return None
        is_infer = head.path == MODEL_STREAM_INFER
        wire = Wire(
            self._http2,
            stream_id,
            encoding=terms.reply_encoding if is_infer else IDENTITY,
            level=self._settings.compression,
            wake=self._mailbox.ring,
            stopped=self._stopped,
        )
        stream: StreamCall
        if is_infer:
            stream = InferStream(
                calls=self._calls,
                regions=self._regions,
                terms=terms,
                wire=wire,
                settings=self._settings,
                deadline_at=trio.current_time() + terms.timeout_seconds,
                headers=head.headers,
            )
        else:
            limit = self._settings.limits.max_message_bytes
            stream = MessageStream(route, wire, encoding=terms.encoding, max_message_bytes=limit)
        self._streams[stream_id] = stream
        if self._draining:
            stream.drain()
        self._start(stream_id, terms, head.path, self._converse, stream_id, stream)
        return stream

    def _unknown(self, path: str) -> ServerError:
        """The words of gRPC servers that say which part of the path they do not know."""
        service, slash, method = path[1:].rpartition("/")
        if not slash:
            return unsupported(f'malformed method name: "{path}"')
        if any(known.startswith(f"/{service}/") for known in self._routes):
            return unsupported(f"unknown method {method} for service {service}")
        return unsupported(f"unknown service {service}")

    # --- answers -----------------------------------------------------------------------------

    def _turn(self) -> float:
        """Answer what can be answered and send it; until when nothing else expires."""
        if self._is_sending:
            return math.inf  # there is another turn when that is over
        http2, infers = self._http2, self._infers
        if infers.next_deadline < math.inf:
            infers.expire(trio.current_time())
        infers.answer()
        self._send()
        if not self._is_sending:
            if infers.sending:
                infers.note_sent()
            if self._stopped:
                self._ring_stopped()
            if http2.is_closed:
                self._mailbox.leave()
        return infers.next_deadline

    def _send(self) -> None:
        """Send what the codec has to say, what does not leave at once in a task."""
        http2 = self._http2
        rest: Sequence[Buffer] = ()
        outputs = 0
        try:
            while http2.has_output and not rest and outputs < OUTPUTS_PER_TURN:
                rest = send_nowait(self._stream, http2.take_output())
                outputs += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._take(http2.receive_eof())
            return
        if rest or http2.has_output:
            self._is_sending = True
            self._nursery.start_soon(self._send_patiently, rest)

    async def _send_patiently(self, parts: Sequence[Buffer]) -> None:
        """Send these as the peer takes them; the next turn is for what has been said meanwhile."""
        try:
            await send_parts(self._stream, parts)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._take(self._http2.receive_eof())
        self._is_sending = False
        self._mailbox.ring()

    def _ring_stopped(self) -> None:
        """Wake the streaming calls that waited for their clients and need not any longer."""
        for stream_id in [each for each in self._stopped if self._http2.writable(each)]:
            del self._stopped[stream_id]
            self._streams[stream_id].ring()

    def _fail(self, stream_id: int, error: ServerError | GRPCError) -> None:
        headers = error.headers if isinstance(error, Refusal) else ()
        self._http2.send_trailers(stream_id, *status_of(error), headers)

    # --- calls with a task -------------------------------------------------------------------

    def _start(
        self,
        stream_id: int,
        terms: Terms,
        path: str,
        work: Callable[..., Awaitable[None]],
        *args: object,
    ) -> None:
        """Do one call's work in a task of its own, within the call's deadline."""
        scope = trio.CancelScope(deadline=trio.current_time() + terms.timeout_seconds)
        self._tasks[stream_id] = scope
        self._nursery.start_soon(self._serve, stream_id, scope, path, work, *args)

    async def _serve(
        self,
        stream_id: int,
        scope: trio.CancelScope,
        path: str,
        work: Callable[..., Awaitable[None]],
        *args: object,
    ) -> None:
        with scope:
            try:
                await work(*args)
            except (ServerError, GRPCError) as error:
                self._fail(stream_id, error)
            except Exception:  # ring boundary: a call never ends its connection
                log.exception("%s failed", path)
                self._http2.send_trailers(
                    stream_id, Status.UNKNOWN.value, encode_message("internal server error")
                )
        self._tasks.pop(stream_id, None)
        if scope.cancelled_caught:
            self._fail(stream_id, deadline_exceeded())
        self._mailbox.ring()

    async def _answer(self, stream_id: int, route: Route, request: UnaryStream) -> None:
        """One control call, by grpclib's contract."""
        await route.func(request)
        assert request.reply is not None, "a unary method replies once"
        self._http2.send_unary_reply(stream_id, route.encode(request.reply))

    async def _converse(self, stream_id: int, stream: StreamCall) -> None:
        """One streaming call."""
        try:
            await stream.run()
        finally:
            self._streams.pop(stream_id, None)
            self._stopped.pop(stream_id, None)
        self._http2.send_trailers(stream_id, Status.OK.value)

    def _abandon(self, stream_id: int) -> None:
        """The client has given this call up."""
        self._infers.abandon(stream_id)
        self._strangers.discard(stream_id)
        self._streams.pop(stream_id, None)
        self._stopped.pop(stream_id, None)
        scope = self._tasks.pop(stream_id, None)
        if scope is not None:
            scope.cancel()
