"""The map: every channel with its capacity, every actor with its endpoints, and nothing else.

`wire_version` connects the actors of one model version, `wire_core` those that live as long as the
server. A simulation calls the same two functions with other ports.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio

from actors.channels import Door, Watch
from actors.companions.rate_limiter import RateLimiterActor
from actors.companions.response_cache import ResponseCacheActor
from actors.control.control_plane import ControlPlane
from actors.control.shared_memory import SharedMemory
from actors.ensembles.wiring import wire_ensemble
from actors.grpc.frontend import GrpcFrontend
from actors.grpc.services import CATEGORIES, services
from actors.grpc.terms import RESPONSE_WINDOW, GrpcSettings
from actors.http.control import HttpControl
from actors.http.frontend import HttpFrontend
from actors.http.operations import ControlRunner, HttpOperations, kv_cache_report
from actors.lifecycle.load_gate import AvailableMemory
from actors.lifecycle.model_index import ModelIndex
from actors.lifecycle.model_repository import ModelRepository, ModelSource
from actors.lifecycle.model_version import VersionActors
from actors.mailboxes import MailboxRegister
from actors.messages import Fact, LimiterMessage, RepositoryCommand
from actors.metrics.slow_requests import SlowRequests
from actors.metrics.statistics import Statistics, StatisticsReader, WallClock
from actors.policy.caching import ResponseCache
from actors.policy.limiting import RateLimiter, declared_resource
from actors.ports.tls import Tls
from actors.processes.lending import InstanceServices
from actors.processes.metrics import CustomMetrics
from actors.processes.other_models import OtherModels
from actors.sequences.wiring import wire_sequences
from actors.settings.log_settings import FollowLogSettings, LogControl, LogSettings
from actors.settings.metrics_settings import MetricsSettings
from actors.settings.options import ServerOptions
from actors.street.calls import Calls
from actors.traces.ports import TracePorts
from actors.traces.tracer import Tracer
from actors.traces.wiring import wire_tracing
from actors.version_wiring import MakeExecutor, VersionPorts, wire_version
from protocol.api_keys import Guard, Keyring
from protocol.grpc_compression import CompressionLevel
from protocol.grpc_service import Route, routes
from protocol.http1 import HttpLimits
from protocol.http2 import Http2Limits
from protocol.restriction import RestrictedApis
from protocol.v2_json import InferDecoder
from protocol.v2_json_parameters import HeaderForwarding
from protocol.v2_json_response import InferEncoder
from repo.devices.port import Devices, MemoryUse, NoDevices, PinnedMemory
from repo.host_policy import HostPolicies
from repo.model_config import ensemble_scheduling, sequence_batching
from repo.preparation import ModelDescription

# More than the facts of one turn of the event loop, after which Statistics looks at the latest.
FACTS_DOOR: Final = 256
# Facts that wait for more. They are counted when answers have left, and so many in less time than a
# client needs to ask again, so that nobody waits for it; one at a time they would cost twice that.
FACTS_PATIENCE: Final = 7
# Operators, not traffic: a full door makes them wait for each other.
REPOSITORY_DOOR: Final = 16
# What schedulers and instances say to the limiter: per request at most a wish, a release and two
# loans, and requests are bounded by the schedulers' queues.
LIMITER_DOOR: Final = 2**20


@dataclass(frozen=True, slots=True)
class Ports:
    """What differs between the production server and a simulation."""

    source: ModelSource
    make_executor: MakeExecutor
    wall_clock: WallClock
    follow_log_settings: FollowLogSettings = lambda _: None
    tracing: TracePorts = field(default_factory=TracePorts)
    available_memory: AvailableMemory = lambda: None
    devices: Devices = field(default_factory=NoDevices)
    pinned_memory: PinnedMemory = lambda: MemoryUse(0, 0)
    reclaim: Callable[[], None] | None = None  # called when models have ended


class Backstage(Protocol):
    """What a frontend finds behind itself: the core, or the way to it from another process."""

    @property
    def calls(self) -> Calls: ...

    @property
    def regions(self) -> SharedMemory: ...

    def http_control(self, options: ServerOptions) -> ControlRunner:
        """Who answers the REST operations that no model answers."""

    def grpc_routes(self) -> Mapping[str, Route]:
        """The services, by method path."""

    def load_report(self) -> Mapping[str, float]:
        """What an LLM backend says of its cache; empty where nobody does."""


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """The actors behind every frontend, wired but not running, and the endpoints of frontends."""

    statistics: Statistics
    limiter: RateLimiterActor | None
    cache: ResponseCacheActor | None
    repository: ModelRepository
    control_plane: ControlPlane
    calls: Calls
    index: Watch[ModelIndex]
    reader: StatisticsReader
    regions: SharedMemory
    custom_metrics: CustomMetrics
    mailboxes: MailboxRegister
    slow: SlowRequests | None
    tracer: Tracer

    def http_control(self, options: ServerOptions) -> HttpControl:
        return HttpControl(self.control_plane, max_input_size=options.http_max_input_size)

    def grpc_routes(self) -> Mapping[str, Route]:
        return routes(services(self.control_plane))

    def load_report(self) -> Mapping[str, float]:
        return kv_cache_report(self.custom_metrics)

    @property
    def has_drained(self) -> bool:
        """Every model has ended in order; what may be under way still are traces."""
        return self.tracer.was_stopped

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load models, report `started`, serve until the repository has been drained."""
        async with trio.open_nursery() as tracing:  # outlives whatever is traced
            await tracing.start(self.tracer.run)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.statistics.run)
                if self.limiter is not None:
                    await nursery.start(self.limiter.run)
                if self.cache is not None:
                    await nursery.start(self.cache.run)
                async with trio.open_nursery() as models:
                    await models.start(self.repository.run)
                    task_status.started()
                nursery.cancel_scope.cancel()
            self.tracer.stop()
        self.regions.close()


