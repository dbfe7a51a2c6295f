"""The core's side of the conversation with one frontend process.

Owns the requests that this frontend has under way: each is put into its model's door with the
caller's own deadline and priority, as if its connection were here, and waits for room there like
one. Replies that come within one turn leave together. Of a decoupled model as many responses go
down as the caller has room for; then they wait in a door of their own, and the model before it. The
frontend has judged its requests by the last snapshot; one that names a version which has since been
replaced is judged anew. When the frontend dies its requests are cancelled, and nobody else notices.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import Final, cast

import trio

from actors.channels import Door, Mailbox
from actors.frontends import records
from actors.frontends.answers import Answers
from actors.frontends.board import Board
from actors.frontends.link_end import LinkEnd, layout_of
from actors.frontends.pipe import PeerGone, Pipe
from actors.frontends.records import Rest, Submitted
from actors.frontends.snapshot import Publisher
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply, Submit
from actors.street.calls import Calls, Ticketed, cancel, closed, in_line, submit
from actors.traces.tracing import WITHIN, FrontTrace
from actors.turns import Line
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, cancelled, unavailable
from repo.backends.python.layout import WireError

log = logging.getLogger(__name__)

# Replies that have come and not been sent down: final ones always find room beyond this.
REPLY_DOOR: Final = 4096
# The room that a caller has who has left: what comes for it is dropped in its frontend.
UNLIMITED: Final = 1 << 40


class _Call:
    """A request of the frontend's."""

    __slots__ = ("credit", "front", "patience", "replies", "serving", "submit")

    @property
    def version(self) -> str:
        return str(self.serving.version)

    def __init__(self, serving: ServingVersion, message: Submit, credit: int) -> None:
        self.serving = serving
        self.submit = message
        self.credit = credit  # responses that the frontend has room for, of a decoupled model
        self.replies: Door[Reply] | None = None  # of a decoupled model
        self.patience: trio.CancelScope | None = None  # of the task that waits for room
        self.front: FrontTrace | None = None


class _Bell(Mailbox):
    """Rings the link, and notes for which call."""

    __slots__ = ("_calls", "_link", "number")

    def __init__(self, link: Mailbox, calls: dict[int, None], number: int) -> None:
        super().__init__()
        self._link = link
        self._calls = calls
        self.number = number

    def ring(self) -> None:
        self._calls[self.number] = None
        self._link.ring()


