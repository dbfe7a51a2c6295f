"""Who waits for room in somebody else's door, so that an ensemble never does.

Owns a task for each such wait, be it before a member's door or before a caller's window: one that
is full holds up only those who need it. A wait says how it ended by a message to the ensemble, in
whose turns everything else happens.
"""

from __future__ import annotations

import contextlib
from collections import deque

import trio

from actors.channels import Door, Mailbox
from actors.messages import CancelRequest, Control, Reply, Submit
from actors.street.calls import Ticketed, in_line, submit
from protocol.status import ServerError, StatusCode


class Waits:
    """The waits of one ensemble. Whoever runs the ensemble brings the `nursery`."""

    def __init__(self, mailbox: Mailbox, control: Door[Control], replies: Door[Reply]) -> None:
        self._mailbox = mailbox
        self._control = control
        self._replies = replies
        self.nursery: trio.Nursery

    def for_member(self, ticketed: Ticketed) -> trio.CancelScope:
        """Submit a request to a member whose door was found full, as soon as there is room.

        Cancelling what is returned gives it up. Unless it is submitted, a reply says why.
        """
        patience = trio.CancelScope()
        self.nursery.start_soon(self._submit_patiently, in_line(ticketed), patience)
        return patience

    async def _submit_patiently(self, ticketed: Ticketed, patience: trio.CancelScope) -> None:
        refused: ServerError | None = None
        with patience:
            try:
                await submit(ticketed)
            except ServerError as error:
                refused = error
        if patience.cancelled_caught:
            refused = ServerError(StatusCode.CANCELLED, "")
        if refused is not None:
            self._replies.send_owed(Reply(ticketed.submit.number, refused, final=True))

    def for_caller(self, asked: Submit, unsent: deque[Reply]) -> None:
        """Give a caller whose window was found full what is `unsent`, one as there is room."""
        self.nursery.start_soon(self._send_patiently, asked, unsent)

    async def _send_patiently(self, asked: Submit, unsent: deque[Reply]) -> None:
        try:
            while unsent:
                if unsent[0].final:
                    asked.reply.send_owed(unsent[0])
                else:
                    await asked.reply.send(unsent[0])
                unsent.popleft()
                self._mailbox.ring()  # members may go on
        except trio.BrokenResourceError:
            unsent.clear()
            self.caller_has_gone(asked.number)

    def caller_has_gone(self, number: int) -> None:
        """Have the ensemble cancel a request, though its caller did not."""
        # Full or closed: then the request is done for nobody, and dropped when it has ended.
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._control.send_nowait(CancelRequest(number))
