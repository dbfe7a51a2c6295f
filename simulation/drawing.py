"""Draws random worlds: models, a crowd of clients, and faults, all from one generator.

Everything is drawn before anything runs, so a plan depends on its seed alone and can be printed.
Times are multiples of TICK_SECONDS, which floats add exactly: deadlines that ought to coincide do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251  # models are drawn by their number
from typing import Final

# A power of two that is a whole number of microseconds, the unit of configurations.
TICK_SECONDS: Final = 1 / 64
TICK_US: Final = 15_625

# How many different models of a kind there are. To prepare a configuration takes ten times as long
# as to simulate it; so few are prepared, and combined with all the more crowds.
_MODELS: Final = 128

_RESOURCES: Final = ("r1", "r2")
_MAX_RESOURCE: Final = 4


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model; latency is `base + per_element * batch size` ticks, and up to `jitter` more."""

    name: str
    config: str
    max_batch: int
    levels: int
    instances: tuple[str, ...]  # those that are not passive
    base_ticks: int
    per_element_ticks: int
    jitter_ticks: int
    depth: int
    responses: int  # per request of a decoupled model; 0 for any other
    fails_every: int  # every nth request is answered with an error; 0: none is
    is_cached: bool


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """One request of the crowd; instants in ticks, 0 where there is none."""

    at: int
    client: int
    name: str
    model: str
    batch: int
    width: int  # of the variable dimension
    content: float | None
    priority: int
    timeout_ticks: int
    deadline_at: float
    cancel_at: int


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault: its name, its victim, and how bad it is, in ticks."""

    at: int
    name: str
    victim: str
    ticks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole world."""

    models: tuple[ModelPlan, ...]
    clients: int
    requests: tuple[RequestPlan, ...]
    faults: tuple[FaultPlan, ...]
    submit_door: int
    is_limited: bool
    declared: tuple[str, ...] = field(default=())
    cache_bytes: int = 0


def draw_plan(random: Random) -> Plan:
    """A world in which anything may happen that may happen in one."""
    is_limited = random.random() < 0.2
    has_cache = random.random() < 0.15
    count = 2 if is_limited else random.choice((1, 1, 1, 2))
    models = tuple(
        model(f"m{place}", random.randrange(_MODELS), is_limited=is_limited, has_cache=has_cache)
        for place in range(count)
    )
    clients = random.randint(1, 4)
    requests = tuple(_draw_crowd(random, models, clients))
    last = max(request.at for request in requests)
    declared: tuple[str, ...] = ()
    if is_limited and random.random() < 0.3:
        declared = tuple(f"{name}:{random.randint(_MAX_RESOURCE, 8)}" for name in _RESOURCES)
    return Plan(
        models=models,
        clients=clients,
        requests=requests,
        faults=tuple(_draw_faults(random, models, clients, last)),
        submit_door=random.choice((1, 2, 64, 64)),
        is_limited=is_limited,
        declared=declared,
        cache_bytes=random.choice((200, 100_000)) if has_cache else 0,
    )


@functools.cache
def model(name: str, number: int, *, is_limited: bool, has_cache: bool) -> ModelPlan:
    """The model `number` of its kind."""
    random = Random(number)  # noqa: S311  # reproducible on purpose
    max_batch = random.choice((0, 1, 2, 4, 8, 8, 16))
    is_dynamic = random.random() < 0.75
    is_decoupled = random.random() < 0.1
    is_cached = has_cache and not is_decoupled and random.random() < 0.7
    levels = random.choice((0, 0, 0, 1, 2, 3, 5)) if is_dynamic else 0
    ragged = random.choice(("", "", "allow_ragged_batch: true"))
    lines = [
        'backend: "simulated"',
        f"max_batch_size: {max_batch}",
        f'input {{ name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] {ragged} }}',
        'output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }',
    ]
    if is_decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    if is_cached:
        lines.append("response_cache { enable: true }")
    if is_dynamic:
        lines += _draw_batching(random, max_batch, levels)
    groups, instances = _draw_instances(random, name, is_limited=is_limited)
    return ModelPlan(
        name=name,
        config="\n".join([*lines, *groups]),
        max_batch=max_batch,
        levels=levels,
        instances=instances,
        base_ticks=random.choice((0, 1, 2, 4, 8, 16)),
        per_element_ticks=random.choice((0, 0, 1, 2)),
        jitter_ticks=random.choice((0, 0, 3, 9)),
        depth=random.choice((1, 1, 2)),
        responses=random.randint(1, 6) if is_decoupled else 0,
        fails_every=random.choice((0, 0, 0, 0, 2, 5)),
        is_cached=is_cached,
    )


