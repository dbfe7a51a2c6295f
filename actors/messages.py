"""Every message one actor sends another, grouped by receiver.

Commands are imperatives, facts are past participles, questions start with `Get` and carry the door
their answer goes to. Sending a message gives it away. Those that are made for every request or
every batch are named tuples, which cost less than half of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from actors.channels import Door
from actors.metrics.counters import VersionCounters
from actors.policy.tracing import Close, Collection
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError
from protocol.tracing import TraceGroup
from repo.backends.base import Timings
from repo.instance_groups import InstanceSpec

if TYPE_CHECKING:
    from actors.street.instance import Instance  # which itself needs the messages above

# --- to a frontend -------------------------------------------------------------------------------


class Reply(NamedTuple):
    """One response to the request `number`, or its error, or only the news that none follows."""

    number: int
    outcome: InferResponse | ServerError | None
    final: bool
    timings: Timings | None = None  # with the final one: of the execution, for an ensemble's sums


# --- to whoever accepts requests: Scheduler, SequenceBatcher, Ensemble ---------------------------


class Submit(NamedTuple):
    """Run this admitted request and answer at `reply`, exactly one final reply."""

    number: int  # unique in this process; names the request in replies and cancellations
    request: InferRequest
    batch_size: int  # leading dimension; 0 for a model without batching
    shape_key: Hashable  # requests share a batch only when these are equal
    level: int  # priority level, already normalised for the model
    deadline_at: float  # the caller's own deadline, math.inf when there is none
    submitted_at: float
    reply: Door[Reply]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Nobody waits for request `number` any longer: free its place, stop it if it runs."""

    number: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept nothing more, finish what is queued, then stop the instances and end."""


@dataclass(frozen=True, slots=True, eq=False)
class AddInstance:
    """Instance `index` begins: it takes what is sent to `execute`, once it grants."""

    index: int
    instance: Instance
    execute: Door[Execute | Drain]
    is_passive: bool  # it is loaded, and never executes


@dataclass(frozen=True, slots=True)
class RetireInstance:
    """Give instance `index` no more work, and let it end when it has done what it has."""

    index: int


@dataclass(frozen=True, slots=True)
class ForgetInstance:
    """Instance `index` has ended, and with it the room that its grants could take."""

    index: int
    grants: int


Control = CancelRequest | Drain | AddInstance | RetireInstance | ForgetInstance


class Grant(NamedTuple):
    """Instance `instance` can take one more execution."""

    instance: int


class Released(NamedTuple):
    """A request of a sequence has had its final response, or is to be executed again."""

    number: int
    rescheduled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Reserve:
    """These requests are about to be executed: let their responses leave in this order."""

    callers: Sequence[tuple[int, Door[Reply]]]


# --- to RateLimiter ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RegisterInstances:
    """These instances will execute; the answer is None or why not.

    The limiter numbers all models' instances, a model calls its own ones by an index.
    """

    group: Hashable
    instances: Sequence[tuple[int, int, InstanceSpec]]  # its number, and the model's own index
    grants: Door[Grant]
    reply: trio.MemorySendChannel[ServerError | None]


@dataclass(frozen=True, slots=True)
class UnregisterInstances:
    """These instances have ended, or, unless `at_once`, end with what they have been granted."""

    instances: Sequence[int]
    at_once: bool = True


@dataclass(frozen=True, slots=True)
class RequestGrants:
    """The model could use `count` further executions."""

    group: Hashable
    count: int


@dataclass(frozen=True, slots=True)
class RequestExecution:
    """This very instance could be used for one more execution."""

    instance: int


@dataclass(frozen=True, slots=True)
class ReleaseGrant:
    """The instance has executed, or its grant was not needed after all."""

    instance: int
    executed: bool


@dataclass(frozen=True, slots=True)
class LendResources:
    """The instance waits for another model, and needs nothing meanwhile."""

    instance: int


@dataclass(frozen=True, slots=True)
class TakeBackResources:
    """The instance goes on."""

    instance: int


LimiterMessage = (
    RegisterInstances
    | UnregisterInstances
    | RequestGrants
    | RequestExecution
    | ReleaseGrant
    | LendResources
    | TakeBackResources
)


# --- to an instance ------------------------------------------------------------------------------


class Slots(NamedTuple):
    """Where requests of sequences belong; each is the next one of the sequence in its slot.

    With `padding` a request stands at the place of its slot, and `padding` at every other one of
    the `batch_size` places. Without it there are as many places as requests.
    """

    numbers: Sequence[int]  # one per request
    beginning: frozenset[int]  # the slots that have a new owner
    padding: InferRequest | None


class Execute(NamedTuple):
    """Run these requests together; `batch_size` is the sum of their leading dimensions."""

    submits: Sequence[Submit]
    batch_size: int
    closed_by: str  # why the batch was closed here: full, delay, preferred, shape, …
    slots: Slots | None = None  # if they are requests of sequences


# --- to Statistics -------------------------------------------------------------------------------

VersionKey = tuple[str, int]
"""Model name and version."""


class BatchExecuted(NamedTuple):
    """One execution ended. The two lists hold one entry, in seconds, per successful request."""

    key: VersionKey
    batch_size: int  # padding included
    inference_count: int  # of the successful requests
    queue_seconds: Sequence[float]
    total_seconds: Sequence[float]
    timings: Timings
    failed_seconds: Sequence[float]  # one entry per failed request
    # One entry per request that had its first response now; None if all of them had.
    first_response_seconds: Sequence[float] | None = None
    cancelled: int = 0  # how many of the failed requests their model answered as cancelled
    by_backend: bool = True  # False: an ensemble, whose responses are made by others


class Responded(NamedTuple):
    """A request whose responses come on their own is about to have one of them, at `place`, from 0.

    `kind` is success, fail, cancel, or empty_response for the news that none follows.
    """

    key: VersionKey
    place: int
    kind: str
    seconds: float  # since its execution began, or since the response before
    first_seconds: float | None  # of the first one: since the request came


@dataclass(frozen=True, slots=True, eq=False)
class RequestsRefused:
    """Queued requests ended without being executed. `reason` is REJECTED, CANCELED or OTHER."""

    key: VersionKey
    reason: str
    total_seconds: Sequence[float]  # one entry per request


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A request was answered without an execution. Durations are seconds."""

    key: VersionKey
    queue_seconds: float  # until it was looked up, or answered together with another one
    lookup_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class CacheMissed:
    """A request was executed because nobody had asked before; `seconds` is what that cost extra."""

    key: VersionKey
    seconds: float


