"""What Statistics hears of responses that come on their own, not with their batch.

Owns the place of each among the responses of its request, and the instant of the one before. It is
told of a response before the caller is, so that whoever asks afterwards finds it counted.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from actors.channels import Door
from actors.messages import Fact, Responded, Submit, VersionKey
from protocol.inference import InferResponse
from protocol.status import StatusCode
from repo.backends.base import Outcome


class ResponseTeller(NamedTuple):
    """What every `LateResponses` of an instance has in common."""

    key: VersionKey
    statistics: Door[Fact]
    again: bool = False  # the requests have been executed, and perhaps answered, before


class LateResponses:
    """Tells Statistics of the responses of one request, if they come on their own."""

    __slots__ = ("_has_responded", "_index", "_key", "_since", "_statistics", "_submit")

    def __init__(self, teller: ResponseTeller, submit: Submit, began_at: float) -> None:
        self._key = teller.key
        self._statistics = teller.statistics
        self._submit = submit
        self._since = began_at
        self._index = 0
        # One that comes back to its model had its first response long ago.
        self._has_responded = teller.again

    async def tell(self, outcome: Outcome | None, *, cancelled: bool) -> None:
        """The next one is about to be sent."""
        now = trio.current_time()
        first_seconds = None
        if outcome is not None and not self._has_responded:
            self._has_responded = True
            first_seconds = now - self._submit.submitted_at
        kind = _kind_of(outcome, cancelled)
        fact = Responded(self._key, self._index, kind, now - self._since, first_seconds)
        self._index += 1
        self._since = now
        try:
            self._statistics.send_nowait(fact)
        except trio.WouldBlock:
            await self._statistics.send(fact)


def _kind_of(outcome: Outcome | None, cancelled: bool) -> str:
    if isinstance(outcome, InferResponse):
        return "success"
    if outcome is None:
        return "cancel" if cancelled else "empty_response"
    return "cancel" if outcome.status is StatusCode.CANCELLED else "fail"
