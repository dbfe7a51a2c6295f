"""How many requests a port reads in one turn of the event loop.

More than enough as long as there is room for them. Where what is read is mostly refused, since the
queues of its models are full, a loop that goes on reading spends on refusals what its models need
to be served; so then it reads less, at last only a few requests between two looks at everything
else. What is not read waits with its senders, which HTTP/2 and TCP tell in time. It never says who
is read.
"""

from __future__ import annotations

from typing import Final

# As many as are worth a turn: at some 20 µs for a small request, about a millisecond and a half.
MOST_REQUESTS: Final = 64
# Few enough that a flood of refusals, which costs less than the turn itself then, holds up nobody.
LEAST_REQUESTS: Final = 8
# One refusal in so many requests is how a port knows that it reads all that can be taken.
REQUESTS_PER_REFUSAL: Final = 16


class ReadingPace:
    """Of one port. It halves what it reads, and takes it up again one by one."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = MOST_REQUESTS

    @property
    def is_held_back(self) -> bool:
        """Whether requests have been refused lately."""
        return self.requests < MOST_REQUESTS

    def after(self, heard: int, refused: int) -> None:
        """A turn has ended in which so many requests were read, and so many refused.

        Those refused may be others than those read; over a few turns it comes to the same.
        """
        if refused * REQUESTS_PER_REFUSAL > heard:
            self.requests = max(LEAST_REQUESTS, self.requests // 2)
        elif heard >= self.requests:
            self.requests = min(MOST_REQUESTS, self.requests + 1)
