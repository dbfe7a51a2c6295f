"""Lets responses leave in the order in which their requests were dispatched: `preserve_ordering`.

Wired in only where a model asks for it, between its instances and the callers. Owns the order, by
its policy, and where each request's responses really go. Hears `Reserve` from the scheduler before
the batch is executed, and `Reply` from instances. It waits for a slow reader, as an instance would:
whoever stands behind that reader in the order has to wait for it anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from actors.channels import Door, Mailbox
from actors.messages import Reply, Reserve, Submit
from actors.policy.ordering import Resequencer
from protocol.status import internal


@dataclass(frozen=True, slots=True, eq=False)
class OrderingSeat:
    """The scheduler's side: every batch passes through here on its way to an instance."""

    slots: Door[Reserve]
    replies: Door[Reply]

    def enter(self, submits: Sequence[Submit]) -> list[Submit]:
        """Reserve the places of a batch, and let its replies take the way round."""
        # Room is certain: there is a place for every batch that instances can have at once.
        self.slots.send_nowait(Reserve([(submit.number, submit.reply) for submit in submits]))
        return [submit._replace(reply=self.replies) for submit in submits]


class OrderedReplies:
    """One model version's order."""

    def __init__(self, *, mailbox: Mailbox, slots: Door[Reserve], replies: Door[Reply]) -> None:
        self._mailbox = mailbox
        self._slots = slots
        self._replies = replies
        self._policy: Resequencer[Reply] = Resequencer()
        self._callers: dict[int, Door[Reply]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, which is after the last instance has ended."""
        task_status.started()
        try:
            while True:
                await self._mailbox.wait()
                await self._turn()
        finally:
            self._leave()
            self._mailbox.close()

    def _leave(self) -> None:
        """After a crash: whoever still waits gets its last reply, in order or not."""
        self._reserve()
        finals = {reply.number: reply for reply in self._replies.drain() if reply.final}
        finals |= {reply.number: reply for reply in self._policy.give_up() if reply.final}
        error = internal("the model has ended")
        for number, caller in self._callers.items():
            with contextlib.suppress(trio.BrokenResourceError):  # the caller has gone
                caller.send_owed(finals.get(number) or Reply(number, error, final=True))
        self._callers.clear()

    async def flush(self) -> None:
        """Pass on what instances said before they ended."""
        await self._turn()

    async def _turn(self) -> None:
        # Slots first: a reservation is always sent before the batch whose replies need it.
        self._reserve()
        for reply in self._replies.drain():
            for leaving in self._policy.offer(reply.number, reply, final=reply.final):
                await self._pass_on(leaving)

    def _reserve(self) -> None:
        for reserve in self._slots.drain():
            for number, caller in reserve.callers:
                self._callers[number] = caller
                self._policy.reserve(number)

    async def _pass_on(self, reply: Reply) -> None:
        caller = self._callers[reply.number]
        try:
            if reply.final:
                del self._callers[reply.number]
                caller.send_owed(reply)
            else:
                await caller.send(reply)
        except trio.BrokenResourceError:
            return  # the caller has gone
