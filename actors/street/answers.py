"""Final replies, and those of them that refuse what had been let in, which are counted.

Owns what has been refused since Statistics last heard; whoever queues requests has `Refusals`, and
tells once per turn. It decides no refusal and words none.
"""

from __future__ import annotations

import trio

from actors.channels import Door
from actors.messages import Fact, Reply, RequestsRefused, Submit, VersionKey
from actors.metrics.slow_requests import SlowTeller
from protocol.status import ServerError


def answer(submit: Submit, reply: Reply) -> None:
    """Give the caller its final reply, unless it has gone."""
    try:
        submit.reply.send_owed(reply)
    except trio.BrokenResourceError:
        return


def answer_error(submit: Submit, error: ServerError) -> None:
    """The same where the request was not executed."""
    answer(submit, Reply(submit.number, error, final=True))


class Refusals:
    """Of the requests that one scheduler had let in."""

    __slots__ = ("_key", "_seconds", "_slow", "_statistics")

    def __init__(
        self, key: VersionKey, statistics: Door[Fact], slow: SlowTeller | None = None
    ) -> None:
        self._key = key
        self._statistics = statistics
        self._slow = slow  # None: nobody looks
        self._seconds: dict[str, list[float]] = {}  # waited in vain, by reason

    def refuse(
        self, submit: Submit, error: ServerError, *, reason: str, cause: str, now: float
    ) -> None:
        """Answer and count one. `reason` is that of the statistics, `cause` that of the console."""
        self._seconds.setdefault(reason, []).append(now - submit.submitted_at)
        if self._slow is not None:
            self._slow.look_at_refused(submit, error, cause)
        answer_error(submit, error)

    def tell(self) -> None:
        """Let Statistics hear of those since the last time, if there are any."""
        if not self._seconds:
            return
        for reason, seconds in self._seconds.items():
            # Owed, because it can wait for room no better than whoever is served in turns.
            self._statistics.send_owed(RequestsRefused(self._key, reason, seconds))
        self._seconds.clear()
