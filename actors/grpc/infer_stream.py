"""One ModelStreamInfer call: many requests, whose responses come back on the same stream.

Owns the call's requests in flight and the order of their responses. Requests are admitted and
submitted one after another, as they come; responses of models that give exactly one come back in
the order of the requests, those of decoupled models as they are made. What goes wrong with one
request is said in its place and ends nothing else. At most `MAX_IN_FLIGHT` requests are under way:
beyond that the client's bytes are not acknowledged. A client that does not read stops the models
that answer it, by their window, and nobody else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from actors.channels import Door, Mailbox
from actors.control.shared_memory import Lease, SharedMemory
from actors.grpc.requests import decode_request, release
from actors.grpc.streams import Wire
from actors.grpc.terms import GrpcSettings, Terms
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply
from actors.street.calls import Calls, Ticketed, cancel, in_line, submit, submit_nowait
from actors.traces.tracing import FrontTrace, Received
from protocol.grpc_compression import decompress
from protocol.http2_events import MessageBytes
from protocol.status import ServerError, unavailable
from protocol.v2_grpc import (
    Buffer,
    DecodedRequest,
    RejectedRequest,
    encode_empty_final,
    encode_stream_error,
    encode_stream_response,
)

# Requests of one call that wait for their responses, or whose responses wait to be sent. As many
# as a connection may have calls; clients measure with some hundreds.
MAX_IN_FLIGHT: Final = 1024

SHUTTING_DOWN: Final = "GRPC server is shutting down and has stopped accepting new requests."

Message = list[Buffer]


class _Turn:
    """The place of one request's only response among those of the others."""

    __slots__ = ("message",)

    def __init__(self, message: Message | None = None) -> None:
        self.message = message


class _Call:
    """One request under way."""

    __slots__ = ("decoded", "front", "lease", "replies", "serving", "turn")

    def __init__(
        self, serving: ServingVersion, decoded: DecodedRequest, lease: Lease | None
    ) -> None:
        self.front: FrontTrace | None = None
        self.serving = serving
        self.decoded = decoded
        self.lease = lease
        self.turn: _Turn | None = None  # of a model that gives one response
        self.replies: Door[Reply] | None = None  # of a decoupled model


