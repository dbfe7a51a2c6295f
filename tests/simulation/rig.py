"""What scenarios of scheduling share: a schedule of arrivals, played against the whole server.

Times are milliseconds, as in the tables of scheduling, of which one is 1/64 s of virtual time:
floats add that exactly, so what coincides in a table coincides here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from actors.metrics.counters import VersionCounters
from actors.policy.batching import RefusalCause
from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode
from repo.model_config import BatchingSettings, QueuePolicySettings
from simulation.clients import Client
from simulation.drawing import TICK_SECONDS, TICK_US
from simulation.executor import Behaviour, Latency, echo
from simulation.ledger import Asked
from simulation.world import SimulatedModel, World

SEEDS: Final = range(3)
# Shapes by name: what two requests have in common that may share a batch.
WIDTHS: Final[Mapping[str, int]] = {"X": 1, "Y": 2}


def us(milliseconds: float) -> int:
    """A duration of a table, as a configuration writes it."""
    return round(milliseconds * TICK_US)


def seconds(milliseconds: float) -> float:
    """A duration of a table in virtual time."""
    return milliseconds * TICK_SECONDS


def model_config(
    batching: BatchingSettings | None,
    *,
    instances: int = 1,
    max_batch: int = 8,
    more: str = "",
    input_more: str = "",
) -> str:
    """A config.pbtxt; `batching` None is the default scheduler."""
    lines = [
        'backend: "simulated"',
        f"max_batch_size: {max_batch if batching is None else batching.max_batch_size}",
        f'input {{ name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] {input_more} }}',
        'output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }',
        f"instance_group {{ count: {instances} kind: KIND_CPU }}",
        more,
    ]
    return "\n".join(lines + ([] if batching is None else _dynamic(batching)))


def _dynamic(batching: BatchingSettings) -> list[str]:
    lines = [f"preferred_batch_size: {size}" for size in batching.preferred_batch_sizes]
    if batching.max_queue_delay_seconds:
        lines.append(f"max_queue_delay_microseconds: {us(batching.max_queue_delay_seconds)}")
    if batching.preserve_ordering:
        lines.append("preserve_ordering: true")
    if batching.priority_levels:
        lines.append(f"priority_levels: {batching.priority_levels}")
        lines.append(f"default_priority_level: {batching.default_priority_level}")
    lines.append(f"default_queue_policy {{ {_policy(batching.default_policy)} }}")
    for level, policy in batching.level_policies.items():
        lines.append(f"priority_queue_policy {{ key: {level} value {{ {_policy(policy)} }} }}")
    return ["dynamic_batching {", *lines, "}"]


def _policy(policy: QueuePolicySettings) -> str:
    return (
        f"timeout_action: {policy.timeout_action} "
        f"default_timeout_microseconds: {us(policy.default_timeout_seconds)} "
        f"allow_timeout_override: {str(policy.allow_timeout_override).lower()} "
        f"max_queue_size: {policy.max_queue_size}"
    )


@dataclass(frozen=True)
class _Event:
    at: float
    name: str
    size: int = 1
    shape: str = "X"
    level: int = 0
    timeout: float = 0.0
    deadline: float = 0.0
    content: float | None = None
    cancels: bool = False


@dataclass
class Schedule:
    """Requests of one client in the order of their instants, then what became of them.

    `duration` is that of every execution, in milliseconds.
    """

    config: str
    duration: float = 0.0
    latency: Latency | None = None
    behaviour: Behaviour = echo
    depth: int = 1
    options: ServerOptions | None = None
    expected_errors: Sequence[str] = ()
    world: World = field(init=False)
    counters: VersionCounters = field(init=False)
    asked: dict[str, Asked] = field(default_factory=dict)
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self._events: list[_Event] = []

    def send(
        self,
        at: float,
        name: str,
        size: int = 1,
        *,
        shape: str = "X",
        level: int = 0,
        timeout: float = 0.0,
        deadline: float = 0.0,
        content: float | None = None,
    ) -> Schedule:
        """Schedule a request; `level` is its priority as the client writes it."""
        self._events.append(_Event(at, name, size, shape, level, timeout, deadline, content))
        return self

    def cancel(self, at: float, name: str) -> Schedule:
        self._events.append(_Event(at, name, cancels=True))
        return self

    def play(self, seed: int = 0) -> Schedule:
        """Run the server until everybody is answered; what it promises is checked as always."""
        model = SimulatedModel(
            self.config,
            latency=self.latency or (lambda _: seconds(self.duration)),
            behaviour=self.behaviour,
            depth=self.depth,
        )
        self.world = World({"m": model}, options=self.options, expected_errors=self.expected_errors)
        self.world.run(self._scenario, seed=seed)
        return self

    async def _scenario(self, world: World) -> None:
        self.client = world.client()
        for event in sorted(self._events, key=lambda event: event.at):
            if seconds(event.at) > trio.current_time():  # what comes at one instant is a burst
                await trio.sleep_until(seconds(event.at))
            if event.cancels:
                self.client.cancel(self.asked[event.name])
            else:
                self._ask(event)
        await world.all_answered()
        self.counters = replace((await world.core.reader.read())["m", 1])

    def _ask(self, event: _Event) -> None:
        batches = "max_batch_size: 0" not in self.config
        self.asked[event.name] = self.client.ask(
            "m",
            event.name,
            batch=event.size if batches else 0,
            dims=(WIDTHS[event.shape],),
            content=event.content,
            priority=event.level,
            timeout_us=us(event.timeout),
            deadline_at=seconds(event.deadline) if event.deadline else float("inf"),
            parameters={"troupe_explain": True},
        )

    # --- what became of them ---------------------------------------------------------------------

    @property
    def batches(self) -> list[tuple[float, str]]:
        """When each execution began and which requests were in it."""
        return [(ran.at / TICK_SECONDS, " ".join(ran.names)) for ran in self.world.ledger.ran]

    @property
    def sizes(self) -> list[tuple[float, int]]:
        """When each execution began and how many elements it had."""
        return [(ran.at / TICK_SECONDS, ran.batch_size) for ran in self.world.ledger.ran]

    @property
    def instances(self) -> list[str]:
        """Where each execution took place."""
        return [ran.instance for ran in self.world.ledger.ran]

    @property
    def answered(self) -> dict[str, float]:
        """When each request was answered."""
        return {
            name: asked.final.at / TICK_SECONDS
            for name, asked in self.asked.items()
            if asked.final is not None
        }

    @property
    def refused(self) -> list[tuple[float, str, RefusalCause]]:
        """Who was refused, when and why, in the order of the refusals."""
        found = [
            (asked.final.order, asked.final.at / TICK_SECONDS, name, cause_of(asked.error))
            for name, asked in self.asked.items()
            if asked.error is not None and asked.final is not None
        ]
        return [refusal[1:] for refusal in sorted(found, key=lambda refusal: refusal[0])]

    def closed_by(self, name: str) -> str:
        """Why the batch of this request was closed, as its client was told."""
        return str(self.client.responses[name][0].parameters["troupe_closed_by"])

    @property
    def batch_stats(self) -> dict[int, int]:
        """Executions by batch size, as the statistics count them."""
        return {size: one.compute_infer.count for size, one in self.counters.batches.items()}


def cause_of(error: ServerError) -> RefusalCause:
    """What the wire text of a refusal says."""
    if error.status is StatusCode.CANCELLED:
        assert not error.message
        return RefusalCause.CANCELLED
    if error.status is StatusCode.DEADLINE_EXCEEDED:
        return RefusalCause.DEADLINE
    assert error.status is StatusCode.UNAVAILABLE, error
    if error.message == "Request timeout expired":
        return RefusalCause.TIMEOUT
    if error.message.endswith("] Exceeds maximum queue size"):
        return RefusalCause.QUEUE_FULL
    assert error.message.endswith(
        "] Server is stopping, scheduler for model has stopped accepting new inference requests"
    )
    return RefusalCause.STOPPING
