"""The map of one model version: its channels with their capacities, and its actors.

Submit doors → Scheduler → Execute doors → Instances → (OrderedReplies) → callers
Grants flow back from the instances, straight or through the server's RateLimiter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from actors.channels import Door, Mailbox
from actors.companions.rate_limiter import LimiterSeat
from actors.companions.resequencer import OrderedReplies, OrderingSeat
from actors.companions.response_cache import ResponseCacheActor
from actors.ensembles.ensemble import Ensemble
from actors.lifecycle.crew import Crew, Recruit
from actors.lifecycle.model_index import ServingVersion
from actors.lifecycle.model_version import VersionActors
from actors.mailboxes import MailboxRegister
from actors.messages import (
    Control,
    Drain,
    Execute,
    Fact,
    Grant,
    LimiterMessage,
    Reply,
    Reserve,
    Submit,
    VersionKey,
)
from actors.metrics.slow_requests import SlowRequests, SlowTeller
from actors.policy.actions import SchedulingPolicy
from actors.policy.batching import DefaultScheduler, DynamicBatcher, may_prefetch
from actors.policy.lead import LEAST, Lead
from actors.processes.lending import InstanceServices, LendingModels, Loan
from actors.sequences.batcher import SequenceBatcher
from actors.street.calls import Calls
from actors.street.executor import Executor
from actors.street.grants import DirectGrants, LimitedGrants
from actors.street.instance import GrantsOut, Instance
from actors.street.scheduler import Scheduler
from actors.street.strategy import ModelStrategy
from repo.backends.base import InstanceContext
from repo.batch_strategy import load_strategy
from repo.host_policy import HostPolicies
from repo.instance_groups import InstanceSpec
from repo.model_config import (
    BatchingSettings,
    ModelConfig,
    batching_settings,
    is_decoupled,
    scheduling_choice,
)
from repo.preparation import ModelDescription
from repo.request_rules import RequestRules
from repo.warmup import warmup_samples

# A burst of one poll of the event loop; a caller that finds it full waits, which is the
# back-pressure, and the scheduler empties it in its next turn.
SUBMIT_DOOR: Final = 64
# Requests one priority level may queue when its policy sets no limit. Beyond it the scheduler
# stops draining the door. Only there so that memory has a bound: a queued request is its tensors.
QUEUE_CEILING: Final = 65_536
# Each request is cancelled at most once, and requests are bounded above; an order to drain is one.
CONTROL_DOOR: Final = 2**20
# A model may declare any number of levels; those beyond the last door share it.
MAX_LEVEL_DOORS: Final = 64
# Replies on their way through a model's order; the final ones are owed and always fit.
ORDERED_REPLIES_DOOR: Final = 64

MakeExecutor = Callable[[InstanceContext, InstanceServices], Executor]


@dataclass(frozen=True, slots=True, eq=False)
class VersionPorts:
    """What every version's actors share with the rest of the server."""

    make_executor: MakeExecutor
    facts: Door[Fact]
    limiter: Door[LimiterMessage] | None  # None: --rate-limit=off
    limiter_numbers: Iterator[int]
    cache: ResponseCacheActor | None
    host_policies: HostPolicies
    calls: Calls  # for those that pass work on: ensembles
    services: InstanceServices
    mailboxes: MailboxRegister
    slow: SlowRequests | None  # None: there is no console

    def slow_teller(self, key: VersionKey) -> SlowTeller | None:
        return None if self.slow is None else self.slow.teller(key)


