"""One HTTP/1.1 connection of the REST port: what it hears, what it is answered, and a writer.

Owns the codec, the requests that have come and wait for their turn, and the one that is being
answered. What its inlet brings is parsed, admitted and submitted at once, and what a model replies
is encoded and sent at once, in the turns of the tasks that bring it. The writer sends what the peer
did not take at once, and everything that is no inference's reply. Inference takes no task of its
own; a control operation is answered by a short task. Requests are answered one after the other, in
the order of their coming.

A client that goes takes its request along, wherever that is. One that does not read stops the model
that answers it, by its window, and later loses its connection; one that sends requests without
reading answers is read no further. So what a connection can pin in memory is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from actors.channels import Door, Mailbox
from actors.http.control import Answer
from actors.http.exchanges import Exchange, failure, give_up
from actors.http.operations import HttpOperations
from actors.http.outbox import Outbox
from actors.http.reply_desk import ReplyDesk
from actors.messages import Reply
from actors.ports.inlets import Inlet
from actors.ports.tls import HTTP1, HandshakeFailed, handshake
from actors.street.answers import answer_error
from actors.street.calls import submit, submit_nowait
from actors.traces.tracing import FrontTrace
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
from protocol.routes import Generate, Infer, Operation
from protocol.status import MAX_LOGGED_ID_CHARACTERS, ServerError, logged_prefix

log = logging.getLogger(__name__)

FOR_MODELS: Final = (Infer, Generate)
"""The operations that models answer."""

# One request of a connection is answered at a time.
ANSWER_DOOR: Final = 1
# Pipelined requests wait unread once the bodies that wait hold this much; and no further request is
# begun while this much of earlier answers has not been sent.
MAX_WAITING_BYTES: Final = 1 << 20
MAX_UNSENT_BYTES: Final = 1 << 18
# How long a peer may take to hang up after our last word. Closing at once, with bytes of it unread,
# would reset the connection and could take that word back.
LINGER_SECONDS: Final = 1.0
# What is read and dropped of a peer that should have nothing more to say.
MAX_DISCARDED_BYTES: Final = 1 << 26
# When the server stops, a request that is only half here may take this long to come.
DRAIN_GRACE_SECONDS: Final = 3.0


class HttpConnection:
    """One peer. `run` ends when either side has closed."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        inlet: Inlet,
        *,
        operations: HttpOperations,
        desk: ReplyDesk,
        limits: HttpLimits,
        heads: HeadParser,
    ) -> None:
        """What comes from `inlet` and what goes to `stream` are the two ways of one connection."""
        self._stream = stream
        self._inlet = inlet
        self._operations = operations
        self._desk = desk
        self._clock = trio.lowlevel.current_clock()
        self._http = Http1Connection(limits, now=self._clock.current_time(), heads=heads)
        self._mailbox = Mailbox()
        self._answers: Door[Answer] = self._mailbox.door(ANSWER_DOOR)
        self._waiting: deque[HttpEvent] = deque()  # bounded by HttpLimits and MAX_WAITING_BYTES
        self._waiting_bytes = 0
        self._current: HttpRequest | None = None
        self._exchange: Exchange | None = None  # of the current request, if it is for a model
        self._outbox = Outbox(stream)
        self._sending: list[FrontTrace] = []  # of answers in the outbox; as a rule none is traced
        self._is_met = False  # whether TLS has been agreed on, if there is any
        self._paused = False  # the peer is read no further until it has had more answers
        self._discarded = 0  # bytes that came after all that would be answered
        self._has_left = trio.Event()  # the peer sends no more
        self._closing = False  # nothing more is said after what is in the outbox
        self._lingers = False  # our last word is one that the peer should hear
        self._draining = False  # the server stops: the current answer is the last
        self._keeps_alive = True  # whether another request may follow the current one
        self._drain_deadline = math.inf
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the peer until it leaves, errs or is told to go."""
        try:
            with self._scope:
                await handshake(self._stream, HTTP1)
                self._is_met = True
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._inlet.run, self)
                    await self._write()
                    self._nursery.cancel_scope.cancel()
        except HandshakeFailed as error:
            log.debug("%s", error)
        finally:
            self._abandon()
            for front in self._sending:
                front.close()
            self._mailbox.close()
            with trio.CancelScope(shield=True), trio.move_on_after(LINGER_SECONDS):
                await trio.aclose_forcefully(self._stream)

    def sweep(self, now: float) -> None:
        """Act on whatever time has brought about."""
        if now >= self._outbox.deadline:
            self._scope.cancel()
            return
        match self._http.tick(now):
            case IdleTimedOut():
                self._close()
            case HttpError() as error:
                self._take([error])
        if now >= self._drain_deadline and self._current is None and not self._waiting:
            self._close()

    def drain(self, now: float) -> None:
        """The server stops: an idle connection closes now, a busy one after its answer."""
        self._draining = True
        self._keeps_alive = False
        if not self._is_met:
            self._scope.cancel()
        elif self._http.is_idle:
            self._close()
        else:
            self._drain_deadline = now + DRAIN_GRACE_SECONDS

    # --- reader ------------------------------------------------------------------------------

    @property
    def read_size(self) -> int:
        return self._http.read_size

    def hear(self, data: bytes) -> int:
        """Take in what the peer has said, and begin what can be begun."""
        if not data:
            self._leave()
            return 1
        if self._closing or self._http.is_closed:
            self._discard(len(data))
            return 1
        events = self._http.receive(data, self._clock.current_time())
        self._take(events)
        return len(events)

    def lose(self) -> None:
        """The peer has vanished."""
        self._abandon()
        self._close()
        self._leave()

    def _discard(self, nbytes: int) -> None:
        """No further request is taken; what comes until the peer hangs up is dropped."""
        self._discarded += nbytes
        if self._discarded > MAX_DISCARDED_BYTES:
            self._inlet.pause()  # the writer ends this connection

    def _leave(self) -> None:
        """The peer has hung up. It may still listen, but nobody computes for it any longer."""
        self._has_left.set()
        if self._exchange is not None:
            self._abandon()
            self._close()
        self._mailbox.ring()

    def _take(self, events: Sequence[HttpEvent]) -> None:
        for event in events:
            if isinstance(event, HttpRequest):
                self._waiting_bytes += len(event.body)
            self._waiting.append(event)
        self._advance()
        if self._outbox or self._closing:
            self._mailbox.ring()
        if not self._paused and self._is_far_ahead():
            self._paused = True
            self._inlet.pause()

    def _is_far_ahead(self) -> bool:
        """Whether the peer has sent so much without waiting for answers that no more is read."""
        if self._closing or self._http.is_closed:
            return False
        return not self._http.wants_data or self._waiting_bytes > MAX_WAITING_BYTES

    def _catch_up(self) -> None:
        """Read on, once enough of what the peer had sent ahead has been answered."""
        while self._paused and not self._is_far_ahead():
            self._paused = False
            self._inlet.resume()
            if not (self._closing or self._http.is_closed):
                self._take(self._http.receive(b"", self._clock.current_time()))

    def _advance(self) -> None:
        """Begin the next request, if none is being answered; its answer may be there at once."""
        while self._waiting and self._current is None and not self._closing:
            if self._outbox.unsent_bytes > MAX_UNSENT_BYTES:
                return  # the writer comes back here when it has sent some
            event = self._waiting.popleft()
            match event:
                case HttpRequest():
                    self._waiting_bytes -= len(event.body)
                    self._current = event
                    head = event.head
                    # Few peers of HTTP/1.0 keep connections, and each asks for it in its own way.
                    self._keeps_alive = head.keep_alive and head.is_http_11 and not self._draining
                    self._begin(event)
                case ContinueExpected():
                    self._outbox.say((CONTINUE,))
                case HttpError():
                    self._outbox.say(encode_error(event, keep_alive=False))
                    self._lingers = True
                    self._close()

    def _begin(self, request: HttpRequest) -> None:
        try:
            operation = self._operations.dispatch(request)
            if isinstance(operation, FOR_MODELS):
                self._submit(operation, request)
            else:
                self._nursery.start_soon(self._operate, operation, request)
        except HttpError as error:
            is_head = request.method == "HEAD"
            self._finish(encode_error(error, keep_alive=self._keeps_alive, head_only=is_head))
        except ServerError as error:
            self._finish(failure(error, keep_alive=self._keeps_alive))
        except Exception:  # ring boundary: a request never ends its server
            log.exception("%s", _described(request))
            self._fail()

    def _submit(self, operation: Infer | Generate, request: HttpRequest) -> None:
        if self._has_left.is_set():
            self._close()  # as if it had left a moment later
            return
        if isinstance(operation, Infer):
            exchange: Exchange = self._operations.open_infer(operation, request, self._desk)
            self._desk.expect(exchange.ticketed.submit.number, self)
        else:
            exchange = self._operations.open_generate(operation, request, self._mailbox)
        self._exchange = exchange
        try:
            submit_nowait(exchange.ticketed)
        except trio.WouldBlock:
            self._nursery.start_soon(self._submit_patiently, exchange)

    async def _submit_patiently(self, exchange: Exchange) -> None:
        try:
            await submit(exchange.ticketed)
        except ServerError as error:
            answer_error(exchange.ticketed.submit, error)
            return
        if self._exchange is not exchange:
            give_up(exchange)  # the client left while this stood in the door

    async def _operate(self, operation: Operation, request: HttpRequest) -> None:
        assert not isinstance(operation, FOR_MODELS), "models answer these"
        try:
            answer = await self._operations.run(operation, request)
        except Exception:  # ring boundary: a request never ends its server
            log.exception("%s", _described(request))
            self._fail()
            self._mailbox.ring()
            return
        with contextlib.suppress(trio.BrokenResourceError):
            await self._answers.send(answer)

    # --- writer ------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while not (self._closing or self._is_over()):
                await self._mailbox.wait()
                self._answer()
                while self._outbox:
                    await self._outbox.flush()
                    if self._sending:
                        self._note_sent()
                    self._advance()
                if self._paused:
                    self._catch_up()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the peer has vanished; there is nobody to tell
        if self._lingers and not self._has_left.is_set():
            await self._linger()

    def _note_sent(self) -> None:
        for front in self._sending:
            front.sent()
        self._sending.clear()

    def _is_over(self) -> bool:
        """Whether the peer has hung up and everything that it asked before has been answered."""
        return self._has_left.is_set() and self._current is None and not self._waiting

    def take_reply(self, reply: Reply) -> None:
        """Say what a model answers, at once if the peer takes it."""
        try:
            self._on_reply(reply)
            if self._waiting:
                self._advance()
            self._outbox.flush_nowait()
            if self._sending and not self._outbox:
                self._note_sent()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose()
        except Exception:  # ring boundary: one connection never ends another
            log.exception("connection ended by an error")
            self._scope.cancel()
        if self._outbox or self._closing or self._paused:
            self._mailbox.ring()  # the rest is the writer's

    def _answer(self) -> None:
        """Encode everything that has come, for as far as the current request goes."""
        exchange = self._exchange
        if exchange is not None and exchange.replies is not None:
            for reply in exchange.replies.drain():
                self._on_reply(reply)
                if exchange.ended:
                    break
        for answer in self._answers.drain():
            if self._current is not None:
                self._finish(
                    encode_response(
                        answer.status, answer.headers, answer.parts, keep_alive=self._keeps_alive
                    )
                )
        self._advance()

    def _on_reply(self, reply: Reply) -> None:
        exchange = self._exchange
        if exchange is None or self._current is None:
            return
        if exchange.ticketed.front is not None:
            exchange.ticketed.front.responded()
        try:
            parts = exchange.answer(reply, keep_alive=self._keeps_alive)
        except Exception:  # ring boundary: a response never ends its server
            log.exception("%sa response failed", logged_prefix(exchange.ticketed.submit.request.id))
            give_up(exchange)
            self._fail()
            return
        if exchange.ended:
            self._finish(parts)
        else:
            self._outbox.say(parts)

    async def _linger(self) -> None:
        """Half-close, and give the peer a moment to read our last word and hang up itself."""
        with trio.move_on_after(LINGER_SECONDS):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
                await self._has_left.wait()
        with trio.move_on_after(LINGER_SECONDS):
            await self._stream.aclose()  # over TLS this says farewell, for those who wait for it

    def _finish(self, parts: Sequence[Buffer]) -> None:
        """The current request is answered: say it, and make room for the next."""
        exchange = self._exchange
        assert self._current is not None, "only a request under way is finished"
        self._current = self._exchange = None
        if exchange is not None:
            exchange.close()
            if exchange.ticketed.front is not None:
                self._sending.append(exchange.ticketed.front)
        self._outbox.say(parts)
        self._http.reply_sent(self._clock.current_time())
        if not self._keeps_alive:
            self._lingers = True
            self._close()

    def _fail(self) -> None:
        """A defect of ours, in the words that are left for it. A reply may have begun."""
        if self._current is None:
            return  # its client has gone
        begun = self._exchange is not None and self._exchange.begun
        error = HttpError(500, "internal server error")
        self._finish(() if begun else encode_error(error, keep_alive=False))
        self._lingers = not begun
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._mailbox.ring()
        self._catch_up()  # to hear the peer hang up

    def _abandon(self) -> None:
        """Nobody waits for the current request any longer, nor for those behind it."""
        exchange, self._exchange = self._exchange, None
        self._current = None
        self._waiting.clear()
        self._waiting_bytes = 0
        if exchange is not None:
            give_up(exchange)
            exchange.close()
            if exchange.ticketed.front is not None:
                exchange.ticketed.front.close()


def _described(request: HttpRequest) -> str:
    """A request that failed before its id was known; its query may hold what is secret."""
    return f"{logged_prefix('')}{request.method} {request.path[:MAX_LOGGED_ID_CHARACTERS]} failed"