@dataclass(frozen=True, slots=True)
class VersionLoaded:
    """Start counting for this version, from zero."""

    key: VersionKey
    load_seconds: float
    first_response_buckets: Sequence[float] | None = None  # ms, ascending; None: the usual ones


@dataclass(frozen=True, slots=True)
class VersionUnloaded:
    """Forget this version."""

    key: VersionKey


@dataclass(frozen=True, slots=True, eq=False)
class GetStatistics:
    """Answer with a snapshot of every version's counters."""

    reply: trio.MemorySendChannel[Mapping[VersionKey, VersionCounters]]


Fact = (
    BatchExecuted
    | Responded
    | RequestsRefused
    | CacheHit
    | CacheMissed
    | VersionLoaded
    | VersionUnloaded
    | GetStatistics
)


# --- to the console's observer -------------------------------------------------------------------


class LongestStep(NamedTuple):
    """The step of an ensemble's request that took longest, from its submission to its reply."""

    seconds: float
    model: str  # "" without any step


@dataclass(frozen=True, slots=True)
class SlowRequest:
    """A request that took long has had its answer. Instants are those of the server's clock."""

    key: VersionKey
    request_id: str
    submitted_at: float
    started_at: float  # of its execution; of an ensemble, when its first step was begun
    finished_at: float
    input_ns: int
    infer_ns: int
    output_ns: int
    instance: str  # "" for an ensemble
    batch_size: int
    request_count: int
    closed_by: str  # as in Execute, or "ensemble"
    error: str  # "" for one that succeeded
    longest: LongestStep  # of an ensemble


# --- to Tracer -----------------------------------------------------------------------------------


class TraceEnded(NamedTuple):
    """Everything has been noted of one traced inference; it belongs to the receiver now."""

    collection: Collection
    group: TraceGroup


TracerMessage = TraceEnded | Close


# --- to ModelRepository --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LoadModel:
    """Load or reload `name`; the answer is None or why it failed."""

    name: str
    parameters: Mapping[str, str | bytes]
    reply: trio.MemorySendChannel[ServerError | None]
    by_model: bool = False  # a model asks, which may be loading itself


@dataclass(frozen=True, slots=True, eq=False)
class RegisterRepository:
    """Look for models in one more place; `mapping` is model name → directory there."""

    location: str
    mapping: Mapping[str, str]
    reply: trio.MemorySendChannel[ServerError | None]


@dataclass(frozen=True, slots=True, eq=False)
class UnregisterRepository:
    """Look for models there no longer; those that are loaded go on."""

    location: str
    reply: trio.MemorySendChannel[ServerError | None]


@dataclass(frozen=True, slots=True, eq=False)
class RefreshIndex:
    """Note which models stand in the repositories now; the answer is None or why that failed."""

    reply: trio.MemorySendChannel[ServerError | None]


@dataclass(frozen=True, slots=True, eq=False)
class UnloadModel:
    """Unload `name`; the answer is None or why it failed."""

    name: str
    unload_dependents: bool
    reply: trio.MemorySendChannel[ServerError | None]


RepositoryCommand = (
    LoadModel | UnloadModel | RegisterRepository | UnregisterRepository | RefreshIndex
)
