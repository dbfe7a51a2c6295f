"""An alarm that rings a mailbox at an instant, for owners whose next instant is ever another.

A cancel scope around every wait costs as much as waking a task. An alarm is one task with one
scope, which is only ever moved to an earlier instant: an instant that has moved further away is
heard at the old one, once, and the owner then says what it waits for now.
"""

from __future__ import annotations

import math

import trio

from actors.channels import Mailbox


class Alarm:
    """Belongs to the owner of the mailbox, who calls `set` before each wait."""

    __slots__ = ("_at", "_mailbox", "_scope")

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._at = math.inf
        self._scope: trio.CancelScope | None = None

    def set(self, at: float) -> None:
        """Ring at `at` at the latest; infinity asks for nothing."""
        if at < self._at:
            self._at = at
            if self._scope is not None:
                self._scope.deadline = at

    async def run(self) -> None:
        """Ring whenever it is time, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._at) as self._scope:
                await trio.sleep_forever()
            self._at = math.inf
            self._scope = None
            self._mailbox.ring()
