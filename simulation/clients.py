"""Simulated clients: each is what a connection is to the server, without the bytes.

A client has one mailbox for the replies to all its requests, submits without a task of its own
unless a door is full, and checks that each response is the one to its request. All that it does
and all that reaches it goes into the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import trio

from actors.channels import Door, Mailbox
from actors.messages import Reply
from actors.street.calls import Ticketed, cancel, in_line, submit, submit_nowait
from actors.traces.tracing import WITHIN
from protocol.inference import InferRequest, InferResponse, ParameterValue, Tensor
from protocol.status import ServerError
from simulation.ledger import Asked

if TYPE_CHECKING:
    from simulation.world import World

# Replies a client may be behind; small, so that stalled readers and owed replies are met often.
REPLY_WINDOW: Final = 4


class _WitnessDoor(Door[Reply]):
    """A client's door that notes each reply at the instant at which its sender put it in."""

    def __init__(self, inner: Door[Reply], client: Client) -> None:
        # No place of its own: everything is done by the door inside.
        self._inner = inner
        self._client = client
        self.capacity = inner.capacity

    def __getattr__(self, name: str) -> object:
        """Whether it is closed, and what else senders look at, is known inside."""
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def ring_when_room(self, wisher: Mailbox) -> None:
        self._inner.ring_when_room(wisher)

    def send_nowait(self, message: Reply) -> None:
        try:
            self._inner.send_nowait(message)
        except trio.BrokenResourceError:
            self._client.witness(message)
            raise
        self._client.witness(message)

    async def send(self, message: Reply) -> None:
        try:
            await self._inner.send(message)
        finally:
            self._client.witness(message)

    def send_owed(self, message: Reply) -> None:
        self._client.witness(message)
        self._inner.send_owed(message)


@dataclass(slots=True, eq=False)
class _Call:
    """A request under way; `at_door` ends the wait of one whose door is full."""

    asked: Asked
    ticketed: Ticketed
    at_door: trio.CancelScope | None = None


