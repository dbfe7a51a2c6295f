"""Inference from inside the process: for embedders, for models that call models, for simulations.

One call is one `Submit` and a mailbox of its own. It walks the same street as a call from a socket;
cancelling the task that waits cancels the request.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from actors.channels import Door, Mailbox
from actors.messages import Reply
from actors.street.calls import Calls, cancel, submit, submit_nowait
from actors.traces.tracing import WITHIN
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError, unsupported

# Responses that a decoupled model may be ahead of the one who reads them.
RESPONSE_WINDOW: Final = 8


class LocalCall:
    """A request under way, for the one task that waits for it."""

    def __init__(self, mailbox: Mailbox, replies: Door[Reply]) -> None:
        self._mailbox = mailbox
        self._replies = replies
        self._taken: deque[Reply] = deque()  # at most RESPONSE_WINDOW
        self.finished = False

    async def next(self) -> InferResponse | None:
        """The next response, or None when there are no more.

        Raises ServerError for a response that is an error; further ones may follow it.
        """
        while not self.finished:
            while not self._taken:
                await self._mailbox.wait()
                self._taken.extend(self._replies.drain())
            reply = self._taken.popleft()
            self.finished = reply.final
            if isinstance(reply.outcome, ServerError):
                raise reply.outcome
            if reply.outcome is not None:
                return reply.outcome
        return None


@asynccontextmanager
async def open_call(
    calls: Calls,
    request: InferRequest,
    *,
    deadline_at: float = math.inf,
    by_program: bool = True,
) -> AsyncIterator[LocalCall]:
    """Submit a request; leaving the block before the final response cancels it.

    The program that embeds the server has its requests traced like any client; those of a model are
    part of the trace that they carry, or of none. Raises ServerError when it is not accepted.
    """
    serving = calls.index.value.find(request.model_name, request.model_version)
    mailbox = Mailbox()
    replies: Door[Reply] = mailbox.door(RESPONSE_WINDOW)
    try:
        received = WITHIN if by_program and calls.tracing.is_active else None
        ticketed = calls.prepare(
            serving, request, replies, deadline_at=deadline_at, received=received
        )
    except ServerError:
        mailbox.close()
        raise
    call = LocalCall(mailbox, replies)
    try:
        try:
            submit_nowait(ticketed)
        except trio.WouldBlock:
            await submit(ticketed)
        yield call
    finally:
        mailbox.close()
        if not call.finished:
            cancel(serving, ticketed.submit.number)


async def infer(
    calls: Calls, request: InferRequest, *, deadline_at: float = math.inf
) -> InferResponse:
    """The one response of a model that gives exactly one. Raises ServerError."""
    if calls.index.value.find(request.model_name, request.model_version).decoupled:
        raise unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
    async with open_call(calls, request, deadline_at=deadline_at) as call:
        response = await call.next()
    assert response is not None, "a model that is not decoupled answers or fails"
    return response
