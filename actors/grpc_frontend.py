"""The gRPC port: HTTP/2 connections, each a reader and a writer.

Owns its connections and their open calls. The reader feeds the codec, and admits and submits every
ModelInfer on the spot; the writer encodes whatever replies have come since it last looked and
sends them in one go. So an inference takes no task of its own; every other call gets one. The
credit of a message's bytes goes back to the client once the message has been accepted, so that a
slow server slows its clients.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from actors.calls import Calls, Ticketed, cancel, submit, submit_nowait
from actors.channels import Door, Mailbox
from actors.grpc_streams import UnaryStream
from actors.messages import Reply
from actors.model_index import ServingVersion
from actors.port import Port
from protocol.grpc_compression import (
    IDENTITY,
    CompressionLevel,
    compress,
    decompress,
    request_encoding,
    response_encoding,
)
from protocol.grpc_service import (
    MODEL_INFER,
    Route,
    encode_message,
    parse_timeout,
    status_of,
)
from protocol.http2 import Http2Connection, Http2Limits
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
from protocol.inference import ResponsePlan
from protocol.restriction import Category, RestrictedApis
from protocol.status import ServerError, deadline_exceeded, unavailable, unsupported
from protocol.v2_grpc import RejectedRequest, decode_infer_request, encode_infer_response

log = logging.getLogger(__name__)

# How often connections are looked over for keep-alive and stalls, whose limits are seconds.
SWEEP_SECONDS: Final = 1.0
READ_BYTES: Final = 1 << 16
# What has been derived from request heads is remembered for as many as the codec remembers.
MAX_KNOWN_HEADS: Final = 64


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What the operator decides about every connection."""

    limits: Http2Limits
    restricted: RestrictedApis
    compression: CompressionLevel = CompressionLevel.NONE


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """What a call's head says about the call: derived once per distinct head."""

    timeout_seconds: float
    encoding: str  # of compressed request messages
    reply_encoding: str
    refusal: ServerError | None


@dataclass(slots=True, eq=False)
class _OpenCall:
    """A ModelInfer that has been submitted."""

    stream_id: int
    serving: ServingVersion
    plan: ResponsePlan
    terms: _Terms