def _draw_batching(random: Random, max_batch: int, levels: int) -> list[str]:
    lines: list[str] = []
    if max_batch > 0 and random.random() < 0.5:
        sizes = random.sample(range(1, max_batch + 1), min(max_batch, random.randint(1, 2)))
        lines.append(f"preferred_batch_size: [ {', '.join(map(str, sorted(sizes)))} ]")
    delay = random.choice((0, 0, 1, 2, 4, 8, 16, 64))
    if delay:
        lines.append(f"max_queue_delay_microseconds: {delay * TICK_US}")
    preserves = levels <= 1 and random.random() < 0.4
    if preserves:
        lines.append("preserve_ordering: true")
    if levels:
        lines.append(f"priority_levels: {levels}")
        lines.append(f"default_priority_level: {random.randint(1, levels)}")
    if random.random() < 0.5:
        lines.append(f"default_queue_policy {{ {_draw_policy(random, may_delay=not preserves)} }}")
    if levels and random.random() < 0.5:
        policy = _draw_policy(random, may_delay=not preserves)
        lines.append(
            f"priority_queue_policy {{ key: {random.randint(1, levels)} value {{ {policy} }} }}"
        )
    return ["dynamic_batching {", *(f"  {line}" for line in lines), "}"]


def _draw_policy(random: Random, *, may_delay: bool) -> str:
    action = random.choice(("REJECT", "DELAY")) if may_delay else "REJECT"
    timeout = random.choice((0, 1, 2, 4, 8, 16, 32))
    override = random.choice(("true", "false"))
    limit = random.choice((0, 0, 1, 2, 3, 8))
    return (
        f"timeout_action: {action} default_timeout_microseconds: {timeout * TICK_US} "
        f"allow_timeout_override: {override} max_queue_size: {limit}"
    )


def _draw_instances(
    random: Random, name: str, *, is_limited: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The instance groups, and the names of those instances that execute."""
    lines: list[str] = []
    names: list[str] = []
    for group in range(random.choice((1, 1, 1, 2))):
        count = random.choice((1, 1, 2, 3))
        passive = group > 0 and random.random() < 0.3
        names += [f"{name}_{group}_{number}" for number in range(count) if not passive]
        limits = _draw_limits(random) if is_limited else ""
        flag = " passive: true" if passive else ""
        lines.append(f"instance_group {{ count: {count} kind: KIND_CPU{flag}{limits} }}")
    return lines, tuple(names)


def _draw_limits(random: Random) -> str:
    # A name is global or it is not, in every model.
    needs = [
        f'resources {{ name: "{name}" count: {random.randint(1, _MAX_RESOURCE)}'
        f"{' global: true' if name == _RESOURCES[0] else ''} }}"
        for name in _RESOURCES
        if random.random() < 0.6
    ]
    return f" rate_limiter {{ {' '.join(needs)} priority: {random.randint(0, 3)} }}"


def _draw_crowd(random: Random, models: tuple[ModelPlan, ...], clients: int) -> list[RequestPlan]:
    """Waves of requests, some all at once, some one by one."""
    requests: list[RequestPlan] = []
    at = 0
    for _ in range(random.randint(1, 6)):
        at += random.choice((0, 1, 2, 4, 8, 16, 48))
        asked = random.choice(models)
        gap = random.choice((0, 0, 0, 1, 2))
        for _ in range(random.choice((1, 2, 4, 8, 8, 16))):
            requests.append(_draw_request(random, asked, f"r{len(requests)}", at, clients))
            at += gap
    return requests


def _draw_request(
    random: Random, model: ModelPlan, name: str, at: int, clients: int
) -> RequestPlan:
    patience = random.choice((0, 0, 0, 0, 1, 4, 16))
    fuse = random.choice((0, 0, 0, 0, 0, 0, 1, 4, 12))
    cancels_at_once = random.random() < 0.02
    return RequestPlan(
        at=at,
        client=random.randrange(clients),
        name=name,
        model=model.name,
        batch=min(model.max_batch, random.choice((1, 1, 1, random.randint(1, 16)))),
        width=random.choice((1, 1, 1, 2)),
        content=float(random.randint(1, 3)) if model.is_cached else None,
        priority=random.randint(0, model.levels + 1),
        timeout_ticks=random.choice((0, 0, 1, 3, 20)),
        deadline_at=(at + patience) * TICK_SECONDS if patience else math.inf,
        cancel_at=at + fuse if fuse or cancels_at_once else -1,
    )


_FAULTS: Final = (
    "slow_instance",
    "instance_crash",
    "worker_loss",
    "client_vanishes",
    "stalled_reader",
    "unload_in_flight",
    "reload_in_flight",
    "clock_leap",
)


def _draw_faults(
    random: Random, models: tuple[ModelPlan, ...], clients: int, last: int
) -> list[FaultPlan]:
    faults: list[FaultPlan] = []
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        name = random.choice(_FAULTS)
        struck = random.choice(models)
        faults.append(
            draw_fault(random, name, struck.name, struck.instances, clients=clients, last=last)
        )
    return faults


def draw_fault(
    random: Random, name: str, model: str, instances: Sequence[str], *, clients: int, last: int
) -> FaultPlan:
    """A fault of a model, of one of its instances or of a client, until soon after `last`."""
    victim = model
    if name in {"slow_instance", "instance_crash", "worker_loss"}:
        victim = random.choice(instances)
    elif name in {"client_vanishes", "stalled_reader"}:
        victim = str(random.randrange(clients))
    return FaultPlan(random.randint(0, last + 4), name, victim, random.choice((0, 1, 3, 10, 40)))
