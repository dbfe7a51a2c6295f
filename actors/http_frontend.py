"""The REST port: HTTP/1.1 connections, each a reader and a writer.

Owns its connections and what each of them is waiting for. The reader parses, admits and submits;
the writer encodes replies and control answers in the order of their requests, and sends whatever
has come since it last looked in one go. Inference takes no task of its own; everything else is
answered by a short task in the connection's nursery. A peer that leaves cancels its request.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from actors.calls import Calls, Ticketed, cancel, submit, submit_nowait
from actors.channels import Door, Mailbox
from actors.http_operations import Answer, HttpOperations, InferExchange
from actors.messages import Reply
from actors.port import Port
from protocol.http1 import (
    ContinueExpected,
    Http1Connection,
    HttpEvent,
    HttpLimits,
    HttpRequest,
    IdleTimedOut,
)
from protocol.http1_error import HttpError
from protocol.http1_head import HeadParser
from protocol.http1_response import CONTINUE, Buffer, encode_error, encode_response
from protocol.routes import Infer, Operation
from protocol.status import ServerError

# How often connections are looked over for time-outs; their limits are seconds, so this is exact
# enough and costs nothing per request.
SWEEP_SECONDS: Final = 1.0
# One request of a connection is under way at a time, so one reply is; a late one of a cancelled
# request may still be on its way.
REPLY_DOOR: Final = 8
ANSWER_DOOR: Final = 1


@dataclass(slots=True, eq=False)
class _Exchange:
    """The request being answered: an inference, or a control call run by a task."""

    request: HttpRequest
    ticketed: Ticketed | None = None
    infer: InferExchange | None = None


class HttpConnection:
    """One peer. `run` ends when either side has closed."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        calls: Calls,
        operations: HttpOperations,
        limits: HttpLimits,
        heads: HeadParser,
    ) -> None:
        self._stream = stream
        self._calls = calls
        self._operations = operations
        self._http = Http1Connection(limits, now=trio.current_time(), heads=heads)
        self._mailbox = Mailbox()
        self._replies: Door[Reply] = self._mailbox.door(REPLY_DOOR)
        self._answers: Door[Answer] = self._mailbox.door(ANSWER_DOOR)
        self._resume = trio.Event()
        self._waiting: deque[HttpRequest | HttpError] = deque()  # bounded by HttpLimits
        self._current: _Exchange | None = None
        self._outbound: list[Buffer] = []
        self._closing = False  # nothing more is said after what is outbound
        self._draining = False  # the server stops: the current answer is the last
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the peer until it leaves, errs or is told to go."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read)
                await self._write()
                self._nursery.cancel_scope.cancel()
        finally:
            self._abandon()
            self._mailbox.close()
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await trio.aclose_forcefully(self._stream)

    def sweep(self, now: float) -> None:
        """Act on whatever time has brought about."""
        outcome = self._http.tick(now)
        match outcome:
            case IdleTimedOut():
                self._closing = True
            case HttpError():
                self._waiting.append(outcome)
                self._advance()
            case None:
                return
        self._mailbox.ring()

    def drain(self, now: float) -> None:
        """The server stops: an idle connection closes now, a busy one after its answer."""
        self._draining = True
        if self._current is None and not self._waiting:
            self._closing = True
            self._mailbox.ring()

    # --- reader ------------------------------------------------------------------------------

    async def _read(self) -> None:
        http = self._http
        try:
            while not http.is_closed:
                if not http.wants_data:
                    self._resume = trio.Event()
                    await self._resume.wait()
                    self._take(http.receive(b"", trio.current_time()))
                    continue
                data = await self._stream.receive_some(http.read_size)
                if not data:
                    break
                self._take(http.receive(bytes(data), trio.current_time()))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer vanished; there is nobody to tell
        else:
            if http.is_closed:
                return  # the last request has been read; the writer closes after its answer
        self._abandon()
        self._closing = True
        self._mailbox.ring()

    def _take(self, events: Sequence[HttpEvent]) -> None:
        for event in events:
            match event:
                case ContinueExpected():
                    if self._current is None:
                        self._outbound.append(CONTINUE)
                case _:
                    self._waiting.append(event)
        self._advance()
        if self._outbound or self._closing:
            self._mailbox.ring()

    def _advance(self) -> None:
        """Begin the next request, if none is being answered; its answer may be there at once."""
        while self._current is None and self._waiting and not self._closing:
            event = self._waiting.popleft()
            if isinstance(event, HttpError):
                self._outbound += encode_error(event, keep_alive=False)
                self._closing = True
                return
            self._current = _Exchange(event)
            try:
                self._begin(self._current)
            except HttpError as error:
                self._finish(encode_error(error, keep_alive=self._keeps_alive(event)))
            except ServerError as error:
                self._finish(self._operations.error(error, keep_alive=self._keeps_alive(event)))

    def _begin(self, exchange: _Exchange) -> None:
        request = exchange.request
        operation = self._operations.dispatch(request)
        if not isinstance(operation, Infer):
            self._nursery.start_soon(self._operate, exchange, operation)
            return
        exchange.infer = self._operations.decode_infer(operation, request)
        exchange.ticketed = self._calls.prepare(
            exchange.infer.serving, exchange.infer.request, self._replies
        )
        try:
            submit_nowait(exchange.ticketed)
        except trio.WouldBlock:
            self._nursery.start_soon(self._submit_patiently, exchange, exchange.ticketed)

    async def _submit_patiently(self, exchange: _Exchange, ticketed: Ticketed) -> None:
        try:
            await submit(ticketed)
        except ServerError as error:
            reply = Reply(ticketed.submit.number, error, final=True)
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                self._replies.send_nowait(reply)

    async def _operate(self, exchange: _Exchange, operation: Operation) -> None:
        answer = await self._operations.run(operation, exchange.request)
        with contextlib.suppress(trio.BrokenResourceError):
            await self._answers.send(answer)

    # --- writer ------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._mailbox.wait()
            for reply in self._replies.drain():
                self._on_reply(reply)
            for answer in self._answers.drain():
                if self._current is not None:
                    self._finish(self._encode_answer(self._current.request, answer))
            self._advance()
            while self._outbound:
                await self._flush()
            if self._closing:
                return

    async def _flush(self) -> None:
        outbound, self._outbound = self._outbound, []
        try:
            if len(outbound) > 1 and sum(map(len, outbound)) <= 65_536:
                await self._stream.send_all(b"".join(outbound))
            else:
                for part in outbound:
                    await self._stream.send_all(part)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._abandon()
            self._closing = True
            self._outbound = []

    def _on_reply(self, reply: Reply) -> None:
        exchange = self._current
        if exchange is None or exchange.ticketed is None or exchange.infer is None:
            return
        if reply.number != exchange.ticketed.submit.number:
            return  # a late answer to a request that was given up
        keep_alive = self._keeps_alive(exchange.request)
        if isinstance(reply.outcome, ServerError):
            self._finish(self._operations.error(reply.outcome, keep_alive=keep_alive))
            return
        assert reply.outcome is not None, "a model that is not decoupled answers every request"
        self._finish(
            self._operations.encode_infer(exchange.infer, reply.outcome, keep_alive=keep_alive)
        )

    def _encode_answer(self, request: HttpRequest, answer: Answer) -> list[Buffer]:
        return encode_response(
            answer.status, answer.headers, answer.parts, keep_alive=self._keeps_alive(request)
        )

    def _finish(self, parts: Sequence[Buffer]) -> None:
        """The current request is answered: say it, and make room for the next."""
        assert self._current is not None, "only a request under way is finished"
        request = self._current.request
        self._current = None
        self._outbound += parts
        self._http.reply_sent(trio.current_time())
        self._resume.set()
        if not self._keeps_alive(request):
            self._closing = True

    def _keeps_alive(self, request: HttpRequest) -> bool:
        return request.keep_alive and not self._draining

    def _abandon(self) -> None:
        """Nobody waits for the current request any longer."""
        exchange, self._current = self._current, None
        self._waiting.clear()
        if exchange is not None and exchange.ticketed is not None:
            cancel(exchange.ticketed.serving, exchange.ticketed.submit.number)


class HttpFrontend:
    """The REST port."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        *,
        calls: Calls,
        operations: HttpOperations,
        limits: HttpLimits,
    ) -> None:
        self._calls = calls
        self._operations = operations
        self._limits = limits
        self._heads = HeadParser(max_header_lines=limits.max_header_lines)
        self._port = Port(listeners, self._connect, sweep_seconds=SWEEP_SECONDS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `drain`; return when the last connection has gone."""
        await self._port.run(task_status=task_status)

    def drain(self) -> None:
        """Accept no more; idle connections close now, busy ones after their answer."""
        self._port.drain()

    def _connect(self, stream: trio.SocketStream) -> HttpConnection:
        return HttpConnection(
            stream,
            calls=self._calls,
            operations=self._operations,
            limits=self._limits,
            heads=self._heads,
        )