def wire_version(
    description: ModelDescription,
    version: int,
    *,
    ports: VersionPorts,
    settings: Mapping[str, str],
) -> VersionActors:
    """One scheduler and its instances. Raises ServerError where the model's own code fails."""
    config, key = description.config, (description.name, version)
    batching = batching_settings(config)
    dynamic = scheduling_choice(config) == "dynamic_batching"
    strategy = _strategy(description, version) if dynamic else None
    ahead = dynamic and ports.limiter is None and may_prefetch(batching)
    policy = _policy(batching, dynamic, strategy, on_demand=ports.limiter is not None, ahead=ahead)
    mailbox = ports.mailboxes.open("scheduler", key)
    control: Door[Control] = mailbox.door(CONTROL_DOOR)
    doors = submit_doors(mailbox, batching.priority_levels)
    seat = seat_of(ports, key)
    grants: Door[Grant] = mailbox.door(1)  # the crew makes it as wide as it has to be
    ordering = ordering_wiring(ports, key, batching.preserve_ordering)
    executors = partial(executor_of, version=version, settings=settings, ports=ports, seat=seat)

    def recruit(description: ModelDescription, spec: InstanceSpec, index: int) -> Recruit:
        executor = executors(description, spec, index)
        is_only = len(description.instances) == 1
        limited = seat is not None or (dynamic and not ahead)
        at_once = _executions_at_once(executor, dynamic, is_limited=limited, is_only=is_only)
        own, execute = execute_door(ports, key, at_once)
        if ordering is not None:
            ordering.make_room(at_once)
        instance = Instance(
            index=index,
            name=spec.name,
            key=key,
            executor=executor,
            mailbox=own,
            execute=execute,
            grants=grants_out(seat, grants, spec, at_once),
            statistics=ports.facts,
            warmup=() if spec.passive else warmup_samples(config, description.directory),
            slow=ports.slow_teller(key),
        )
        return Recruit(spec, instance, execute, at_once)

    crew = Crew(description, recruiter=recruit, control=control, grants=grants, seat=seat)
    scheduler = Scheduler(
        key=key,
        policy=policy,
        mailbox=mailbox,
        control=control,
        grants=grants,
        doors=doors,
        instances=crew.instances,
        execute=crew.execute,
        statistics=ports.facts,
        levels=batching.priority_levels,
        ceiling=QUEUE_CEILING,
        ordering=ordering.seat if ordering else None,
        limiter=seat,
        slow=ports.slow_teller(key),
    )
    front = open_front(ports.cache, description, key, doors, control)
    return VersionActors(
        serving=serving_version(description, version, front, scheduler, crew.instances),
        scheduler=scheduler,
        crew=crew,
        control=control,
        ordering=ordering.actor if ordering else None,
        closers=[*own_mailboxes(mailbox, ordering), *front.closers, *_strategies(strategy)],
    )


def _policy(
    batching: BatchingSettings,
    dynamic: bool,
    strategy: ModelStrategy | None,
    *,
    on_demand: bool,
    ahead: bool,
) -> SchedulingPolicy:
    if not dynamic:
        return DefaultScheduler()
    return DynamicBatcher(batching, strategy=strategy, on_demand=on_demand, ahead=ahead)


def submit_doors(mailbox: Mailbox, priority_levels: int) -> list[Door[Submit]]:
    count = min(max(1, priority_levels), MAX_LEVEL_DOORS)
    return [mailbox.door(SUBMIT_DOOR) for _ in range(count)]


def execute_door(
    ports: VersionPorts, key: VersionKey, at_once: int
) -> tuple[Mailbox, Door[Execute | Drain]]:
    """The mailbox and the only door of an instance: a place per grant, and one for `Drain`."""
    mailbox = ports.mailboxes.open("instance", key)
    return mailbox, mailbox.door(at_once + 1)


def serving_version(
    description: ModelDescription,
    version: int,
    front: Front,
    scheduler: Scheduler | SequenceBatcher | Ensemble,
    instances: Sequence[Instance],
) -> ServingVersion:
    """What frontends see of the version."""
    config = description.config
    batching = batching_settings(config)
    return ServingVersion(
        name=description.name,
        version=version,
        config=config,
        config_json=description.config_json,
        rules=RequestRules.compile(config),
        doors=front.doors,
        control=front.control,
        instances=instances,
        decoupled=is_decoupled(config),
        priority_levels=batching.priority_levels,
        default_level=batching.default_priority_level,
        pending=lambda: scheduler.pending() + sum(one.ahead for one in instances),
        waiting=scheduler.waiting,
        labels=description.labels,
        takes_device_tensors=_takes_device_tensors(config, instances),
    )


def _takes_device_tensors(config: ModelConfig, instances: Sequence[Instance]) -> bool:
    """Whether requests may bring tensors on devices; a cache would read their bytes."""
    if not instances or config.response_cache.enable:
        return False
    return all(instance.on_device for instance in instances)


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """The way in: the scheduler's (or the ensemble's) own doors, or those of the cache before."""

    doors: Sequence[Door[Submit]]
    control: Door[Control]
    closers: Sequence[Callable[[], None]] = ()


