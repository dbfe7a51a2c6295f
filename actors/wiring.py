"""The map: every channel with its capacity, every actor with its endpoints, and nothing else.

`wire_version` connects the actors of one model version, `wire_core` those that live as long as the
server. A simulation calls the same two functions with other ports.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from actors.admin_frontend import AdminFrontend
from actors.calls import Calls
from actors.channels import Door, Mailbox, Watch
from actors.control_plane import ControlPlane
from actors.executor import Executor
from actors.grpc_frontend import GrpcFrontend
from actors.grpc_services import CATEGORIES, services
from actors.grpc_terms import GrpcSettings
from actors.http_frontend import HttpFrontend
from actors.http_operations import HttpOperations
from actors.instance import Instance
from actors.log_settings import FollowLogSettings, LogControl, LogSettings
from actors.messages import Execute, Fact, Grant, LoadModel, Submit, UnloadModel
from actors.metrics import Metrics, Processor
from actors.model_index import ModelIndex, ServingVersion
from actors.model_repository import ModelRepository, ModelSource
from actors.model_version import VersionActors
from actors.options import ServerOptions
from actors.policy.actions import SchedulingPolicy
from actors.policy.batching import DefaultScheduler, DynamicBatcher
from actors.scheduler import Control, Scheduler
from actors.shared_memory import SharedMemory
from actors.statistics import Statistics, StatisticsReader, WallClock
from protocol.grpc_compression import CompressionLevel
from protocol.grpc_service import routes
from protocol.http1 import HttpLimits
from protocol.http2 import Http2Limits
from protocol.restriction import RestrictedApis
from protocol.v2_json import InferDecoder
from protocol.v2_json_parameters import HeaderForwarding
from protocol.v2_json_response import InferEncoder
from repo.backends.base import InstanceContext
from repo.instance_groups import InstanceSpec
from repo.model_config import (
    BatchingSettings,
    QueuePolicySettings,
    batching_settings,
    is_decoupled,
    scheduling_choice,
)
from repo.preparation import ModelDescription
from repo.request_rules import RequestRules

# A burst of one poll of the event loop; a caller that finds it full waits, which is the
# back-pressure, and the scheduler empties it in its next turn.
SUBMIT_DOOR: Final = 64
# Requests one priority level may queue when its policy sets no limit. Beyond it the scheduler
# stops draining the door. Only there so that memory has a bound: a queued request is its tensors.
QUEUE_CEILING: Final = 65_536
# Each request is cancelled at most once, and requests are bounded above; an order to drain is one.
CONTROL_DOOR: Final = 2**20
# Facts wait here until Statistics looks: at half of it, or when somebody asks.
FACTS_DOOR: Final = 256
# Operators, not traffic: a full door makes them wait for each other.
REPOSITORY_DOOR: Final = 16
# A model may declare any number of levels; those beyond the last door share it.
MAX_LEVEL_DOORS: Final = 64

MakeExecutor = Callable[[InstanceContext], Executor]


@dataclass(frozen=True, slots=True)
class Ports:
    """What differs between the production server and a simulation."""

    source: ModelSource
    make_executor: MakeExecutor
    wall_clock: WallClock
    follow_log_settings: FollowLogSettings = lambda _: None


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """The actors behind every frontend, wired but not running, and the endpoints of frontends."""

    statistics: Statistics
    repository: ModelRepository
    control_plane: ControlPlane
    calls: Calls
    index: Watch[ModelIndex]
    reader: StatisticsReader
    regions: SharedMemory

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load models, report `started`, serve until the repository has been drained."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.statistics.run)
            async with trio.open_nursery() as models:
                await models.start(self.repository.run)
                task_status.started()
            nursery.cancel_scope.cancel()


def wire_core(options: ServerOptions, ports: Ports, *, server_version: str) -> Core:
    """Everything between the frontends and the model versions."""
    index = Watch(ModelIndex())
    facts_box = Mailbox()
    facts: Door[Fact] = facts_box.door(FACTS_DOOR, quiet=True)
    reader = StatisticsReader(mailbox=facts_box, facts=facts)
    commands_box = Mailbox()
    commands: Door[LoadModel | UnloadModel] = commands_box.door(REPOSITORY_DOOR)
    regions = SharedMemory(allowed=options.allow_client_shm)
    logs = LogControl(LogSettings.of(options), follow=ports.follow_log_settings)

    def wire(description: ModelDescription, version: int) -> VersionActors:
        return wire_version(
            description,
            version,
            make_executor=ports.make_executor,
            settings=options.backend_settings(description.config.backend),
            facts=facts,
        )

    return Core(
        statistics=Statistics(mailbox=facts_box, facts=facts, wall_clock=ports.wall_clock),
        repository=ModelRepository(
            options=options,
            source=ports.source,
            wire_version=wire,
            index=index,
            mailbox=commands_box,
            commands=commands,
            statistics=facts,
        ),
        control_plane=ControlPlane(
            options=options,
            server_version=server_version,
            index=index,
            statistics=reader,
            repository=commands,
            regions=regions,
            logs=logs,
        ),
        calls=Calls(index=index),
        index=index,
        reader=reader,
        regions=regions,
    )


def wire_version(
    description: ModelDescription,
    version: int,
    *,
    make_executor: MakeExecutor,
    settings: Mapping[str, str],
    facts: Door[Fact],
) -> VersionActors:
    """One scheduler and its instances."""
    config = description.config
    key = (config.name, version)
    batching = batching_settings(config)
    dynamic = scheduling_choice(config) == "dynamic_batching"
    policy: SchedulingPolicy = DynamicBatcher(batching) if dynamic else DefaultScheduler()

    mailbox = Mailbox()
    control: Door[Control] = mailbox.door(CONTROL_DOOR)
    executors = [
        make_executor(_context(description, version, spec, settings))
        for spec in description.instances
    ]
    grants_of = [executor.depth if _may_prefetch(batching) else 1 for executor in executors]
    grants: Door[Grant] = mailbox.door(sum(grants_of))
    level_doors = min(max(1, batching.priority_levels), MAX_LEVEL_DOORS)
    doors: list[Door[Submit]] = [mailbox.door(SUBMIT_DOOR) for _ in range(level_doors)]
    # One place per grant: the scheduler sends only against one.
    channels = [trio.open_memory_channel[Execute](count) for count in grants_of]
    instances = [
        Instance(
            index=number,
            name=spec.name,
            key=key,
            executor=executors[number],
            execute=channels[number][1],
            freed=grants,
            grants=grants_of[number],
            statistics=facts,
        )
        for number, spec in enumerate(description.instances)
    ]
    scheduler = Scheduler(
        key=key,
        policy=policy,
        mailbox=mailbox,
        control=control,
        grants=grants,
        doors=doors,
        instances=instances,
        execute=[send for send, _ in channels],
        statistics=facts,
        has_levels=batching.priority_levels > 0,
        ceiling=QUEUE_CEILING,
    )
    serving = ServingVersion(
        name=config.name,
        version=version,
        config=config,
        config_json=description.config_json,
        rules=RequestRules.compile(config),
        doors=doors,
        control=control,
        instances=instances,
        decoupled=is_decoupled(config),
        priority_levels=batching.priority_levels,
        default_level=batching.default_priority_level,
        pending=scheduler.pending,
        labels=description.labels,
    )
    return VersionActors(serving=serving, scheduler=scheduler, instances=instances, control=control)


def _context(
    description: ModelDescription, version: int, spec: InstanceSpec, settings: Mapping[str, str]
) -> InstanceContext:
    return InstanceContext(
        config=description.config,
        version=version,
        model_directory=description.directory,
        instance_name=spec.name,
        kind=spec.kind,
        device_id=spec.device_id,
        settings=settings,
    )


def _may_prefetch(batching: BatchingSettings) -> bool:
    """Whether an instance may hold a second batch while it runs the first.

    That keeps a worker busy between batches, but a batch handed over early can no longer be
    overtaken by a more urgent request, time out or make room: so only without any of these.
    """
    return not batching.priority_levels and batching.default_policy == QueuePolicySettings()


def wire_http(
    options: ServerOptions, core: Core, listeners: list[trio.SocketListener]
) -> HttpFrontend:
    """The REST port."""
    operations = HttpOperations(
        calls=core.calls,
        control_plane=core.control_plane,
        regions=core.regions,
        decoder=InferDecoder(
            max_input_size=options.http_max_input_size,
            forwarding=HeaderForwarding(options.http_header_forward_pattern),
        ),
        encoder=InferEncoder(),
        restricted=RestrictedApis.parse(options.http_restricted_api),
        max_input_size=options.http_max_input_size,
    )
    return HttpFrontend(listeners, calls=core.calls, operations=operations, limits=HttpLimits())


def wire_grpc(
    options: ServerOptions,
    core: Core,
    listeners: list[trio.SocketListener],
    *,
    tls: ssl.SSLContext | None = None,
) -> GrpcFrontend:
    """The gRPC port; in plain text unless there is a `tls` context."""
    settings = GrpcSettings(
        limits=Http2Limits(
            keepalive_time_seconds=options.grpc_keepalive_time / 1e3,
            keepalive_timeout_seconds=options.grpc_keepalive_timeout / 1e3,
            keepalive_permit_without_calls=options.grpc_keepalive_permit_without_calls,
            max_pings_without_data=options.grpc_http2_max_pings_without_data,
            min_ping_interval_seconds=(
                options.grpc_http2_min_recv_ping_interval_without_data / 1e3
            ),
            max_ping_strikes=options.grpc_http2_max_ping_strikes,
            max_connection_age_seconds=_or_never(options.grpc_max_connection_age),
            max_connection_age_grace_seconds=_or_never(options.grpc_max_connection_age_grace),
        ),
        restricted=RestrictedApis.parse(options.grpc_restricted_protocol, grpc=True),
        compression=CompressionLevel[options.grpc_infer_response_compression_level.upper()],
        forwarding=HeaderForwarding(options.grpc_header_forward_pattern),
        categories=CATEGORIES,
    )
    return GrpcFrontend(
        listeners,
        calls=core.calls,
        regions=core.regions,
        routes=routes(services(core.control_plane)),
        settings=settings,
        tls=tls,
    )


def wire_admin(options: ServerOptions, core: Core, listener: trio.SocketListener) -> AdminFrontend:
    """The metrics port."""
    metrics = Metrics(
        statistics=core.reader, index=core.index, options=options, processor=Processor()
    )
    return AdminFrontend(listener, pages={"/metrics": metrics.page, "/metrics/": metrics.page})


def _or_never(milliseconds: int) -> float:
    """0 is how the command line spells "no limit"."""
    return milliseconds / 1e3 if milliseconds else math.inf