def _facts_patience(metrics: MetricsSettings) -> int:
    """Quantiles of the last minute want to hear of an execution at once; totals can wait."""
    return 0 if metrics.summary_latencies else FACTS_PATIENCE


def wire_core(options: ServerOptions, ports: Ports, *, server_version: str) -> Core:
    """Everything between the frontends and the model versions."""
    index = Watch(ModelIndex())
    mailboxes = MailboxRegister()
    facts_box = mailboxes.open("statistics")
    metrics = MetricsSettings.of(options)
    facts: Door[Fact] = facts_box.door(FACTS_DOOR, patience=_facts_patience(metrics))
    reader = StatisticsReader(mailbox=facts_box, facts=facts)
    commands_box = mailboxes.open("model repository")
    commands: Door[RepositoryCommand] = commands_box.door(REPOSITORY_DOOR)
    regions = _regions(options, ports)
    logs = LogControl(LogSettings.of(options), follow=ports.follow_log_settings)
    limiter, limiter_door = _wire_limiter(options, mailboxes)
    cache = _wire_cache(options, facts, mailboxes)
    tracing, tracer = wire_tracing(options.trace_config, ports.tracing, mailboxes.open("tracer"))
    calls = Calls(index=index, tracing=tracing)
    control_plane = ControlPlane(
        options=options,
        server_version=server_version,
        index=index,
        statistics=reader,
        repository=commands,
        regions=regions,
        logs=logs,
        tracing=tracing,
    )
    custom_metrics = CustomMetrics()
    slow = SlowRequests(mailboxes.open("observer")) if options.has_admin_port else None
    models = OtherModels(calls=calls, control_plane=control_plane)
    version_ports = VersionPorts(
        make_executor=ports.make_executor,
        facts=facts,
        limiter=limiter_door,
        limiter_numbers=itertools.count(1),
        cache=cache,
        host_policies=HostPolicies(options.host_policy),
        calls=calls,
        services=InstanceServices(models, custom_metrics),
        mailboxes=mailboxes,
        slow=slow,
    )

    return Core(
        statistics=Statistics(
            mailbox=facts_box, facts=facts, wall_clock=ports.wall_clock, settings=metrics
        ),
        limiter=limiter,
        cache=cache,
        repository=ModelRepository(
            options=options,
            source=ports.source,
            wire_version=partial(_wire_any, options, version_ports),
            index=index,
            mailbox=commands_box,
            commands=commands,
            statistics=facts,
            available_memory=ports.available_memory,
            reclaim=ports.reclaim,
        ),
        control_plane=control_plane,
        calls=calls,
        index=index,
        reader=reader,
        regions=regions,
        custom_metrics=custom_metrics,
        mailboxes=mailboxes,
        slow=slow,
        tracer=tracer,
    )