def open_front(
    cache: ResponseCacheActor | None,
    description: ModelDescription,
    key: VersionKey,
    doors: Sequence[Door[Submit]],
    control: Door[Control],
) -> Front:
    if cache is None or not description.config.response_cache.enable:
        return Front(doors, control)
    version = cache.open(key, doors, control, capacity=SUBMIT_DOOR, control_capacity=CONTROL_DOOR)
    return Front(version.doors, version.control, (partial(cache.close, version),))


class OrderingWiring:
    """The channels of `preserve_ordering`."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._slots: Door[Reserve] = mailbox.door(1)
        replies: Door[Reply] = mailbox.door(ORDERED_REPLIES_DOOR)
        self.seat = OrderingSeat(self._slots, replies)
        self.actor = OrderedReplies(mailbox=mailbox, slots=self._slots, replies=replies)

    def make_room(self, batches: int) -> None:
        """So many more batches may be under way at once.

        A batch's reservation may still lie here when its successor's comes. An instance that ends
        leaves its room behind: what lies here is bounded by the grants.
        """
        self._slots.capacity += 2 * batches


def ordering_wiring(ports: VersionPorts, key: VersionKey, preserves: bool) -> OrderingWiring | None:
    """Nothing for a model that lets its responses leave as they come."""
    return OrderingWiring(ports.mailboxes.open("ordering", key)) if preserves else None


def own_mailboxes(own: Mailbox, ordering: OrderingWiring | None) -> list[Callable[[], None]]:
    """Actors close their mailboxes themselves, unless the load failed before they ran."""
    return [own.close, ordering.mailbox.close] if ordering else [own.close]


def _strategies(strategy: ModelStrategy | None) -> list[Callable[[], None]]:
    return [strategy.close] if strategy else []


def _strategy(description: ModelDescription, version: int) -> ModelStrategy | None:
    functions = load_strategy(
        description.config, description.config_json, description.directory, version
    )
    return None if functions is None else ModelStrategy(functions)


def seat_of(ports: VersionPorts, key: tuple[str, int]) -> LimiterSeat | None:
    if ports.limiter is None:
        return None
    # A version that is reloaded has two generations for a while: the group is this very one.
    return LimiterSeat((*key, next(ports.limiter_numbers)), ports.limiter, ports.limiter_numbers)


def executor_of(
    description: ModelDescription,
    spec: InstanceSpec,
    index: int,
    *,
    version: int,
    settings: Mapping[str, str],
    ports: VersionPorts,
    seat: LimiterSeat | None,
) -> Executor:
    """What runs one instance, with what the server does for it."""
    return ports.make_executor(
        _context(description, version, spec, settings, ports), _services(ports, seat, index)
    )


def _services(ports: VersionPorts, seat: LimiterSeat | None, index: int) -> InstanceServices:
    if seat is None:
        return ports.services
    models = LendingModels(ports.services.models, Loan(seat, index))
    return replace(ports.services, models=models)


def _context(
    description: ModelDescription,
    version: int,
    spec: InstanceSpec,
    settings: Mapping[str, str],
    ports: VersionPorts,
) -> InstanceContext:
    return InstanceContext(
        config=description.config,
        version=version,
        model_directory=description.directory,
        instance_name=spec.name,
        kind=spec.kind,
        device_id=spec.device_id,
        settings=settings,
        cores=ports.host_policies.cores_of(spec.host_policy),
    )


def grants_out(
    seat: LimiterSeat | None, grants: Door[Grant], spec: InstanceSpec, at_once: int
) -> GrantsOut:
    """Where an instance says what it can take. A passive one is loaded and never executes."""
    if seat is not None:
        return LimitedGrants(seat)
    return DirectGrants(grants, None if spec.passive else Lead(at_once))


def _executions_at_once(
    executor: Executor, dynamic: bool, *, is_limited: bool, is_only: bool
) -> int:
    """How many batches an instance may hold; `Lead` says how many it does at the moment.

    More than one keeps a worker busy between executions. But they are formed early: of a dynamic
    batcher an instance holds only one more, which must be complete, and none if its queue may
    refuse or reorder; and a limited instance would hold resources twice. And they stay with this
    instance though another becomes idle, so only one without any holds many.
    """
    if is_limited or (dynamic and not is_only):
        return 1
    if dynamic:
        return min(executor.depth, LEAST)
    if is_only or executor.on_device:
        return executor.depth
    return LEAST if executor.depth > LEAST else 1
