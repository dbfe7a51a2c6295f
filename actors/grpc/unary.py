"""The ModelInfer calls of one connection: submitted by its reader, answered by its writer.

Owns the calls in flight, the place each has for its one reply, and their deadlines. An inference
takes no task of its own, unless its model's door is full and it has to wait for room.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

import trio
from grpclib.const import Status

from actors.channels import Door, Mailbox
from actors.control.shared_memory import Lease, SharedMemory
from actors.grpc.requests import decode_request, release
from actors.grpc.streams import packed
from actors.grpc.terms import GrpcSettings, Terms
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply
from actors.street.calls import Calls, Ticketed, cancel, in_line, submit, submit_nowait
from actors.traces.tracing import FrontTrace, Received
from protocol.grpc_compression import IDENTITY
from protocol.grpc_service import status_of
from protocol.http2 import Http2Connection
from protocol.http2_events import MessageBytes
from protocol.inference import ResponsePlan
from protocol.status import ServerError, deadline_exceeded, unsupported
from protocol.v2_grpc import RejectedRequest, encode_infer_response

# Deadlines of calls that have been answered stay until there are so many more than open calls.
DEADLINES_KEPT: Final = 64


@dataclass(slots=True, eq=False)
class _Call:
    """A ModelInfer that has been submitted, or waits to be."""

    stream_id: int
    serving: ServingVersion
    plan: ResponsePlan
    terms: Terms
    lease: Lease | None
    patience: trio.CancelScope | None = None  # of the task that waits for room


class UnaryInfers:
    """See the module's docstring."""

    def __init__(
        self,
        http2: Http2Connection,
        mailbox: Mailbox,
        *,
        calls: Calls,
        regions: SharedMemory,
        settings: GrpcSettings,
    ) -> None:
        self._http2 = http2
        self._mailbox = mailbox
        self._calls = calls
        self._regions = regions
        self._settings = settings
        # Every call in flight gets one reply, and one more may come for a call that was given up.
        self._replies: Door[Reply] = mailbox.door(2 * settings.limits.max_concurrent_streams)
        self._open: dict[int, _Call] = {}  # by request number
        self._numbers: dict[int, int] = {}  # HTTP/2 stream → request number
        self._deadlines: list[tuple[float, int]] = []  # heap of (instant, request number)
        self._traced: dict[int, FrontTrace] = {}  # of open calls, by request number
        self.sending: list[FrontTrace] = []  # of answers that the writer has not sent yet

    @property
    def next_deadline(self) -> float:
        """When to call `expire`; infinity if never."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def begin(
        self,
        stream_id: int,
        message: MessageBytes,
        nbytes: int,
        terms: Terms,
        tasks: trio.Nursery,
        *,
        received: Received | None = None,
    ) -> None:
        """Admit and submit a request, which came as `nbytes` bytes. Raises ServerError."""
        find = self._calls.index.value.find
        try:
            decoded, lease = decode_request(message, terms, self._regions)
        except RejectedRequest as error:
            # An unknown model is the graver news, unless the version string made no sense.
            if not error.precedes_lookup:
                _refuse_decoupled(find(error.model_name, error.model_version))
            raise
        request = decoded.request
        deadline_at = math.inf
        if terms.timeout_seconds != math.inf:
            deadline_at = trio.current_time() + terms.timeout_seconds
        try:
            serving = find(request.model_name, request.model_version)
            _refuse_decoupled(serving)
            if lease is not None:
                lease.place(request, decoded.plan, on_device=serving.takes_device_tensors)
            ticketed = self._calls.prepare(
                serving, request, self._replies, deadline_at=deadline_at, received=received
            )
        except ServerError:
            release(lease)
            raise
        number = ticketed.submit.number
        call = self._open[number] = _Call(stream_id, serving, decoded.plan, terms, lease)
        self._numbers[stream_id] = number
        if ticketed.front is not None:
            self._traced[number] = ticketed.front
        if deadline_at != math.inf:
            self._watch(deadline_at, number)
        try:
            submit_nowait(ticketed)
        except trio.WouldBlock:
            call.patience = trio.CancelScope()
            tasks.start_soon(self._submit_patiently, in_line(ticketed), call.patience, nbytes)
        except ServerError:
            self._forget(number)
            if ticketed.front is not None:
                self._traced.pop(number).close()
            raise
        else:
            self._http2.acknowledge(stream_id, nbytes)

    def answer(self) -> None:
        """Encode and send every reply that has come."""
        for reply in self._replies.drain():
            self._on_reply(reply)

    def note_sent(self) -> None:
        """The writer has sent whatever there was."""
        for front in self.sending:
            front.sent()
        self.sending.clear()

    def expire(self, now: float) -> None:
        """Answer what has passed its deadline, wherever it is; its place is freed as well."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            call = self._give_up(number)
            if call is not None:
                self._http2.send_trailers(call.stream_id, *status_of(deadline_exceeded()))

    def abandon(self, stream_id: int) -> None:
        """The client has given this call up, if it is one of these."""
        number = self._numbers.get(stream_id)
        if number is not None:
            self._give_up(number)

    def abandon_all(self) -> None:
        """The client has gone."""
        for number in list(self._open):
            self._give_up(number)
        for front in self.sending:
            front.close()
        self.sending.clear()

    async def _submit_patiently(
        self, ticketed: Ticketed, patience: trio.CancelScope, nbytes: int
    ) -> None:
        number = ticketed.submit.number
        with patience:
            try:
                await submit(ticketed)
            except ServerError as error:
                self._on_reply(Reply(number, error, final=True))
            call = self._open.get(number)
            if call is not None:
                self._http2.acknowledge(call.stream_id, nbytes)
            self._mailbox.ring()

    def _watch(self, deadline_at: float, number: int) -> None:
        """Expire the call then, should it still be open."""
        deadlines = self._deadlines
        if len(deadlines) > 2 * len(self._open) + DEADLINES_KEPT:
            deadlines[:] = [entry for entry in deadlines if entry[1] in self._open]
            heapq.heapify(deadlines)
        heapq.heappush(deadlines, (deadline_at, number))
        if deadlines[0][1] == number:
            self._mailbox.ring()  # the writer waits for a later one, or for none

    def _on_reply(self, reply: Reply) -> None:
        call = self._forget(reply.number)
        if call is None:
            return  # a late answer to a call that was given up
        if self._traced:
            self._note_reply(reply.number)
        outcome = reply.outcome
        message: list[bytes | memoryview] = []
        if not isinstance(outcome, ServerError):
            assert outcome is not None, "a model that is not decoupled answers every request"
            serving = call.serving
            try:
                message = encode_infer_response(
                    outcome,
                    call.plan,
                    call.lease,
                    labels=serving.labels,
                    has_batch_dim=serving.has_batch_dimension,
                )
            except ServerError as error:
                outcome = error
        if call.lease is not None:
            call.lease.release()
        if isinstance(outcome, ServerError):
            self._http2.send_trailers(call.stream_id, *status_of(outcome))
        elif call.terms.reply_encoding == IDENTITY:
            self._http2.send_unary_reply(call.stream_id, message)
        else:
            self._send_packed(call.stream_id, message, call.terms.reply_encoding)

    def _send_packed(
        self, stream_id: int, message: list[bytes | memoryview], encoding: str
    ) -> None:
        smaller, is_packed = packed(message, encoding, self._settings.compression)
        self._http2.send_response_headers(stream_id, (("grpc-encoding", encoding),))
        self._http2.send_message(stream_id, smaller, compressed=is_packed)
        self._http2.send_trailers(stream_id, Status.OK.value)

    def _note_reply(self, number: int) -> None:
        front = self._traced.pop(number, None)
        if front is not None:
            front.responded()
            self.sending.append(front)

    def _forget(self, number: int) -> _Call | None:
        call = self._open.pop(number, None)
        if call is not None:
            del self._numbers[call.stream_id]
        return call

    def _give_up(self, number: int) -> _Call | None:
        """Nobody waits for this call any longer: free its place, wherever it is."""
        call = self._forget(number)
        if call is not None:
            if call.patience is not None:
                call.patience.cancel()
            cancel(call.serving, number)
            release(call.lease)
            if number in self._traced:
                self._traced.pop(number).close()
        return call


def _refuse_decoupled(serving: ServingVersion) -> None:
    if serving.decoupled:
        raise unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