def _wire_any(
    options: ServerOptions, ports: VersionPorts, description: ModelDescription, version: int
) -> VersionActors:
    """A version, by what schedules it."""
    settings = options.backend_settings(description.config.backend)
    if ensemble_scheduling(description.config) is not None:
        actors = wire_ensemble(description, version, ports=ports)
    elif sequence_batching(description.config) is not None:
        actors = wire_sequences(description, version, ports=ports, settings=settings)
    else:
        actors = wire_version(description, version, ports=ports, settings=settings)
    description.retain()
    actors.closers.append(description.release)
    return actors


def _regions(options: ServerOptions, ports: Ports) -> SharedMemory:
    # Device memory is opened in one process, and frontends of their own could not read it.
    devices = NoDevices() if options.frontend_workers else ports.devices
    return SharedMemory(allowed=options.allow_client_shm, devices=devices)


def _wire_cache(
    options: ServerOptions, facts: Door[Fact], mailboxes: MailboxRegister
) -> ResponseCacheActor | None:
    if options.cache_bytes is None:
        return None
    return ResponseCacheActor(
        mailbox=mailboxes.open("response cache"),
        policy=ResponseCache(options.cache_bytes),
        statistics=facts,
    )


def _wire_limiter(
    options: ServerOptions, mailboxes: MailboxRegister
) -> tuple[RateLimiterActor | None, Door[LimiterMessage] | None]:
    if options.rate_limit == "off":
        return None, None
    declared = [declared_resource(argument) for argument in options.rate_limit_resource]
    mailbox = mailboxes.open("rate limiter")
    messages: Door[LimiterMessage] = mailbox.door(LIMITER_DOOR)
    limiter = RateLimiterActor(mailbox=mailbox, messages=messages, policy=RateLimiter(declared))
    return limiter, messages


def wire_http(
    options: ServerOptions,
    core: Backstage,
    listeners: list[trio.SocketListener],
    *,
    tls: Tls | None = None,
    keyring: Keyring | None = None,
) -> HttpFrontend:
    """The REST port; in plain text unless there is `tls`, for everybody unless for a `keyring`."""
    operations = HttpOperations(
        calls=core.calls,
        control=core.http_control(options),
        regions=core.regions,
        decoder=InferDecoder(
            max_input_size=options.http_max_input_size,
            forwarding=HeaderForwarding(options.http_header_forward_pattern),
        ),
        encoder=InferEncoder(),
        guard=Guard(RestrictedApis.parse(options.http_restricted_api), keyring),
        max_input_size=options.http_max_input_size,
        load_report=core.load_report,
    )
    return HttpFrontend(listeners, operations=operations, limits=HttpLimits(), tls=tls)


def wire_grpc(
    options: ServerOptions,
    core: Backstage,
    listeners: list[trio.SocketListener],
    *,
    tls: Tls | None = None,
    keyring: Keyring | None = None,
) -> GrpcFrontend:
    """The gRPC port; in plain text unless there is `tls`, for everybody unless for a `keyring`."""
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
        guard=Guard(RestrictedApis.parse(options.grpc_restricted_protocol, grpc=True), keyring),
        compression=CompressionLevel[options.grpc_infer_response_compression_level.upper()],
        response_window=min(RESPONSE_WINDOW, options.grpc_max_response_pool_size),
        forwarding=HeaderForwarding(options.grpc_header_forward_pattern),
        categories=CATEGORIES,
    )
    return GrpcFrontend(
        listeners,
        calls=core.calls,
        regions=core.regions,
        routes=core.grpc_routes(),
        settings=settings,
        tls=tls,
    )


def _or_never(milliseconds: int) -> float:
    """0 is how the command line spells "no limit"."""
    return milliseconds / 1e3 if milliseconds else math.inf