class GrpcConnection:
    """One peer. `run` ends when either side has closed."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        calls: Calls,
        routes: Mapping[str, Route],
        categories: Mapping[str, Category],
        settings: GrpcSettings,
        unary_paths: frozenset[str],
    ) -> None:
        self._stream = stream
        self._calls = calls
        self._routes = routes
        self._categories = categories
        self._settings = settings
        self._http2 = Http2Connection(
            settings.limits, unary_paths=unary_paths, now=trio.current_time()
        )
        self._mailbox = Mailbox()
        # Every open call gets one reply, and one more may come for a call that was given up.
        self._replies: Door[Reply] = self._mailbox.door(2 * settings.limits.max_concurrent_streams)
        self._open: dict[int, _OpenCall] = {}  # by request number
        self._numbers: dict[int, int] = {}  # HTTP/2 stream → request number
        self._tasks: dict[int, trio.CancelScope] = {}  # HTTP/2 stream → the task that serves it
        self._deadlines: list[tuple[float, int]] = []  # heap of (instant, request number)
        self._terms: dict[RequestHead, _Terms] = {}
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the peer until it leaves, breaks the protocol or has been drained."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read)
                await self._write()
                self._nursery.cancel_scope.cancel()
        finally:
            self._abandon_all()
            self._mailbox.close()
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await trio.aclose_forcefully(self._stream)

    def sweep(self, now: float) -> None:
        """Act on whatever time has brought about."""
        if now >= self._http2.next_wake:
            self._take(self._http2.tick(now))
            self._mailbox.ring()

    def drain(self, now: float) -> None:
        """Ask the client to open no more calls; the connection ends with the last of them."""
        self._http2.goaway(now)
        self._mailbox.ring()

    # --- reader ------------------------------------------------------------------------------

    async def _read(self) -> None:
        http2 = self._http2
        try:
            while not http2.is_closed:
                data = await self._stream.receive_some(READ_BYTES)
                if data:
                    self._take(http2.receive(bytes(data), trio.current_time()))
                else:
                    self._take(http2.receive_eof())
                if http2.has_output or http2.is_closed or self._deadlines:
                    self._mailbox.ring()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._take(http2.receive_eof())
            self._mailbox.ring()

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case UnaryCall():
                    self._begin(event)
                case CallReset(stream_id):
                    self._abandon(stream_id)
                case CallOpened(stream_id, head):
                    # Only streaming methods open in pieces, and unknown ones.
                    self._fail(stream_id, _unknown_method(head.path))
                case HttpRequest(stream_id):
                    self._http2.send_http_response(
                        stream_id, 415, (("content-type", "text/plain"),), b"this port speaks gRPC"
                    )
                case ConnectionClosed():
                    self._abandon_all()
                case MessageReceived() | CallHalfClosed() | GoAwayReceived() | PingAcked():
                    continue

    def _begin(self, event: UnaryCall) -> None:
        try:
            terms = self._terms_of(event.head)
            if terms.refusal is not None:
                raise terms.refusal
            message = event.message
            if event.compressed:
                limit = self._settings.limits.max_message_bytes
                message = decompress(message, terms.encoding, limit)
            if event.head.path == MODEL_INFER:
                self._begin_infer(event.stream_id, message, terms)
                return
            route = self._routes.get(event.head.path)
            if route is None or route.cardinality is not Cardinality.UNARY_UNARY:
                raise _unknown_method(event.head.path)
            stream = UnaryStream(route.decode(message))
            self._nursery.start_soon(self._serve, event.stream_id, route, stream, terms)
        except ServerError as error:
            self._fail(event.stream_id, error)

    def _begin_infer(
        self, stream_id: int, message: bytes | bytearray | memoryview, terms: _Terms
    ) -> None:
        find = self._calls.index.value.find
        try:
            decoded = decode_infer_request(message)
        except RejectedRequest as error:
            # An unknown model is the graver news, unless the version string made no sense.
            if not error.precedes_lookup:
                _refuse_decoupled(find(error.model_name, error.model_version))
            raise
        request = decoded.request
        serving = find(request.model_name, request.model_version)
        _refuse_decoupled(serving)
        deadline_at = math.inf
        if terms.timeout_seconds != math.inf:
            deadline_at = trio.current_time() + terms.timeout_seconds
        ticketed = self._calls.prepare(serving, request, self._replies, deadline_at=deadline_at)
        number = ticketed.submit.number
        self._open[number] = _OpenCall(stream_id, serving, decoded.plan, terms)
        self._numbers[stream_id] = number
        if deadline_at != math.inf:
            heapq.heappush(self._deadlines, (deadline_at, number))
        try:
            submit_nowait(ticketed)
        except trio.WouldBlock:
            self._nursery.start_soon(self._submit_patiently, ticketed)
        except ServerError:
            self._forget(number)
            raise
        else:
            self._http2.acknowledge(stream_id, len(message))

    async def _submit_patiently(self, ticketed: Ticketed) -> None:
        number = ticketed.submit.number
        with trio.CancelScope() as scope:
            call = self._open[number]
            self._tasks[call.stream_id] = scope
            try:
                await submit(ticketed)
            except ServerError as error:
                self._on_reply(Reply(number, error, final=True))
                self._mailbox.ring()
            finally:
                self._tasks.pop(call.stream_id, None)

    def _terms_of(self, head: RequestHead) -> _Terms:
        terms = self._terms.get(head)
        if terms is None:
            if len(self._terms) >= MAX_KNOWN_HEADS:
                self._terms.clear()
            terms = self._terms[head] = self._derive_terms(head)
        return terms

    def _derive_terms(self, head: RequestHead) -> _Terms:
        timeout = math.inf
        refusal: ServerError | None = None
        for name, value in head.headers:
            if name == "grpc-timeout":
                timeout = parse_timeout(value)
        category = self._categories.get(head.path)
        if category is not None:
            text = self._settings.restricted.refusal(category, dict(head.headers))
            if text is not None:
                refusal = unavailable(text)
        return _Terms(
            timeout,
            request_encoding(head.headers),
            response_encoding(self._settings.compression, head.headers),
            refusal,
        )

    # --- writer ------------------------------------------------------------------------------

    async def _write(self) -> None:
        http2 = self._http2
        while True:
            if self._deadlines:
                with trio.move_on_at(self._deadlines[0][0]):
                    await self._mailbox.wait()
                self._expire(trio.current_time())
            else:
                await self._mailbox.wait()
            for reply in self._replies.drain():
                self._on_reply(reply)
            try:
                while http2.has_output:
                    for part in http2.take_output():
                        await self._stream.send_all(part)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._take(http2.receive_eof())
            if http2.is_closed:
                return

    def _on_reply(self, reply: Reply) -> None:
        call = self._forget(reply.number)
        if call is None:
            return  # a late answer to a call that was given up
        outcome = reply.outcome
        if isinstance(outcome, ServerError):
            self._fail(call.stream_id, outcome)
            return
        assert outcome is not None, "a model that is not decoupled answers every request"
        serving = call.serving
        try:
            buffers = encode_infer_response(
                outcome,
                call.plan,
                labels=serving.labels,
                has_batch_dim=serving.has_batch_dimension,
            )
        except ServerError as error:
            self._fail(call.stream_id, error)
            return
        encoding = call.terms.reply_encoding
        if encoding == IDENTITY:
            message = buffers[0] if len(buffers) == 1 else b"".join(buffers)
            self._http2.send_unary_reply(call.stream_id, message)
        else:
            self._send_compressed(call.stream_id, compress(buffers, encoding), encoding)

    def _send_compressed(self, stream_id: int, message: bytes, encoding: str) -> None:
        self._http2.send_response_headers(stream_id, (("grpc-encoding", encoding),))
        self._http2.send_message(stream_id, message, compressed=True)
        self._http2.send_trailers(stream_id, Status.OK.value)

    def _expire(self, now: float) -> None:
        """Answer what has passed its deadline, wherever it is; its place is freed as well."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            call = self._forget(number)
            if call is not None:
                cancel(call.serving, number)
                self._fail(call.stream_id, deadline_exceeded())

    def _fail(self, stream_id: int, error: ServerError | GRPCError) -> None:
        self._http2.send_trailers(stream_id, *status_of(error))

    # --- other calls -------------------------------------------------------------------------

    async def _serve(
        self, stream_id: int, route: Route, stream: UnaryStream, terms: _Terms
    ) -> None:
        """Run one control call in this task, by grpclib's contract."""
        with trio.move_on_after(terms.timeout_seconds) as scope:
            self._tasks[stream_id] = scope
            try:
                await route.func(stream)
                assert stream.reply is not None, "a unary method replies once"
                self._http2.send_unary_reply(stream_id, route.encode(stream.reply))
            except (ServerError, GRPCError) as error:
                self._fail(stream_id, error)
            except Exception:  # ring boundary: a call never ends its connection
                log.exception("%s failed", route.path)
                self._http2.send_trailers(
                    stream_id, Status.UNKNOWN.value, encode_message("internal server error")
                )
            finally:
                self._tasks.pop(stream_id, None)
        if scope.cancelled_caught:
            self._fail(stream_id, deadline_exceeded())
        self._mailbox.ring()

    # --- the end of calls --------------------------------------------------------------------

    def _forget(self, number: int) -> _OpenCall | None:
        call = self._open.pop(number, None)
        if call is not None:
            del self._numbers[call.stream_id]
        return call

    def _abandon(self, stream_id: int) -> None:
        """The client has given this call up."""
        scope = self._tasks.pop(stream_id, None)
        if scope is not None:
            scope.cancel()
        number = self._numbers.get(stream_id)
        if number is not None:
            call = self._forget(number)
            assert call is not None, "both tables name the same calls"
            cancel(call.serving, number)

    def _abandon_all(self) -> None:
        for stream_id in list(self._numbers):
            self._abandon(stream_id)


def _refuse_decoupled(serving: ServingVersion) -> None:
    if serving.decoupled:
        raise unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")


def _unknown_method(path: str) -> ServerError:
    return unsupported(f"unknown method {path}")


class GrpcFrontend:
    """The gRPC port."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        *,
        calls: Calls,
        routes: Mapping[str, Route],
        categories: Mapping[str, Category],
        settings: GrpcSettings,
    ) -> None:
        self._calls = calls
        self._routes = routes
        self._categories = categories
        self._settings = settings
        self._unary_paths = frozenset(
            path for path, route in routes.items() if route.cardinality is Cardinality.UNARY_UNARY
        )
        self._port = Port(listeners, self._connect, sweep_seconds=SWEEP_SECONDS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `drain`; return when the last connection has ended."""
        await self._port.run(task_status=task_status)

    def drain(self) -> None:
        """Accept no more; send GOAWAY, let open calls end."""
        self._port.drain()

    def _connect(self, stream: trio.SocketStream) -> GrpcConnection:
        return GrpcConnection(
            stream,
            calls=self._calls,
            routes=self._routes,
            categories=self._categories,
            settings=self._settings,
            unary_paths=self._unary_paths,
        )
