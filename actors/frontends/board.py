"""What every frontend process has to know, and which of them know it by now.

Owns, for each frontend, how far its knowledge is behind: the model index as ModelRepository
publishes it, and the regions of shared memory. A control call is answered only once all frontends
know what it has changed, so that a client finds what it has asked for through any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from actors.channels import Mailbox, Watch
from actors.control.shared_memory import SharedMemory
from actors.frontends.records import Rest
from actors.frontends.snapshot import Publisher
from actors.lifecycle.model_index import ModelIndex
from protocol.v2_json_shared_memory import SystemRegion

if TYPE_CHECKING:
    from actors.frontends.core_link import CoreLink

# A frontend that has not taken a snapshot in by then is stuck, or dying; clients of the others do
# not wait for it any longer.
SETTLE_SECONDS: Final = 1.0

Regions = tuple[SystemRegion, ...]


class _Seat:
    """What one frontend has been told."""

    __slots__ = ("generation", "index", "mailbox", "regions", "synced")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.index: ModelIndex | None = None
        self.regions: Regions = ()
        self.generation = 0  # of the last snapshot sent
        self.synced = 0  # of the last one that it has taken in


class Board:
    """See the module's docstring."""

    def __init__(self, index: Watch[ModelIndex], regions: SharedMemory) -> None:
        self._index = index
        self._memory = regions
        self._regions: Regions = ()
        self._seats: dict[CoreLink, _Seat] = {}
        self._moved = trio.Event()

    def join(self, link: CoreLink, mailbox: Mailbox) -> None:
        """A frontend begins; its bell rings from now on when there is something to tell it."""
        self._seats[link] = _Seat(mailbox)
        self._index.listen(mailbox)

    def leave(self, link: CoreLink, mailbox: Mailbox) -> None:
        del self._seats[link]
        self._index.ignore(mailbox)
        self._move()

    def state_for(self, link: CoreLink, publisher: Publisher) -> Rest | None:
        """The message that brings a frontend up to date; None if it is."""
        seat = self._seats[link]
        if seat.index is self._index.value and seat.regions is self._regions:
            return None
        seat.index, seat.regions = self._index.value, self._regions
        seat.generation += 1
        return {
            "generation": seat.generation,
            "snapshot": publisher.publish(seat.index, seat.generation),
            "regions": [
                [region.name, region.key, region.offset, region.byte_size]
                for region in seat.regions
            ],
        }

    def on_synced(self, link: CoreLink, generation: int) -> None:
        """The frontend knows what the snapshot said."""
        self._seats[link].synced = generation
        self._move()

    async def settle(self) -> None:
        """Return once every frontend knows what holds now, or has had its time."""
        regions = tuple(self._memory.system_status(""))
        if regions != self._regions:
            self._regions = regions
        with trio.move_on_after(SETTLE_SECONDS):
            while behind := [seat for seat in self._seats.values() if self._is_behind(seat)]:
                for seat in behind:
                    seat.mailbox.ring()
                await self._moved.wait()

    def _is_behind(self, seat: _Seat) -> bool:
        return (
            seat.synced < seat.generation
            or seat.index is not self._index.value
            or seat.regions is not self._regions
        )

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
