"""Who owns which slot: the sequences that are open, the slots they live in, and the backlog.

Owns the rules that both strategies share: what a request must be to enter, to which slot it goes,
when a slot is freed and who is next, how long a sequence may be silent, how long it may wait for a
slot. Never decides which requests run together, and never reads a clock.

A sequence never moves: it keeps its slot, and so its instance, from its first request to its last.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from actors.policy.queueing import Deadlines, Ticket, Waiting
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings

CorrelationId = int | str
"""5 and "5" are two sequences; 0 and "" are none."""


class SequenceRefusal(enum.Enum):
    """Why a request of a sequence will not be executed; actors know the wire text of each."""

    BATCHED = "batched"
    UNIDENTIFIED = "unidentified"
    STOPPING = "stopping"
    NOT_STARTED = "not started"
    EXPIRED = "expired"  # its sequence waited for a slot longer than it wanted to
    CANCELLED = "cancelled"
    DEADLINE = "deadline"  # the caller's own


@dataclass(slots=True, eq=False)
class SequenceTicket(Ticket):
    """A request of a sequence. Its `timeout_seconds` limit the wait for a slot, 0 = no limit."""

    correlation_id: CorrelationId = 0
    flags: SequenceFlag = SequenceFlag.NONE
    sequence: OpenSequence | None = field(default=None, init=False, repr=False)
    # Nobody waits for it; it gives way, with what follows it, when its turn comes.
    is_cancelled: bool = field(default=False, init=False)
    # Its caller has been told already that its deadline has passed.
    is_answered: bool = field(default=False, init=False)


@dataclass(slots=True, eq=False)
class OpenSequence:
    """A sequence that owns a slot or waits for one; `backlog` is empty once it has a slot."""

    id: CorrelationId
    slot: Slot | None = None
    backlog: deque[SequenceTicket] = field(default_factory=deque)
    active_at: float = 0.0  # of its last request, or when it got its slot
    has_begun: bool = False  # a request of it has been dispatched
    is_ended: bool = False  # no further request belongs to it


@dataclass(slots=True, eq=False)
class Slot:
    """A place on an instance. `queue` holds what its owner wants executed; None is the end."""

    instance: int
    number: int
    owner: OpenSequence | None = None
    queue: deque[SequenceTicket | None] = field(default_factory=deque)
    running: SequenceTicket | None = None  # oldest strategy: inside the batcher, or executing

    @property
    def is_taken(self) -> bool:
        """Whether a sequence lives here, or the last request of one has not ended."""
        return self.owner is not None or self.running is not None


@dataclass(frozen=True, slots=True, eq=False)
class RefuseRequest:
    """Answer this request with an error."""

    ticket: SequenceTicket
    cause: SequenceRefusal


class Place(NamedTuple):
    """One request of a batch, and the slot whose state goes with it.

    The first one of a sequence `begins`: what its slot remembers is another sequence's. As a rule
    that request carries START, but the one that did may have been cancelled.
    """

    slot: int
    ticket: SequenceTicket
    begins: bool

    @classmethod
    def of(cls, slot: int, ticket: SequenceTicket) -> Place:
        """The place of a request that is dispatched now."""
        sequence = ticket.sequence
        assert sequence is not None, "whoever was let in belongs to a sequence"
        if sequence.has_begun:
            return cls(slot, ticket, begins=False)
        sequence.has_begun = True
        return cls(slot, ticket, begins=True)


class DispatchSlots(NamedTuple):
    """Execute these requests on `instance`; this spends one grant.

    `size` counts the places of the batch: with the direct strategy a request stands at the place
    of its slot, and a place without a request is padded.
    """

    instance: int
    places: list[Place]
    size: int
    closed_by: str


@dataclass(frozen=True, slots=True)
class WarnOfConflict:
    """Tell the operator: a sequence was started anew before it had ended."""

    correlation_id: CorrelationId


SequenceAction = DispatchSlots | RefuseRequest | WarnOfConflict


class SlotTable:
    """The sequences of one model version and the slots of its instances.

    What is decided outside `advance` lies in `outbox`. `dirty` are the slots whose queue or owner
    has changed: whoever executes from the slots looks at these.
    """

    def __init__(self, settings: SequenceSettings, instances: Sequence[int]) -> None:
        self._idle_seconds = settings.max_sequence_idle_seconds
        self._slots_per_instance = settings.slots_per_instance
        self._iterative = settings.iterative
        self.rows: dict[int, list[Slot]] = {instance: self._row(instance) for instance in instances}
        self._retired: dict[int, None] = {}  # of the instances in `rows`
        # Slot 0 of every instance first, so that batches stay short; among equals the one that has
        # been free longest, so that short sequences do not all go to the same instance.
        self._freed = itertools.count()
        self._free = [
            (slot.number, next(self._freed), slot.instance)
            for row in self.rows.values()
            for slot in row
        ]
        heapq.heapify(self._free)
        self._open: dict[CorrelationId, OpenSequence] = {}
        self._backlog: OrderedDict[OpenSequence, None] = OrderedDict()
        # Those that own a slot and have not ended, by the instant of their last activity.
        self._by_activity: OrderedDict[OpenSequence, None] = OrderedDict()
        self._deadlines = Deadlines()
        self._waiting: dict[int, SequenceTicket] = {}
        self._auto_ids = itertools.count(1)
        self.dirty: dict[Slot, None] = {}
        self.outbox: list[SequenceAction] = []
        self.draining = False

    # --- what happens ----------------------------------------------------------------------------

    def enter(self, ticket: SequenceTicket, now: float) -> RefuseRequest | None:
        """Let a request in, or refuse it at once. A refused one changes nothing."""
        if ticket.batch_size > 1:
            return RefuseRequest(ticket, SequenceRefusal.BATCHED)
        if not ticket.correlation_id:
            if not self._iterative:
                return RefuseRequest(ticket, SequenceRefusal.UNIDENTIFIED)
            ticket.correlation_id = self._auto_id()
            ticket.flags |= SequenceFlag.START
        starts = SequenceFlag.START in ticket.flags
        if starts and self.draining:
            return RefuseRequest(ticket, SequenceRefusal.STOPPING)
        sequence = self._open.get(ticket.correlation_id)
        if sequence is None and not starts:
            return RefuseRequest(ticket, SequenceRefusal.NOT_STARTED)
        if ticket.deadline_at <= now:
            return RefuseRequest(ticket, SequenceRefusal.DEADLINE)
        if sequence is None:
            sequence = self._open[ticket.correlation_id] = OpenSequence(ticket.correlation_id)
            if self._free:
                number, _, instance = heapq.heappop(self._free)
                self._give(self.rows[instance][number], sequence, now)
            else:
                self._backlog[sequence] = None
        elif starts:
            self.outbox.append(WarnOfConflict(sequence.id))
        self._queue(ticket, sequence, now)
        if SequenceFlag.END in ticket.flags:
            self._close(sequence)
        return None

    def add(self, instance: int, now: float) -> None:
        """One more instance: its slots are for whoever waits, or comes."""
        row = self.rows[instance] = self._row(instance)
        for slot in row:
            self.release(slot, now, self.outbox)

    def retire(self, instance: int) -> None:
        """This instance gets no further sequence."""
        self._retired[instance] = None
        self._free = [place for place in self._free if place[2] != instance]
        heapq.heapify(self._free)

    def vacated(self) -> list[int]:
        """The retired instances whose slots have all been left, each once; then forgotten.

        A passive one never had any.
        """
        found = [
            instance
            for instance in self._retired
            if not any(slot.is_taken for slot in self.rows.get(instance, ()))
        ]
        for instance in found:
            del self._retired[instance]
            self.rows.pop(instance, None)
        return found

    def cancel(self, number: int) -> bool:
        """Nobody waits for this request any longer; False when it does not wait here.

        It gives way when its turn comes: what came before it still runs.
        """
        ticket = self._waiting.get(number)
        if ticket is None:
            return False
        ticket.is_cancelled = True
        assert ticket.sequence is not None, "whoever waits belongs to a sequence"
        if ticket.sequence.slot is not None:
            self.dirty[ticket.sequence.slot] = None
        return True

    def come_back(self, ticket: SequenceTicket, now: float) -> None:
        """The model wants to see this request again, as one in the middle of its sequence.

        Its own sequence: another one that has the same id by now is not disturbed.
        """
        ticket.flags = SequenceFlag.NONE
        sequence = ticket.sequence
        if sequence is None or sequence.is_ended:
            self.outbox.append(RefuseRequest(ticket, SequenceRefusal.NOT_STARTED))
        else:
            self._queue(ticket, sequence, now)

    def finish(self, sequence: OpenSequence) -> None:
        """The request of an iterative sequence is done: its slot is wanted for others."""
        if not sequence.is_ended:
            self._close(sequence)
            self._mark_end(sequence)

    def advance(self, now: float, actions: list[SequenceAction]) -> None:
        """Whatever is due at `now`: deadlines, timeouts in the backlog, sequences gone silent."""
        actions += self.outbox
        self.outbox.clear()
        while (ticket := self._deadlines.pop_due(now)) is not None:
            assert isinstance(ticket, SequenceTicket), "nothing else waits here"
            self._expire(ticket, now, actions)
        while self._idle_at <= now:
            sequence = next(iter(self._by_activity))
            self._close(sequence)
            self._mark_end(sequence)

    def clear_head(self, slot: Slot, now: float, actions: list[SequenceAction]) -> None:
        """Make sure that the head of the slot's queue, if there is one, can be executed."""
        while slot.queue:
            head = slot.queue[0]
            if head is None:
                slot.queue.popleft()
            elif head.is_cancelled:
                if head.sequence is not None:
                    self._close(head.sequence)
                self._refuse_all(
                    [one for one in slot.queue if one is not None],
                    SequenceRefusal.CANCELLED,
                    actions,
                )
                slot.queue.clear()
            else:
                return
            self.release(slot, now, actions)

    def take_head(self, slot: Slot) -> SequenceTicket:
        """The request at the head of the slot's queue leaves, to be executed."""
        ticket = slot.queue.popleft()
        assert ticket is not None, "clear_head comes first"
        self._leave(ticket)
        self.dirty[slot] = None
        return ticket

    def release(self, slot: Slot, now: float, actions: list[SequenceAction]) -> None:
        """The slot's owner is done with it: the first of the backlog gets it."""
        assert not slot.queue, "nothing follows the end of a sequence"
        slot.owner = None
        if slot.instance in self._retired:
            return
        while self._backlog:
            sequence, _ = self._backlog.popitem(last=False)
            if not any(ticket.is_cancelled for ticket in sequence.backlog):
                self._give(slot, sequence, now)
                return
            self._close(sequence)
            self._refuse_all(sequence.backlog, SequenceRefusal.CANCELLED, actions)
        heapq.heappush(self._free, (slot.number, next(self._freed), slot.instance))

    def abandon(self) -> list[SequenceTicket]:
        """Drop everything that waits, and hand it back in order of arrival."""
        tickets = list(self._waiting.values())
        for ticket in tickets:
            self._leave(ticket)
        for row in self.rows.values():
            for slot in row:
                slot.queue.clear()
        self._backlog.clear()
        return tickets

    # --- what is ---------------------------------------------------------------------------------

    @property
    def next_wake(self) -> float:
        return min(self._deadlines.next_at, self._idle_at)

    @property
    def waiting_count(self) -> int:
        """How many requests wait in slots and in the backlog."""
        return len(self._waiting)

    def waiting(self) -> dict[int, Waiting]:
        """The same with the age of the oldest; sequences have no levels."""
        for oldest in self._waiting.values():
            return {0: Waiting(len(self._waiting), oldest.enqueued_at)}
        return {}

    @property
    def _idle_at(self) -> float:
        """When the sequence that has been silent longest has been silent too long."""
        for sequence in self._by_activity:
            return sequence.active_at + self._idle_seconds
        return math.inf

    # --- how -------------------------------------------------------------------------------------

    def _row(self, instance: int) -> list[Slot]:
        return [Slot(instance, number) for number in range(self._slots_per_instance)]

    def _auto_id(self) -> int:
        """An id for a request without one; not one that a client uses at the moment."""
        return next(number for number in self._auto_ids if number not in self._open)

    def _give(self, slot: Slot, sequence: OpenSequence, now: float) -> None:
        """The silence of a sequence counts from here: before, it could not go on."""
        slot.owner = sequence
        sequence.slot = slot
        sequence.active_at = now
        slot.queue.extend(sequence.backlog)
        for ticket in sequence.backlog:
            self._deadlines.forget(ticket)
            ticket.expires_at = math.inf
            self._deadlines.watch(ticket)
        sequence.backlog.clear()
        if not sequence.is_ended:
            self._by_activity[sequence] = None
        self.dirty[slot] = None

    def _queue(self, ticket: SequenceTicket, sequence: OpenSequence, now: float) -> None:
        ticket.sequence = sequence
        ticket.enqueued_at = now
        self._waiting[ticket.id] = ticket
        if sequence.slot is None:
            sequence.backlog.append(ticket)
            if ticket.timeout_seconds > 0:
                ticket.expires_at = now + ticket.timeout_seconds
        else:
            sequence.slot.queue.append(ticket)
            self.dirty[sequence.slot] = None
            sequence.active_at = now
            self._by_activity.move_to_end(sequence)
        self._deadlines.watch(ticket)

    def _close(self, sequence: OpenSequence) -> None:
        """From now on its id belongs to nobody, and can begin another sequence."""
        if not sequence.is_ended:
            sequence.is_ended = True
            del self._open[sequence.id]
            self._by_activity.pop(sequence, None)

    def _mark_end(self, sequence: OpenSequence) -> None:
        """Free the slot once what is queued in it has left."""
        slot = sequence.slot
        assert slot is not None, "only sequences that own a slot end without a request"
        slot.queue.append(None)
        self.dirty[slot] = None

    def _expire(self, ticket: SequenceTicket, now: float, actions: list[SequenceAction]) -> None:
        sequence = ticket.sequence
        assert sequence is not None, "whoever waits belongs to a sequence"
        if ticket.expires_at <= now:
            del self._backlog[sequence]
            self._close(sequence)
            self._refuse_all(sequence.backlog, SequenceRefusal.EXPIRED, actions)
            return
        actions.append(RefuseRequest(ticket, SequenceRefusal.DEADLINE))
        del self._waiting[ticket.id]
        ticket.is_answered = ticket.is_cancelled = True
        ticket.deadline_at = math.inf
        self._deadlines.watch(ticket)  # its sequence may still expire
        if sequence.slot is not None:
            self.dirty[sequence.slot] = None

    def _refuse_all(
        self,
        tickets: Iterable[SequenceTicket],
        cause: SequenceRefusal,
        actions: list[SequenceAction],
    ) -> None:
        for ticket in tickets:
            self._leave(ticket)
            if not ticket.is_answered:
                actions.append(RefuseRequest(ticket, cause))

    def _leave(self, ticket: SequenceTicket) -> None:
        self._waiting.pop(ticket.id, None)  # gone already if it has been answered
        self._deadlines.forget(ticket)
        ticket.expires_at = math.inf
