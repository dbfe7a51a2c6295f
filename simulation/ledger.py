"""What was asked, what ran and what was answered in a simulated run, for checkers to compare.

The simulated clients and executors write it; `simulation/checkers.py` reads it once the run is
over. It sees the street only at its two ends, so it knows nothing that a client or a device could
not know. Its order numbers are those of the events themselves, finer than virtual time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import trio

from actors.metrics.counters import VersionCounters
from protocol.status import ServerError
from repo.instance_groups import InstanceSpec
from repo.model_config import BatchingSettings, QueuePolicySettings, SequenceSettings


class Answer(NamedTuple):
    """One reply, at the instant at which it was put into its caller's door."""

    at: float
    order: int
    error: ServerError | None
    final: bool
    is_empty: bool  # no response, only the news that none follows


@dataclass(slots=True, eq=False)
class Life:
    """One model version between load and unload, and what its configuration promises."""

    model: str
    generation: int
    batching: BatchingSettings
    is_dynamic: bool
    is_decoupled: bool
    is_cached: bool
    kept: object = (
        None  # of its configuration and files: an update that leaves it alone goes on here
    )
    instances: list[InstanceSpec] = field(default_factory=list)  # all that there ever were
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)  # from load to end, by name
    sequences: SequenceSettings | None = None
    ensemble_limit: int | None = None  # of an ensemble: `max_inflight_requests`
    told_to_end_at: float = math.inf  # drained, unloaded, replaced or crashed

    @property
    def has_sequences(self) -> bool:
        return self.sequences is not None

    @property
    def is_iterative(self) -> bool:
        return self.sequences is not None and self.sequences.iterative

    @property
    def is_ensemble(self) -> bool:
        return self.ensemble_limit is not None

    def end_now(self) -> None:
        """The version is told to end, or crashes."""
        self.told_to_end_at = min(self.told_to_end_at, trio.current_time())

    def admit(self, spec: InstanceSpec) -> str:
        """One more instance; no two in the life of a version have the same name here."""
        same = sum(other.name.partition("#")[0] == spec.name for other in self.instances)
        name = f"{spec.name}#{same + 1}" if same else spec.name
        self.instances.append(replace(spec, name=name))
        return name

    def policy_of(self, level: int) -> QueuePolicySettings:
        """The queue policy of a level; the default scheduler has none."""
        return self.batching.policy_of(level) if self.is_dynamic else QueuePolicySettings()


@dataclass(slots=True, eq=False)
class Ran:
    """One execution, from the instant at which its instance was given the batch."""

    life: Life
    instance: str
    names: tuple[str, ...]
    batch_size: int
    at: float
    order: int
    places: tuple[int, ...] = ()  # where in the batch each request stands, padding between them
    began_at: float = math.inf  # later than `at` where a worker was still busy
    ended_at: float = math.inf
    ended_order: float = math.inf  # an order number, as `order` is
    done_at: dict[str, float] = field(default_factory=dict)  # final responses before the end
    is_warmup: bool = False
    failed: frozenset[str] = frozenset()  # the requests that it answered with an error
    failures: int = 0
    came_back: int = 0  # requests of iterative sequences that want to run again


@dataclass(slots=True, eq=False)
class Asked:
    """One request and everything that became of it."""

    name: str  # its request id
    client: str
    model: str
    at: float
    order: int  # among everything that happened; requests of one door keep it
    number: int = 0  # the server's number of it
    level: int = 0
    batch: int = 1
    shape_key: Hashable = None
    timeout_seconds: float = 0.0
    deadline_at: float = math.inf
    life: Life | None = None  # None: refused before it was submitted
    answers: list[Answer] = field(default_factory=list)
    cancelled_at: float = math.inf
    ran: Ran | None = None
    problem: str = ""  # what its client found wrong with a response
    sequence: int | str = 0  # to which it belongs; 0 is none
    tag: int = 0  # what it adds to the state of its sequence
    turns: int = 1  # how often an iterative model wants to see it
    heard: list[dict[str, int]] = field(default_factory=list)  # numbers in its responses
    expected: list[dict[str, int]] | None = None  # in those that an ensemble ought to give

    @property
    def final(self) -> Answer | None:
        return next((answer for answer in self.answers if answer.final), None)

    @property
    def error(self) -> ServerError | None:
        """Why it failed."""
        return next((answer.error for answer in self.answers if answer.error is not None), None)

    @property
    def left_at(self) -> float:
        """When it stopped waiting: dispatched or answered."""
        if self.ran is not None:
            return self.ran.at
        return math.inf if self.final is None else self.final.at

    @property
    def expires_at(self) -> float:
        """When the timeout of its queue policy strikes; infinity without one."""
        assert self.life is not None
        policy = self.life.policy_of(self.level)
        timeout = policy.default_timeout_seconds
        if policy.allow_timeout_override and 0 < self.timeout_seconds < timeout:
            timeout = self.timeout_seconds
        return self.at + timeout if timeout else math.inf


class Ledger:
    """Everything that can be held against the promises, in order."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.ran: list[Ran] = []
        self.lives: list[Life] = []
        self.leaps: list[tuple[float, float]] = []  # the clock went from … to … at once
        self.counters: Mapping[tuple[str, int], VersionCounters] = {}
        self.pending: dict[str, int] = {}  # by model, when every request had been answered
        self.callers: dict[str, str] = {}  # by model: the only one that asks it
        self.is_limited = False  # by the rate limiter
        self.declared: dict[str, int] = {}  # what there is of a resource, by the command line
        self.outsiders = 0  # requests that no simulated client made, of which little is known
        self.leftovers: list[str] = []  # what was still open when all actors had ended
        self.logged: list[str] = []  # records at ERROR and above that nobody expected
        self.problems: list[str] = []  # what was wrong on the spot
        self._order = itertools.count(1)

    def next_order(self) -> int:
        return next(self._order)

    def ask(self, asked: Asked) -> None:
        assert asked.name not in self.asked, "every simulated request has a name of its own"
        self.asked[asked.name] = asked

    def answer(self, name: str, error: ServerError | None, *, final: bool, is_empty: bool) -> None:
        """A reply reaches its caller's door, open or closed."""
        order = self.next_order()
        self.asked[name].answers.append(Answer(trio.current_time(), order, error, final, is_empty))

    def run(self, ran: Ran) -> None:
        """An instance is given a batch."""
        self.ran.append(ran)
        for name in ran.names:
            asked = self.asked.get(name)
            if asked is None:
                self.outsiders += 1
                continue
            if asked.ran is not None and not ran.life.is_iterative:
                self.problems.append(f"{name} was executed twice")
            asked.ran = ran

    def names_in(self, life: Life, names: Iterable[str]) -> tuple[str, ...]:
        """How requests are called in a version: steps of an ensemble have their request's id."""
        return tuple(
            f"{name} in {life.model}" if self._is_of_another(name, life) else name for name in names
        )

    def _is_of_another(self, name: str, life: Life) -> bool:
        asked = self.asked.get(name)
        return asked is not None and asked.model != life.model

    def is_busy(self) -> bool:
        """Whether anything is being executed."""
        return any(ran.ended_at == math.inf for ran in self.ran)

    def life_of(self, model: str) -> Life:
        """The version of a model that was loaded last."""
        return next(life for life in reversed(self.lives) if life.model == model)

    def due(self, instant: float) -> float:
        """When something due at `instant` could happen first: the clock may leap over it."""
        for before, after in self.leaps:
            if before < instant < after:
                return after
        return instant
