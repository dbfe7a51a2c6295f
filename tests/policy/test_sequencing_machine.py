"""Both strategies under any interleaving of starts, ends, cancellations, silences and releases.

The machine knows only what an actor and a model can see. Times are multiples of a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.policy.sequencing import (
    DispatchSlots,
    RefuseRequest,
    SequencePolicy,
    SequenceRefusal,
    SequenceTicket,
    sequence_policy,
)
from protocol.inference import SequenceFlag
from repo.model_config import SequenceSettings

S, E = SequenceFlag.START, SequenceFlag.END
INSTANCES = 2
quarters = st.integers(1, 12).map(lambda count: count / 4)


@dataclass(eq=False)
class Told:
    """One sequence as its client sees it: its requests in the order in which they were let in."""

    id: int | str
    place: tuple[int, int] | None = None  # instance and slot, once a request was dispatched
    sent: list[int] = field(default_factory=list)
    dispatched: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    has_begun: bool = False
    unfinished: int = 0  # dispatched and not released
    last: int | None = None  # of its requests, the one that ends it


@st.composite
def sequence_settings(draw: st.DrawFn) -> SequenceSettings:
    strategies: tuple[Literal["direct", "oldest"], ...] = ("direct", "oldest")
    strategy = draw(st.sampled_from(strategies))
    max_batch = draw(st.sampled_from((1, 2, 3)))
    slots = draw(st.sampled_from((1, 2, 3))) if strategy == "oldest" else max_batch
    return SequenceSettings(
        max_batch_size=max_batch,
        strategy=strategy,
        slots_per_instance=slots,
        max_sequence_idle_seconds=draw(st.sampled_from((1.0, 4.0, 1000.0))),
        max_queue_delay_seconds=draw(st.sampled_from((0.0, 0.5))),
        minimum_slot_utilization=draw(st.sampled_from((0.0, 0.5, 1.0))),
        preferred_batch_sizes=(max_batch,),
        iterative=draw(st.sampled_from((False, False, True))),
    )


class Sequences(RuleBasedStateMachine):
    @initialize(chosen=sequence_settings())
    def begin(self, chosen: SequenceSettings) -> None:
        self.settings = chosen
        self.policy: SequencePolicy = sequence_policy(chosen, range(INSTANCES))
        self.now = 0.0
        self.count = 0
        self.open: dict[int | str, Told] = {}  # by id, as far as clients know
        self.of: dict[int, Told] = {}
        self.flags: dict[int, SequenceFlag] = {}
        self.unanswered: set[int] = set()
        self.executing: dict[int, tuple[int, ...]] = {}  # by instance: a batch and its requests
        self.again: set[int] = set()  # iterative: those that have come back at least once
        self.draining = False
        self.owners: dict[tuple[int, int], Told] = {}
        self.gone: list[Told] = []
        self.tickets: dict[int, SequenceTicket] = {}
        for instance in range(INSTANCES):
            self.policy.grant(instance)

    # --- what happens ----------------------------------------------------------------------------

    @rule(
        id=st.sampled_from((1, 2, 3, 4, 5, "1", "2")),
        starts=st.booleans(),
        ends=st.sampled_from((False, False, True)),
        shape=st.sampled_from((0, 0, 0, 1)),
        timeout=st.sampled_from((0.0, 0.0, 0.75, 2.0)),
        patience=st.sampled_from((0.0, 0.0, 0.5, 2.0)),
    )
    def ask(
        self,
        id: int | str,  # noqa: A002  # the protocol's word
        *,
        starts: bool,
        ends: bool,
        shape: int,
        timeout: float,
        patience: float,
    ) -> None:
        number = self.count = self.count + 1
        flags = (S if starts else SequenceFlag.NONE) | (E if ends else SequenceFlag.NONE)
        ticket = SequenceTicket(
            number, 0, 1, shape, number, timeout_seconds=timeout, correlation_id=id, flags=flags
        )
        if patience:
            ticket.deadline_at = self.now + patience
        refused = self.policy.submit(ticket, self.now)
        if refused is not None:
            # Clients do not learn at once that a sequence was given up, so only this is certain:
            assert refused.cause in {SequenceRefusal.NOT_STARTED, SequenceRefusal.STOPPING}
            assert (refused.cause is SequenceRefusal.STOPPING) == (starts and self.draining)
            if refused.cause is SequenceRefusal.NOT_STARTED:
                self.open.pop(id, None)
            return
        told = self.open.get(id)
        # With a START it may be the sequence that clients know, or, if that was given up, another.
        if told is None or ticket.sequence is not self.sequence_of(told):
            assert starts
            told = self.open[id] = Told(id)
        told.sent.append(number)
        self.of[number] = told
        self.flags[number] = flags
        self.unanswered.add(number)
        self.tickets[number] = ticket
        if ends:
            told.last = number
            del self.open[id]
        self.step()

    def sequence_of(self, told: Told) -> object:
        return self.tickets[told.sent[0]].sequence

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.unanswered)))
        here = self.policy.cancel(number, self.now)
        executing = any(number in batch for batch in self.executing.values())
        assert not (here and executing)
        self.step()

    @precondition(lambda self: self.executing)
    @rule(data=st.data(), again=st.booleans())
    def execution_ends(self, data: st.DataObject, *, again: bool) -> None:
        instance = data.draw(st.sampled_from(sorted(self.executing)))
        for number in self.executing.pop(instance):
            told = self.of[number]
            told.unfinished -= 1
            comes_back = again and self.settings.iterative
            if comes_back:
                self.again.add(number)
                self.unanswered.add(number)
            self.policy.released(number, self.now, rescheduled=comes_back)
        self.policy.grant(instance)
        self.step()

    @rule(pause=quarters)
    def time_passes(self, pause: float) -> None:
        until = self.now + pause
        while self.policy.next_wake <= until:
            assert self.policy.next_wake > self.now, "what is due has been done"
            self.now = self.policy.next_wake
            self.step()
        self.now = until
        self.step()

    @precondition(lambda self: not self.draining)
    @rule(chance=st.sampled_from((False, False, False, False, True)))
    def drain(self, *, chance: bool) -> None:
        if chance:
            self.draining = True
            self.policy.drain()
            self.step()

    # --- what must hold --------------------------------------------------------------------------

    def step(self) -> None:
        for action in self.policy.step(self.now):
            match action:
                case DispatchSlots():
                    self.dispatched(action)
                case RefuseRequest(ticket, cause):
                    self.refused(ticket.id, cause)
                case _:
                    pass
        assert not self.policy.step(self.now), "one step does everything"

    def dispatched(self, action: DispatchSlots) -> None:
        assert action.instance not in self.executing, "an instance runs one batch at a time"
        assert len({ticket.shape_key for _, ticket, _ in action.places}) == 1
        slots = [place.slot for place in action.places]
        assert len(set(slots)) == len(slots), "a slot has one request in a batch"
        if self.settings.strategy == "direct":
            assert slots == sorted(slots)
            assert slots[-1] < action.size <= self.settings.max_batch_size
        else:
            assert action.size == len(slots) <= self.settings.max_batch_size
        for slot, ticket, begins in action.places:
            told = self.of[ticket.id]
            assert told.place in {None, (action.instance, slot)}, "a sequence never moves"
            told.place = (action.instance, slot)
            assert begins == (not told.has_begun), "a slot's memory is wiped once for each owner"
            told.has_begun = True
            before = self.owners.get(told.place)
            if before is not None and before is not told:
                self.gone.append(before)
            self.owners[told.place] = told
            assert told not in self.gone, "a slot that was given on does not come back"
            # Only a request inside the oldest's batcher is cancelled without its sequence.
            assert not begins or S in self.flags[ticket.id] or self.settings.strategy == "oldest"
            self.unanswered.remove(ticket.id)
            if ticket.id not in self.again:
                told.dispatched.append(ticket.id)
            if not self.settings.iterative:
                assert told.unfinished == 0, "one request of a sequence at a time"
                sent = [number for number in told.sent if number not in told.refused]
                assert sent[: len(told.dispatched)] == told.dispatched, "in order"
            told.unfinished += 1
        self.executing[action.instance] = tuple(ticket.id for _, ticket, _ in action.places)

    def refused(self, number: int, cause: SequenceRefusal) -> None:
        assert number in self.unanswered, "a request is answered once"
        self.unanswered.remove(number)
        self.of[number].refused.append(number)
        if cause is SequenceRefusal.EXPIRED:
            assert self.of[number].place is None, "only who has no slot can lose patience"

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.policy.pending == len(self.unanswered)

    def teardown(self) -> None:
        """Whatever was let in is served or refused, once instances and time go on."""
        if not hasattr(self, "policy"):
            return
        for _ in range(10 * self.count + 20):
            for instance in list(self.executing):
                for number in self.executing.pop(instance):
                    self.of[number].unfinished -= 1
                    self.policy.released(number, self.now, rescheduled=False)
                self.policy.grant(instance)
            self.now = min(self.policy.next_wake, self.now + 10_000)
            self.step()
            if not self.unanswered and not self.executing:
                break
        assert not self.unanswered, "everybody is served or refused"
        assert self.policy.is_idle
        assert self.policy.pending == 0


Sequences.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSequences = Sequences.TestCase