class CoreLink:
    """See the module's docstring; one per life of a frontend process."""

    def __init__(
        self,
        pipe: Pipe,
        *,
        calls: Calls,
        board: Board,
        answers: Answers,
        heard: Callable[[Rest], None],
    ) -> None:
        """`heard` takes what the frontend says of itself."""
        self._mailbox = Mailbox()
        self._end = LinkEnd(pipe, wake=self._mailbox.ring)
        self._calls = calls
        self._board = board
        self._answers = answers
        self._heard = heard
        self._publisher = Publisher()
        self._replies: Door[Reply] = self._mailbox.door(REPLY_DOOR)
        self._open: dict[int, _Call] = {}  # as many as the frontend has under way
        self._ready: dict[int, None] = {}  # calls with a door of their own that may have a response
        self._asks: dict[int, trio.CancelScope] = {}  # one per forwarded call
        self._now = 0.0  # when the packets that are taken in came; 0 if none are
        self._nursery: trio.Nursery

    @property
    def in_flight(self) -> int:
        """Requests that the frontend waits for."""
        return len(self._open)

    async def run(self) -> None:
        """Serve until the frontend has gone. Raises WireError, in a group, if it talks nonsense."""
        self._board.join(self, self._mailbox)
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._end.run, self._take, self._settle)
                self._nursery.start_soon(self._end.run_writer)
                await self._mailbox.serve(self._turn, Line.ANSWERS)
        except* PeerGone:
            pass
        finally:
            self._board.leave(self, self._mailbox)
            for number in list(self._open):
                self._give_up(number)
            self._mailbox.close()
            self._end.close()

    def say(self, message: Rest, blob: bytes = b"") -> None:
        """Tell the frontend something, in the next turn."""
        self._end.say(records.pack_message(message), records.BLOB, [blob])
        self._mailbox.ring()

    # --- up --------------------------------------------------------------------------------------

    def _take(self, extras: bytes, tensors: list[Tensor], requested: tuple[str, ...]) -> None:
        kind = records.kind_of(extras)
        if kind == records.SUBMIT:
            self._on_submit(records.read_submit(extras), tensors, requested)
        elif kind == records.CANCEL:
            self._on_cancel(records.read_numbered(extras))
        elif kind == records.CREDIT:
            self._on_credit(*records.read_credit(extras))
        elif kind == records.MESSAGE:
            blob = bytes(tensors[0].raw) if tensors else b""
            self._on_message(records.read_message(extras), blob)
        else:
            raise WireError(f"a frontend sent a record of kind {kind}")

    def _settle(self) -> None:
        """Whatever came in has rung those whom it concerns."""
        self._now = 0.0

    def _on_submit(
        self, said: Submitted, tensors: list[Tensor], requested: tuple[str, ...]
    ) -> None:
        number = said.number
        if number in self._open:
            raise WireError(f"request {number} is under way already")
        now = self._now = self._now or trio.current_time()  # one for what came together
        request = _request_of(said, tensors, requested)
        try:
            serving, is_current = self._publisher.find(said.handle)
        except KeyError:
            raise WireError(f"a request for the unknown handle {said.handle}") from None
        try:
            request.model_name = request.model_name or serving.name
            size, key, level = said.batch_size, said.shape_key, said.level
            if not is_current:
                serving, size, key, level = self._judge(request)
            reply = self._replies
            if serving.decoupled:
                bell = _Bell(self._mailbox, self._ready, number)
                reply = bell.door(max(said.window, 1))
            deadline_at = now + said.seconds_left
            message = Submit(number, request, size, key, level, deadline_at, now, reply)
            call = _Call(serving, message, said.window)
            if serving.decoupled:
                call.replies = reply
            self._submit(number, call)
        except ServerError as error:
            self._refuse(number, error)

    def _judge(self, request: InferRequest) -> tuple[ServingVersion, int, Hashable, int]:
        """What the frontend knew of the model holds no longer. Raises ServerError."""
        try:
            serving = self._calls.index.value.find(request.model_name, request.model_version)
        except ServerError:
            raise closed(request) from None  # it was there when the request came
        admitted = serving.rules.admit(request)
        level = serving.level_of(request.priority)
        return serving, admitted.batch_size, admitted.shape_key, level

    def _submit(self, number: int, call: _Call) -> None:
        serving, message = call.serving, call.submit
        door = serving.door_of(message.level)
        if self._calls.tracing.is_active:
            message, call.front = self._calls.tracing.begin(message, serving, WITHIN)
        self._open[number] = call
        try:
            door.send_nowait(message)
        except trio.BrokenResourceError:
            if call.front is not None:
                call.front.close()
            raise closed(message.request) from None
        except trio.WouldBlock:
            ticketed = Ticketed(serving, door, message, front=call.front)
            call.patience = trio.CancelScope()
            self._nursery.start_soon(self._submit_patiently, in_line(ticketed), call.patience)

    async def _submit_patiently(self, ticketed: Ticketed, patience: trio.CancelScope) -> None:
        number = ticketed.submit.number
        with patience:
            try:
                await submit(ticketed)
            except ServerError as error:
                self._refuse(number, error)
            call = self._open.get(number)
            if call is not None:
                call.patience = None  # it is inside

    def _refuse(self, number: int, error: ServerError) -> None:
        """Answer for a request that its model has not taken."""
        call = self._open.pop(number, None)
        if call is not None and call.replies is not None:
            call.replies.close()
        self._end.say(records.pack_error(number, error, final=True))
        self._mailbox.ring()

    def _on_credit(self, number: int, room: int) -> None:
        call = self._open.get(number)
        if call is not None and call.replies is not None:
            call.credit += room
            self._ready[number] = None
            self._mailbox.ring()

    def _on_cancel(self, number: int) -> None:
        """Nobody wants the answer: free the request's place, wherever it is, and say its end."""
        call = self._open.get(number)
        if call is None:
            return  # it has been answered meanwhile
        if call.patience is not None:
            self._give_up(number)
            self._end.say(records.pack_error(number, cancelled(), final=True))
            self._mailbox.ring()
            return
        cancel(call.serving, number)
        if call.replies is not None:  # what still comes is for nobody but for its end
            call.credit = UNLIMITED
            self._ready[number] = None
            self._mailbox.ring()

    def _give_up(self, number: int) -> None:
        """The frontend has gone, or the request has not begun: forget it."""
        call = self._open.pop(number, None)
        if call is None:
            return
        self._ready.pop(number, None)
        if call.patience is not None:
            call.patience.cancel()
        cancel(call.serving, number)
        if call.replies is not None:
            call.replies.close()
        if call.front is not None:
            call.front.close()

    # --- down ------------------------------------------------------------------------------------

    def _turn(self) -> float:
        end = self._end
        if not end.is_stuck:
            state = self._board.state_for(self, self._publisher)
            if state is not None:
                end.say(records.pack_message(state))
            for reply in self._replies.drain():
                self._send(reply)
            if self._ready:
                self._send_responses()
        for extras, error in end.flush():
            self._on_lost(extras, unavailable(str(error)))
        return math.inf

    def _send_responses(self) -> None:
        for number in list(self._ready):
            del self._ready[number]
            call = self._open.get(number)
            if call is None or call.replies is None:
                continue
            for reply in call.replies.drain(call.credit):
                call.credit -= 1
                self._send(reply)

    def _send(self, reply: Reply) -> None:
        number, outcome, final, _ = reply
        call = self._open.get(number)
        if call is None:
            return  # it was given up
        if call.front is not None:
            call.front.responded()
        if outcome is None:
            if final:
                self._end.say(records.pack_numbered(records.END, number))
        elif isinstance(outcome, ServerError):
            self._end.say(records.pack_error(number, outcome, final=final))
        else:
            extras = _response(call, outcome, final=final)
            try:
                self._end.say(extras, *layout_of((), outcome.outputs))
            except (ValueError, KeyError) as error:  # a tensor that no client could be sent
                failed = unavailable(f"a response cannot be sent: {error}")
                self._end.say(records.pack_error(number, failed, final=final))
        if final:
            self._end_call(number, call)

    def _end_call(self, number: int, call: _Call) -> None:
        del self._open[number]
        if call.replies is not None:
            call.replies.close()
        if call.front is not None:
            call.front.sent()

    def _on_lost(self, extras: bytes, error: ServerError) -> None:
        """There was no shared memory for this record: say so in its place."""
        if records.kind_of(extras) == records.RESPONSE:
            said = records.read_response(extras)
            self._end.say(records.pack_error(said.number, error, final=said.final))
            self._mailbox.ring()

    # --- forwarded calls -------------------------------------------------------------------------

    def _on_message(self, message: Rest, blob: bytes) -> None:
        if "ask" in message:
            number = _number(message["ask"])
            scope = self._asks[number] = trio.CancelScope()
            self._nursery.start_soon(self._answer, number, scope, message, blob)
        elif "cancel_ask" in message:
            asked = self._asks.get(_number(message["cancel_ask"]))
            if asked is not None:
                asked.cancel()
        elif "synced" in message:
            generation = _number(message["synced"])
            self._publisher.forget(generation)
            self._board.on_synced(self, generation)
        else:
            self._heard(message)

    async def _answer(
        self, number: int, scope: trio.CancelScope, question: Rest, blob: bytes
    ) -> None:
        try:
            with scope:
                try:
                    answer, body = await self._answers.answer(question, blob)
                except WireError:
                    raise
                except Exception:  # ring boundary: a call never ends its frontend
                    log.exception("a forwarded call failed")
                    answer, body = self._answers.failure(question)
                await self._board.settle()
                self.say({"answer": number, **answer}, body)
        finally:
            del self._asks[number]


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise WireError(f"{value!r} is no number")
    return value


