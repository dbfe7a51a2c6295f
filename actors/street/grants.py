"""How an instance's readiness becomes grants: straight to its scheduler, or through the limiter."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from actors.channels import Door
from actors.companions.rate_limiter import LimiterSeat
from actors.messages import Grant
from actors.policy.lead import Lead


@dataclass(frozen=True, slots=True, eq=False)
class DirectGrants:
    """`--rate-limit=off`: whatever an instance can take, its scheduler may give it at once."""

    door: Door[Grant]
    lead: Lead | None  # None: it is loaded and never executes

    def loaded(self, index: int) -> None:
        if self.lead is not None:
            self._give(index, self.lead.begin())

    def executed(self, index: int, seconds: float) -> None:
        assert self.lead is not None, "only what has been granted is executed"
        self._give(index, self.lead.ended(seconds))

    def _give(self, index: int, count: int) -> None:
        # Room is certain: the door holds every grant that all instances can have out. A closed
        # door means that the scheduler has left; what it still dispatched is run all the same.
        try:
            for _ in range(count):
                self.door.send_nowait(Grant(index))
        except trio.BrokenResourceError:
            return


@dataclass(frozen=True, slots=True, eq=False)
class LimitedGrants:
    """`--rate-limit=execution_count`: an idle model must not sit on resources."""

    seat: LimiterSeat

    def loaded(self, index: int) -> None:
        """The limiter grants when the scheduler asks."""

    def executed(self, index: int, seconds: float) -> None:
        self.seat.release(index, executed=True)