class InferStream:
    """See the module's docstring; a `StreamCall` of its connection."""

    def __init__(
        self,
        *,
        calls: Calls,
        regions: SharedMemory,
        terms: Terms,
        wire: Wire,
        settings: GrpcSettings,
        deadline_at: float = math.inf,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._calls = calls
        self._regions = regions
        self._terms = terms
        self._wire = wire
        self._deadline_at = deadline_at
        self._settings = settings
        self._headers = headers  # in which a client may name its trace
        self._waited_from = trio.current_time()  # since when for the next request, for traces
        self._mailbox = Mailbox()
        # Each request in flight has a place here for its one response.
        self._replies: Door[Reply] = self._mailbox.door(MAX_IN_FLIGHT)
        self._inbox: deque[tuple[MessageBytes, bool]] = deque()  # bounded by the call's window
        self._ordered: dict[int, _Call] = {}  # by request number
        self._decoupled: dict[int, _Call] = {}
        self._turns: deque[_Turn] = deque()
        self._outbox: deque[Message] = deque()  # to be sent, in this order
        # Of last messages on their way through the above, by identity; as a rule none is traced.
        self._traced: dict[int, FrontTrace] = {}
        self._is_submitting = False  # a request waits for room in its model's door
        self._half_closed = False
        self._draining = False
        self._failure: ServerError | None = None  # what the whole call ends with
        self._nursery: trio.Nursery | None = None

    # --- what its connection says ------------------------------------------------------------

    def receive(self, message: MessageBytes, *, compressed: bool) -> None:
        self._inbox.append((message, compressed))
        if self._nursery is not None:
            self._admit()
            if not self._outbox and not self._turns_are_due() and self._failure is None:
                return  # as a rule: the request is with its model, and there is nothing to say
        self._mailbox.ring()

    def half_close(self) -> None:
        self._half_closed = True
        self._mailbox.ring()

    def ring(self) -> None:
        self._mailbox.ring()

    def drain(self) -> None:
        self._draining = True
        self._mailbox.ring()

    async def run(self) -> None:
        """Serve until everything is answered. Raises ServerError to end the call with it."""
        self._wire.open()
        try:
            async with trio.open_nursery() as self._nursery:
                while not self._take_turn():
                    await self._mailbox.wait()
                self._nursery.cancel_scope.cancel()
        finally:
            self._abandon()
        if self._failure is not None:
            self._flush_all()
            raise self._failure

    def _take_turn(self) -> bool:
        """Do what can be done now; whether the call is at its end."""
        while self._failure is None:
            self._take_replies()
            self._flush()
            if not self._admit():
                break
        if self._failure is not None:
            return True
        if self._inbox or self._is_submitting or self._in_flight():
            return False
        if self._draining and not self._half_closed:
            self._failure = unavailable(SHUTTING_DOWN)
        return self._half_closed or self._draining

    def _in_flight(self) -> int:
        return len(self._turns) + len(self._decoupled) + len(self._outbox)

    # --- requests ----------------------------------------------------------------------------

    def _admit(self) -> bool:
        """Submit the requests that have come, as far as there is room; whether there were any."""
        found = False
        while self._inbox and not self._is_submitting and self._failure is None:
            if self._in_flight() >= MAX_IN_FLIGHT:
                break
            found = True
            message, compressed = self._inbox.popleft()
            nbytes = len(message)
            try:
                if compressed:
                    limit = self._settings.limits.max_message_bytes
                    message = decompress(message, self._terms.encoding, limit)
                self._begin(message, nbytes)
            except ServerError as error:
                # Nobody can say which request this was, so it cannot be answered in its place.
                self._failure = error
        return found

    def _begin(self, message: MessageBytes, nbytes: int) -> None:
        """Admit and submit one request, or say why not. Raises ServerError for a bad message."""
        try:
            decoded, lease = decode_request(message, self._terms, self._regions)
        except RejectedRequest as rejected:
            error, decoupled = self._judge(rejected)
            self._reject(error, rejected.id, decoupled=decoupled)
            self._wire.acknowledge(nbytes)
            return
        request = decoded.request
        try:
            if self._draining:
                raise unavailable(SHUTTING_DOWN)
            serving = self._calls.index.value.find(request.model_name, request.model_version)
            if lease is not None:
                lease.place(request, decoded.plan, on_device=serving.takes_device_tensors)
        except ServerError as error:
            release(lease)
            self._reject(error, request.id, decoupled=False)
            self._wire.acknowledge(nbytes)
            return
        self._submit(_Call(serving, decoded, lease), nbytes)

    def _judge(self, rejected: RejectedRequest) -> tuple[ServerError, bool]:
        """What is wrong with a request, of which an unknown model is the worst, and whether its
        model is decoupled."""
        if rejected.precedes_lookup:
            return rejected, False
        try:
            serving = self._calls.index.value.find(rejected.model_name, rejected.model_version)
        except ServerError as error:
            return error, False
        return rejected, serving.decoupled

    def _reject(self, error: ServerError, request_id: str, *, decoupled: bool) -> None:
        """Answer a request that never came into a queue, in its turn if it has one."""
        message = encode_stream_error(error, request_id)
        if decoupled:
            self._outbox.append(message)
        else:
            self._turns.append(_Turn(message))

    def _submit(self, call: _Call, nbytes: int) -> None:
        serving, request = call.serving, call.decoded.request
        replies = self._replies
        if serving.decoupled:
            replies = call.replies = self._mailbox.door(self._settings.response_window)
        try:
            ticketed = self._calls.prepare(
                serving,
                request,
                replies,
                deadline_at=self._deadline_at,
                received=self._received() if self._calls.tracing.is_active else None,
            )
        except ServerError as error:
            self._close(call)
            self._reject(error, request.id, decoupled=serving.decoupled)
            self._wire.acknowledge(nbytes)
            return
        number = ticketed.submit.number
        call.front = ticketed.front
        if serving.decoupled:
            self._decoupled[number] = call
        else:
            call.turn = _Turn()
            self._turns.append(call.turn)
            self._ordered[number] = call
        try:
            submit_nowait(ticketed)
        except trio.WouldBlock:
            assert self._nursery is not None, "requests are admitted while the call runs"
            self._is_submitting = True
            self._nursery.start_soon(self._submit_patiently, in_line(ticketed), nbytes)
        except ServerError as error:
            self._refuse(number, error)
            self._wire.acknowledge(nbytes)
        else:
            self._wire.acknowledge(nbytes)

    def _received(self) -> Received:
        received = Received.over_grpc(self._waited_from, self._headers)
        self._waited_from = trio.current_time()
        return received

    async def _submit_patiently(self, ticketed: Ticketed, nbytes: int) -> None:
        """Wait for room; further requests of this call wait behind this one."""
        try:
            await submit(ticketed)
        except ServerError as error:
            self._refuse(ticketed.submit.number, error)
        self._is_submitting = False
        self._wire.acknowledge(nbytes)
        self._mailbox.ring()

    def _refuse(self, number: int, error: ServerError) -> None:
        """The model's door would not take a request that has its place here already."""
        call = self._ordered.pop(number, None) or self._decoupled.pop(number)
        message = encode_stream_error(error, call.decoded.request.id)
        if call.turn is not None:
            call.turn.message = message
        else:
            self._outbox.append(message)
        self._close(call)

    # --- responses ---------------------------------------------------------------------------

    def _take_replies(self) -> None:
        for reply in self._replies.drain():
            call = self._ordered.pop(reply.number)
            assert call.turn is not None, "a request in order has its turn"
            assert reply.final, "a model that is not decoupled answers once"
            call.turn.message = message = self._encode(call, reply)
            self._close(call, message)
        # As they come to the end of the table, no model can starve the others of a slow client.
        for number, call in list(self._decoupled.items()):
            assert call.replies is not None, "a decoupled request has a door of its own"
            if not len(call.replies):
                continue
            if not self._flush():
                return
            del self._decoupled[number]
            if not self._take_responses(call):
                self._decoupled[number] = call

    def _take_responses(self, call: _Call) -> bool:
        """Send what a decoupled model has said to one request; whether that was all."""
        assert call.replies is not None, "a decoupled request has a door of its own"
        for reply in call.replies.drain():
            message = self._encode(call, reply)
            if message is not None:
                self._outbox.append(message)
            if reply.final:
                self._close(call, message)
                return True
        return False

    def _encode(self, call: _Call, reply: Reply) -> Message | None:
        """The message for one reply, or None: for the mere news that none follows, if nobody asked
        for it, and for an error that ends the call."""
        request, outcome = call.decoded.request, reply.outcome
        if call.front is not None:
            call.front.responded()
        if outcome is None:
            return encode_empty_final(request) if call.decoded.empty_final else None
        if not isinstance(outcome, ServerError):
            try:
                return encode_stream_response(
                    outcome,
                    call.decoded.plan,
                    call.lease,
                    final=reply.final,
                    labels=call.serving.labels,
                    has_batch_dim=call.serving.has_batch_dimension,
                )
            except ServerError as error:
                outcome = error
        if self._terms.errors_end_stream:
            self._failure = self._failure or outcome
            return None
        return encode_stream_error(outcome, request.id, failed=request, final=reply.final)

    def _turns_are_due(self) -> bool:
        return bool(self._turns) and self._turns[0].message is not None

    def _flush(self) -> bool:
        """Send what is due, as far as the client keeps up; whether it does."""
        turns, outbox = self._turns, self._outbox
        while turns and turns[0].message is not None:
            outbox.append(turns[0].message)
            turns.popleft()
        while self._wire.is_writable():
            if not outbox:
                return True
            self._send(outbox.popleft())
        return False

    def _send(self, message: Message) -> None:
        self._wire.send(message)
        if self._traced:
            front = self._traced.pop(id(message), None)
            if front is not None:
                front.sent()

    def _flush_all(self) -> None:
        """Before the status of a call that fails: what its client would have had by now."""
        self._flush()
        while self._outbox:
            self._send(self._outbox.popleft())

    # --- the end -----------------------------------------------------------------------------

    def _close(self, call: _Call, message: Message | None = None) -> None:
        """A request is over, once the last message for it, if there is one, has been sent."""
        if call.front is not None:
            if message is not None:
                self._traced[id(message)] = call.front
            else:
                call.front.sent()
        release(call.lease)
        if call.replies is not None:
            self._mailbox.remove(call.replies)

    def _abandon(self) -> None:
        """Nobody waits for the requests that are left."""
        for number, call in [*self._ordered.items(), *self._decoupled.items()]:
            cancel(call.serving, number)
            release(call.lease)
            if call.front is not None:
                call.front.close()
        for front in self._traced.values():
            front.close()
        self._ordered.clear()
        self._decoupled.clear()
        self._mailbox.close()
