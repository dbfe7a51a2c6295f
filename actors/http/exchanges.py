"""REST requests that a model answers, from the submitted message to the last byte of the reply.

Owns what is known of such a request until it has been answered: the ticket with which it was
submitted, what it holds of shared memory, and how the client wants its responses rendered. There is
one class for each way of answering. An exchange makes bytes and waits for nothing; its connection
brings it replies and sends what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from actors.channels import Door, Mailbox
from actors.control.shared_memory import Lease
from actors.http.reply_desk import ReplyDesk
from actors.messages import Reply
from actors.street.calls import Ticketed, cancel
from protocol.generate import EVENT_STREAM_HEADERS, GenerateReply, encode_event
from protocol.http1_error import Headers, HttpError
from protocol.http1_response import (
    LAST_CHUNK,
    Buffer,
    encode_chunk,
    encode_error,
    encode_response,
    encode_stream_head,
)
from protocol.http_compression import compress_response
from protocol.inference import InferResponse, ResponsePlan
from protocol.status import ServerError
from protocol.v2_json_response import InferEncoder, not_a_single_response

# Responses that a model may be ahead of the client who reads them.
RESPONSE_WINDOW: Final = 8


class Exchange(Protocol):
    """What a connection needs of the request that a model is answering."""

    ticketed: Ticketed
    begun: bool
    """Whether some of the reply is out, so that its status can no longer change."""

    ended: bool
    """Whether the reply is complete; set by `answer`."""

    @property
    def replies(self) -> Door[Reply] | None:
        """A door for this exchange's replies alone; None if they come in at the port's desk."""

    def answer(self, reply: Reply, *, keep_alive: bool) -> Sequence[Buffer]:
        """What one reply of the model adds to the reply to the client; maybe nothing."""

    def close(self) -> None:
        """Nothing more will be asked of this exchange: let go of what it holds."""


def give_up(exchange: Exchange) -> None:
    """Nobody waits for the model's answer: free the request's place, wherever it is."""
    ticketed = exchange.ticketed
    cancel(ticketed.serving, ticketed.submit.number)


def failure(error: ServerError, *, keep_alive: bool) -> list[Buffer]:
    """The reply to a request that failed."""
    return encode_error(HttpError.of(error), keep_alive=keep_alive)


class InferExchange:
    """An inference with exactly one response."""

    begun = False
    replies = None
    __slots__ = (
        "_accept_encoding",
        "_count",
        "_desk",
        "_encoder",
        "_first",
        "_lease",
        "_plan",
        "ended",
        "ticketed",
    )

    def __init__(
        self,
        ticketed: Ticketed,
        desk: ReplyDesk,
        *,
        encoder: InferEncoder,
        plan: ResponsePlan,
        accept_encoding: str,
        lease: Lease | None,
    ) -> None:
        """The caller has told, or tells, `desk` who takes the replies."""
        self.ticketed = ticketed
        self.ended = False
        self._desk = desk
        self._encoder = encoder
        self._plan = plan
        self._accept_encoding = accept_encoding
        self._lease = lease
        self._first: InferResponse | ServerError | None = None
        self._count = 0

    def answer(self, reply: Reply, *, keep_alive: bool) -> Sequence[Buffer]:
        outcome = reply.outcome
        if outcome is not None:
            self._count += 1
        if not reply.final:  # a model may say separately that its response was the last
            self._first = self._first or outcome
            return ()
        self.ended = True
        if self._count != 1:
            return failure(not_a_single_response(self._count), keep_alive=keep_alive)
        outcome = outcome or self._first
        assert outcome is not None, "one was counted"
        if isinstance(outcome, ServerError):
            return failure(outcome, keep_alive=keep_alive)
        return self._encode(outcome, keep_alive=keep_alive)

    def _encode(self, response: InferResponse, *, keep_alive: bool) -> list[Buffer]:
        serving = self.ticketed.serving
        try:
            headers, parts = self._encoder.encode(
                response,
                self._plan,
                regions=self._lease,
                labels=serving.labels.get,
                has_batch_dim=serving.has_batch_dimension,
            )
        except ServerError as error:  # an output that cannot be rendered as it was asked for
            return failure(error, keep_alive=keep_alive)
        if self._accept_encoding:
            headers, parts = compress_response(headers, parts, self._accept_encoding)
        return encode_response(200, headers, parts, keep_alive=keep_alive)

    def close(self) -> None:
        self._desk.forget(self.ticketed.submit.number)
        if self._lease is not None:
            self._lease.release()


class GenerateExchange:
    """A generation that is answered by one JSON object."""

    begun = False
    __slots__ = ("_count", "_headers", "_mailbox", "_reply", "ended", "replies", "ticketed")

    def __init__(
        self, ticketed: Ticketed, replies: Door[Reply], *, mailbox: Mailbox, headers: Headers
    ) -> None:
        """`replies` is a door of `mailbox` for this request alone; `headers` go with the reply."""
        self.ticketed = ticketed
        self.replies = replies
        self.ended = False
        self._mailbox = mailbox
        self._headers = headers
        self._reply = GenerateReply()
        self._count = 0

    def answer(self, reply: Reply, *, keep_alive: bool) -> Sequence[Buffer]:
        if reply.outcome is not None:
            self._reply.add(reply.outcome)
            self._count += 1
        # A second response decides the matter; a model that goes on for ever is not waited for.
        if not reply.final and self._count < 2:
            return ()
        self.ended = True
        if not reply.final:
            give_up(self)
        status, headers, body = self._reply.finish()
        return encode_response(status, (*headers, *self._headers), (body,), keep_alive=keep_alive)

    def close(self) -> None:
        self._mailbox.remove(self.replies)


class GenerateStreamExchange:
    """A generation whose responses are sent as they are made, one server-sent event for each.

    The first response decides the status; errors that come later are events in a 200.
    """

    __slots__ = ("_chunked", "_headers", "_mailbox", "begun", "ended", "replies", "ticketed")

    def __init__(
        self,
        ticketed: Ticketed,
        replies: Door[Reply],
        *,
        mailbox: Mailbox,
        headers: Headers,
        chunked: bool,
    ) -> None:
        """As GenerateExchange; `chunked` is false for a peer that knows no chunks."""
        self.ticketed = ticketed
        self.replies = replies
        self.ended = False
        self._mailbox = mailbox
        self._headers = headers
        self._chunked = chunked
        self.begun = False

    def answer(self, reply: Reply, *, keep_alive: bool) -> Sequence[Buffer]:
        parts: list[Buffer] = []
        status = 200  # of a request without any response
        event = b""
        if reply.outcome is not None:
            status, event = encode_event(reply.outcome)
        if not self.begun and (event or reply.final):
            self.begun = True
            headers = (*EVENT_STREAM_HEADERS, *self._headers)
            parts.append(
                encode_stream_head(status, headers, keep_alive=keep_alive, chunked=self._chunked)
            )
        if event:
            parts.append(encode_chunk((event,)) if self._chunked else event)
        if reply.final:
            self.ended = True
            if self._chunked:
                parts.append(LAST_CHUNK)
        return parts

    def close(self) -> None:
        self._mailbox.remove(self.replies)
