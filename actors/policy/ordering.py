"""Puts responses back into the order in which their requests were dispatched.

Owns what `preserve_ordering` promises: a slot is reserved for every request at dispatch, and only
the request in the oldest open slot may answer. Its responses pass straight through, also those of a
decoupled model that are not final; everybody else's are held until their turn comes. A request that
never got a slot, because it was refused while it queued, is not held up and holds up nobody.

Never limits how much it holds: a request that is not at the head holds at most what its sender's
window lets through, and the number of slots is bounded by what instances run at once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

ResponseT = TypeVar("ResponseT")


@dataclass(slots=True, eq=False)
class _Slot(Generic[ResponseT]):
    held: list[ResponseT] = field(default_factory=list)
    is_complete: bool = False  # the final response is among those held


class Resequencer(Generic[ResponseT]):
    """Responses in, responses out in dispatch order. Errors are responses too."""

    __slots__ = ("_held", "_slots")

    def __init__(self) -> None:
        self._slots: OrderedDict[int, _Slot[ResponseT]] = OrderedDict()
        self._held = 0

    def reserve(self, ticket_id: int) -> None:
        """A request is dispatched: its responses follow those of all reserved before it."""
        assert ticket_id not in self._slots, "a request is dispatched once"
        self._slots[ticket_id] = _Slot()

    def offer(self, ticket_id: int, response: ResponseT, *, final: bool) -> list[ResponseT]:
        """Take one response and return all that may leave now, in order.

        Every request that has a slot must end with a final response, if only an error: an open
        slot that never completes would hold back everything behind it.
        """
        slot = self._slots.get(ticket_id)
        if slot is None:
            return [response]
        assert not slot.is_complete, "nothing follows a final response"
        if next(iter(self._slots)) != ticket_id:
            slot.held.append(response)
            slot.is_complete = final
            self._held += 1
            return []
        leaving = [response]
        if final:
            del self._slots[ticket_id]
            self._flush(leaving)
        return leaving

    def _flush(self, leaving: list[ResponseT]) -> None:
        """The head has completed: what its followers hold leaves, up to the first open slot."""
        while self._slots:
            ticket_id, slot = next(iter(self._slots.items()))
            leaving += slot.held
            self._held -= len(slot.held)
            slot.held.clear()
            if not slot.is_complete:
                return
            del self._slots[ticket_id]

    def give_up(self) -> list[ResponseT]:
        """Close every slot, and return what they held, in order."""
        held = [response for slot in self._slots.values() for response in slot.held]
        self._slots.clear()
        self._held = 0
        return held

    @property
    def open_slots(self) -> int:
        """How many dispatched requests have not completed, or wait for one that has not."""
        return len(self._slots)

    @property
    def held(self) -> int:
        """How many responses wait for their turn."""
        return self._held
