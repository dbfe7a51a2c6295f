"""How many batches an instance may hold: one that it runs, and those that it finds when it is done.

Owns the count of the grants that an instance has out. A worker process that answers in less time
than it takes to wake it is given its next batches before it asks, so that neither side waits for
the other and several answers are read, and written, at once. But what an instance holds can no
longer be overtaken or go to another instance: so it never holds more than what was a moment's work
a moment ago, besides the one batch that keeps a slow worker from idling.
"""

from __future__ import annotations

from typing import Final

# The work that an instance may hold, in seconds of its own time. Whoever must be overtaken within
# less than this will not notice.
LEAD_SECONDS: Final = 1e-3
# The batch that it runs and the next one: these it may hold however long they take.
LEAST: Final = 2
# Enough that answers are read eight at a time; more would save an eighth of a wake-up, and no more.
MOST: Final = 8


class Lead:
    """Of one instance, which takes at most `most` batches at a time."""

    __slots__ = ("_least", "_most", "_out")

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(most, LEAST)
        self._out = 0

    def begin(self) -> int:
        """How many grants to give when the instance has loaded."""
        self._out = self._least
        return self._out

    def ended(self, seconds: float) -> int:
        """How many grants to give when an execution has ended that took so long.

        None while the instance holds more than it should; one more than ended while it may hold
        more, so that a single short execution does not fill an instance.
        """
        may_hold = self._most
        if seconds * may_hold > LEAD_SECONDS:
            may_hold = max(self._least, int(LEAD_SECONDS / seconds))
        out = self._out - 1
        grants = max(0, min(may_hold - out, 2))
        self._out = out + grants
        return grants
