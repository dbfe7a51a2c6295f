"""Where the models' replies to a port's inferences come in, for all of its connections.

A mailbox for each connection would wake each of them for its own reply; here the replies of a batch
are encoded and sent in one turn. Owns who waits for which reply. A reply that nobody
waits for any longer is dropped. It never looks into a reply.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio

from actors.channels import Door, Mailbox
from actors.messages import Reply
from actors.turns import Line

# Replies that have come and not been taken. A model whose responses do not come with its batch
# waits for room beyond this; a final response always has some.
REPLY_DOOR: Final = 1024
# Replies that are taken in one turn, so that reading has its turn too.
MAX_REPLIES_PER_TURN: Final = 256


class ReplyTaker(Protocol):
    """Who waits for a reply."""

    def take_reply(self, reply: Reply) -> None:
        """Called for each reply to the request, at most one of which is final. Must not raise."""


class ReplyDesk:
    """One for each port."""

    def __init__(self) -> None:
        self._mailbox = Mailbox()
        self.replies: Door[Reply] = self._mailbox.door(REPLY_DOOR)
        # By request number: as many as inferences are under way.
        self._takers: dict[int, ReplyTaker] = {}

    async def run(self) -> None:
        """Hand out replies, until cancelled."""
        try:
            await self._mailbox.serve(self._turn, Line.ANSWERS)
        finally:
            self._mailbox.close()

    def _turn(self) -> float:
        for reply in self.replies.drain(MAX_REPLIES_PER_TURN):
            taker = self._takers.get(reply.number)
            if taker is not None:
                taker.take_reply(reply)
        # Not a ring, which would be answered before anybody else has a turn of the event loop.
        return trio.current_time() if len(self.replies) else math.inf

    def expect(self, number: int, taker: ReplyTaker) -> None:
        """Hand the replies to this request to `taker`."""
        self._takers[number] = taker

    def forget(self, number: int) -> None:
        """Nobody waits for this request any longer."""
        self._takers.pop(number, None)
