"""Draws worlds of ensembles: graphs of steps, some decoupled, each with a member of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251  # ensembles are drawn by their number
from typing import Final

from repo.model_config import StepSettings
from simulation.drawing import TICK_SECONDS, TICK_US, FaultPlan, draw_fault

# How many different ensembles there are; see simulation.drawing.
_ENSEMBLES: Final = 64
INPUTS: Final = ("IN0", "IN1")
OTHER_MODEL: Final = "b"


@dataclass(frozen=True, slots=True)
class EnsemblePlan:
    """An ensemble and its members; `counts` are responses per call, None where not decoupled."""

    configs: dict[str, str]  # by model; the ensemble is "e", the members "m0", "m1", …
    steps: tuple[StepSettings, ...]
    counts: tuple[int | None, ...]
    omissions: tuple[frozenset[str], ...]
    outputs: tuple[str, ...]
    instances: tuple[str, ...]  # of all members, and of the model that one of them asks
    latency_ticks: tuple[int, ...]  # by step
    pause_ticks: int  # before each response of a decoupled member
    asking: int | None  # the step whose model asks `OTHER_MODEL`, which is no step's
    other_ticks: int  # how long that takes

    @property
    def is_decoupled(self) -> bool:
        return any(count is not None for count in self.counts)


@dataclass(frozen=True, slots=True)
class EnsembleRequestPlan:
    """One request of the ensemble; instants in ticks."""

    at: int
    client: int
    name: str
    given: tuple[int, int]
    wanted: tuple[str, ...]
    deadline_at: float
    cancel_at: int


@dataclass(frozen=True, slots=True)
class EnsembleWorldPlan:
    """A whole world."""

    ensemble: EnsemblePlan
    clients: int
    requests: tuple[EnsembleRequestPlan, ...]
    faults: tuple[FaultPlan, ...]
    submit_door: int


def draw_ensembles(random: Random) -> EnsembleWorldPlan:
    """A crowd before one ensemble."""
    drawn = ensemble(random.randrange(_ENSEMBLES))
    clients = random.randint(1, 3)
    requests: list[EnsembleRequestPlan] = []
    at = 0
    for _ in range(random.randint(1, 3)):
        at += random.choice((0, 2, 8))
        for _ in range(random.choice((1, 2, 4, 8))):
            requests.append(_draw_request(random, drawn, f"e{len(requests)}", at, clients))
            at += random.choice((0, 0, 0, 1))
    return EnsembleWorldPlan(
        ensemble=drawn,
        clients=clients,
        requests=tuple(requests),
        faults=tuple(_draw_faults(random, drawn, clients, at)),
        submit_door=random.choice((1, 2, 64)),
    )


@functools.cache
def ensemble(number: int) -> EnsemblePlan:
    """The ensemble `number`."""
    random = Random(number)  # noqa: S311  # reproducible on purpose
    steps: list[StepSettings] = []
    counts: list[int | None] = []
    omissions: list[frozenset[str]] = []
    tensors = list(INPUTS)
    for index in range(random.randint(1, 4)):
        reads = [random.choice(tensors) for _ in range(random.randint(1, 2))]
        writes = [f"t{index}_{n}" for n in range(random.randint(1, 2))]
        steps.append(
            StepSettings(
                f"m{index}",
                -1,
                {f"i{n}": tensor for n, tensor in enumerate(reads)},
                {f"o{n}": tensor for n, tensor in enumerate(writes)},
            )
        )
        # One decoupled step is what the configuration rules promise for any path.
        may_be_decoupled = all(count is None for count in counts)
        counts.append(random.choice((None, None, 0, 1, 3, 12)) if may_be_decoupled else None)
        left_out = len(writes) > 1 and random.random() < 0.3
        omissions.append(frozenset({"o1"}) if left_out else frozenset())
        tensors += writes
    # Everything that nobody reads has to be an output, and so have all of them now and then.
    read = {tensor for step in steps for tensor in step.input_map.values()}
    ends = [tensor for tensor in tensors if tensor not in read and tensor not in INPUTS]
    outputs = tuple(ends if random.random() < 0.5 else tensors[2:])
    given = [name for name in INPUTS if name in read]
    configs = {"e": _ensemble_config(random, steps, given, outputs)}
    instances: list[str] = []
    for step, count in zip(steps, counts, strict=True):
        group = random.choice((1, 1, 2))
        instances += [f"{step.model_name}_0_{n}" for n in range(group)]
        configs[step.model_name] = _member_config(
            random, step, instances=group, is_decoupled=count is not None
        )
    latency_ticks = tuple(random.choice((0, 1, 2, 5)) for _ in steps)
    pause_ticks = random.choice((0, 1))
    askers = [index for index, count in enumerate(counts) if count is None]
    asking = random.choice(askers) if askers and random.random() < 0.5 else None
    if asking is not None:
        step = StepSettings(OTHER_MODEL, -1, {"i0": ""}, {"o0": ""})
        configs[OTHER_MODEL] = _member_config(random, step, instances=1, is_decoupled=False)
        instances.append(f"{OTHER_MODEL}_0_0")
    return EnsemblePlan(
        configs=configs,
        steps=tuple(steps),
        counts=tuple(counts),
        omissions=tuple(omissions),
        outputs=outputs,
        instances=tuple(instances),
        latency_ticks=latency_ticks,
        pause_ticks=pause_ticks,
        asking=asking,
        other_ticks=random.choice((0, 1, 3)),
    )


def _ensemble_config(
    random: Random, steps: list[StepSettings], given: Sequence[str], outputs: tuple[str, ...]
) -> str:
    lines = ['platform: "ensemble" max_batch_size: 4']
    lines += [f'input {{ name: "{name}" data_type: TYPE_INT64 dims: [ 1 ] }}' for name in given]
    lines += [f'output {{ name: "{name}" data_type: TYPE_INT64 dims: [ 1 ] }}' for name in outputs]
    lines.append(f"ensemble_scheduling {{ max_inflight_requests: {random.choice((0, 0, 1, 2))}")
    for step in steps:
        maps = [f'input_map {{ key: "{k}" value: "{v}" }}' for k, v in step.input_map.items()]
        maps += [f'output_map {{ key: "{k}" value: "{v}" }}' for k, v in step.output_map.items()]
        lines.append(
            f'step {{ model_name: "{step.model_name}" model_version: -1 {" ".join(maps)} }}'
        )
    return "\n".join([*lines, "}"])


def _member_config(
    random: Random, step: StepSettings, *, instances: int, is_decoupled: bool
) -> str:
    kind = "data_type: TYPE_INT64 dims: [ 1 ]"
    lines = ['backend: "simulated" max_batch_size: 4']
    lines += [f'input {{ name: "{name}" {kind} optional: true }}' for name in step.input_map]
    lines += [f'output {{ name: "{name}" {kind} }}' for name in step.output_map]
    lines.append(f"instance_group {{ count: {instances} kind: KIND_CPU }}")
    if is_decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    if random.random() < 0.5:
        delay = random.choice((0, 0, 2)) * TICK_US
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}")
    return "\n".join(lines)


def _draw_request(
    random: Random, drawn: EnsemblePlan, name: str, at: int, clients: int
) -> EnsembleRequestPlan:
    patience = random.choice((0, 0, 0, 0, 2, 8))
    fuse = random.choice((0, 0, 0, 0, 0, 1, 4))
    wanted = random.choice(((), (), random.choice(drawn.outputs)))
    return EnsembleRequestPlan(
        at=at,
        client=random.randrange(clients),
        name=name,
        given=(random.randint(0, 999), random.randint(0, 999)),
        wanted=(wanted,) if isinstance(wanted, str) else (),
        deadline_at=(at + patience) * TICK_SECONDS if patience else math.inf,
        cancel_at=at + fuse if fuse else -1,
    )


_FAULTS: Final = (
    "slow_instance", "worker_loss", "client_vanishes", "stalled_reader", "clock_leap",
)  # fmt: skip


def _draw_faults(random: Random, drawn: EnsemblePlan, clients: int, last: int) -> list[FaultPlan]:
    return [
        draw_fault(random, random.choice(_FAULTS), "e", drawn.instances, clients=clients, last=last)
        for _ in range(random.choice((0, 0, 1)))
    ]