def _request_of(said: Submitted, tensors: list[Tensor], requested: tuple[str, ...]) -> InferRequest:
    request = InferRequest("", id=said.id, inputs=tensors, requested_outputs=requested)
    if said.sequence_flags:
        request.sequence_flags = SequenceFlag(said.sequence_flags)
    rest = said.rest
    if rest:
        try:
            request.model_name = cast("str", rest.get("model_name", ""))
            request.parameters = dict(cast("dict[str, int]", rest.get("parameters", {})))
            request.correlation_id = cast("int", rest.get("correlation_id", 0))
            request.timeout_us = cast("int", rest.get("timeout_us", 0))
            request.model_version = cast("str", rest.get("model_version", ""))
            request.priority = cast("int", rest.get("priority", 0))
        except (TypeError, ValueError) as error:
            raise WireError(f"malformed request: {error}") from error
    return request


def _response(call: _Call, response: InferResponse, *, final: bool) -> bytes:
    """What a response says beside its tensors, where that is not what its frontend expects."""
    number, request = call.submit.number, call.submit.request
    rest: dict[str, object] = {}
    if (
        response.parameters
        or response.model_name != request.model_name
        or response.model_version != call.version
    ):
        rest = {"model_name": response.model_name, "model_version": response.model_version}
        if response.parameters:
            rest["parameters"] = response.parameters
    same_id = response.id == request.id
    return records.pack_response(number, final, None if same_id else response.id, rest)