class Client:
    """One caller with any number of requests under way."""

    def __init__(self, world: World, name: str, *, window: int = REPLY_WINDOW) -> None:
        self.name = name
        self._world = world
        self._mailbox = Mailbox()
        self._replies: Door[Reply] = self._mailbox.door(window)
        self._door = _WitnessDoor(self._replies, self)
        self._open: dict[int, _Call] = {}  # by request number
        self._calls: dict[int, _Call] = {}  # all of them, also those that have ended
        self._may_read = trio.Event()
        self._may_read.set()
        self._stalls = 0
        self.responses: dict[str, list[InferResponse]] = {}  # by request name

    async def run(self) -> None:
        """Read replies until cancelled."""
        try:
            while True:
                await self._mailbox.wait()
                await self._may_read.wait()
                if self.has_vanished:
                    return
                for reply in self._replies.drain():
                    self._take(reply)
        finally:
            self._mailbox.close()

    def ask(
        self,
        model: str,
        name: str,
        *,
        batch: int = 1,
        dims: Sequence[int] = (1,),
        content: float | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        deadline_at: float = math.inf,
        parameters: Mapping[str, ParameterValue] | None = None,
    ) -> Asked:
        """Submit one request with a FP32 tensor INPUT of shape [batch, *dims].

        Batch 0 is a tensor without a batch dimension. `content` fills the tensor, with a number of
        its own unless given. A refusal is the request's answer.
        """
        asked = self.asked(model, name, batch=batch, timeout_us=timeout_us, deadline_at=deadline_at)
        value = float(asked.order) if content is None else content
        shape = (batch, *dims) if batch else tuple(dims)
        array = np.full(shape, value, dtype=np.float32)
        request = InferRequest(
            model,
            id=name,
            inputs=[Tensor.from_array("INPUT", array)],
            priority=priority,
            timeout_us=timeout_us,
            parameters=dict(parameters or {}),
        )
        return self.send(asked, request)

    def asked(
        self,
        model: str,
        name: str,
        *,
        batch: int = 1,
        timeout_us: int = 0,
        deadline_at: float = math.inf,
    ) -> Asked:
        """What the ledger is to know of a request that is sent now."""
        return Asked(
            name=name,
            client=self.name,
            model=model,
            at=trio.current_time(),
            order=self._world.ledger.next_order(),
            batch=max(1, batch),
            timeout_seconds=timeout_us / 1e6,
            deadline_at=deadline_at,
        )

    def send(self, asked: Asked, request: InferRequest) -> Asked:
        """Submit any request; `asked` says what the ledger is to know of it."""
        ledger = self._world.ledger
        ledger.ask(asked)
        self._world.trace.add("ask", asked.name, asked.batch, asked.model)
        calls = self._world.calls
        try:
            serving = calls.index.value.find(request.model_name, request.model_version)
            ticketed = calls.prepare(
                serving,
                request,
                self._door,
                deadline_at=asked.deadline_at,
                received=WITHIN if calls.tracing.is_active else None,
            )
        except ServerError as error:
            self._refused(asked, error)
            return asked
        asked.life = self._world.life_of_config(serving.config)
        asked.level = ticketed.submit.level
        asked.shape_key = ticketed.submit.shape_key
        asked.number = ticketed.submit.number
        call = _Call(asked, ticketed)
        self._open[asked.number] = self._calls[asked.number] = call
        try:
            submit_nowait(ticketed)
        except ServerError as error:
            del self._open[asked.number]
            self._refused(asked, error)
        except trio.WouldBlock:
            call.at_door = trio.CancelScope()
            call.ticketed = in_line(ticketed)
            self._world.start_soon(self._wait_for_room, call, call.at_door)
        return asked

    def cancel(self, asked: Asked) -> None:
        """Nobody wants the answer any more; the place is freed at once."""
        call = self._open.get(asked.number)
        if call is None:
            return
        self._world.trace.add("cancel", asked.name)
        # The first time counts: a stalled client may not have read that it worked.
        asked.cancelled_at = min(asked.cancelled_at, trio.current_time())
        if call.at_door is not None:
            call.at_door.cancel()
        cancel(call.ticketed.serving, asked.number)

    def vanish(self) -> None:
        """Fault: the client is gone, and so is everything it asked for."""
        self._world.trace.add("vanish", self.name)
        self._mailbox.close()
        for call in list(self._open.values()):
            self.cancel(call.asked)
        self._open.clear()
        self._world.somebody_was_answered()

    def stall(self) -> None:
        """Fault: the client stops reading; its window fills."""
        self._world.trace.add("stall", self.name)
        self._stalls += 1
        if self._stalls == 1:
            self._may_read = trio.Event()

    def resume(self) -> None:
        self._world.trace.add("resume", self.name)
        self._stalls -= 1
        if not self._stalls:
            self._may_read.set()

    @property
    def has_vanished(self) -> bool:
        return self._replies.is_closed

    @property
    def open_count(self) -> int:
        """Requests whose final reply this client has not read."""
        return len(self._open)

    def witness(self, reply: Reply) -> None:
        """A sender gives a reply to this client."""
        ledger = self._world.ledger
        call = self._calls[reply.number]
        error = reply.outcome if isinstance(reply.outcome, ServerError) else None
        ledger.answer(call.asked.name, error, final=reply.final, is_empty=reply.outcome is None)

    async def _wait_for_room(self, call: _Call, scope: trio.CancelScope) -> None:
        """The one task that a request may cost: its door is full."""
        asked = call.asked
        with scope:
            try:
                await submit(call.ticketed)
            except ServerError as error:
                if self._open.pop(asked.number, None) is not None:
                    self._refused(asked, error)
        call.at_door = None
        if scope.cancelled_caught:
            asked.life = None  # it never reached the scheduler
            if self._open.pop(asked.number, None) is not None:
                self._world.somebody_was_answered()

    def _refused(self, asked: Asked, error: ServerError) -> None:
        """Answered without having been submitted."""
        asked.life = None
        self._world.trace.add("refused", asked.name, 0, str(error))
        self._world.ledger.answer(asked.name, error, final=True, is_empty=False)
        self._world.somebody_was_answered()

    def _take(self, reply: Reply) -> None:
        call = self._open[reply.number]
        asked = call.asked
        outcome = reply.outcome
        detail = "" if outcome is None else "ok"
        if isinstance(outcome, ServerError):
            detail = str(outcome)
        elif outcome is not None:
            self.responses.setdefault(asked.name, []).append(outcome)
            self._check(asked, call.ticketed.submit.request, outcome)
        self._world.trace.add("answer", asked.name, int(reply.final), detail)
        if reply.final:
            del self._open[reply.number]
            self._world.somebody_was_answered()

    def _check(self, asked: Asked, request: InferRequest, response: InferResponse) -> None:
        """Simulated models echo, so a response that belongs to another request shows."""
        if response.id != request.id:
            asked.problem = f"the response to {asked.name} is marked as one to '{response.id}'"
        for tensor in response.outputs:
            mine = next((one for one in request.inputs if one.name == tensor.name), None)
            if mine is not None and bytes(mine.raw) != bytes(tensor.raw):
                asked.problem = f"the response to {asked.name} holds what somebody else sent"
