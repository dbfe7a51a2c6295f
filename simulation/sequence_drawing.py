"""Draws worlds of sequences: a model with slots, and sequences that start, pause, give up and end.

A request's tag is a bit of its own. The model adds tags up in the state that the server keeps, so
that an answer tells which requests it stands on, and whether any of them was somebody else's. With
an iterative model a sequence is one request, which the model wants to see several times.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from random import Random  # noqa: TID251  # models are drawn by their number
from typing import Final

from protocol.inference import SequenceFlag
from simulation.drawing import TICK_SECONDS, TICK_US, FaultPlan, draw_fault

# How many different models there are; see simulation.drawing.
_MODELS: Final = 96
# Eight bits of 64 for each sequence, or three for each request that comes back.
MAX_SEQUENCES: Final = 7
MAX_PLACES: Final = 8
MAX_ITERATIVE: Final = 20
MAX_TURNS: Final = 4


@dataclass(frozen=True, slots=True)
class SequenceModelPlan:
    """One model; every execution takes `latency_ticks`."""

    config: str
    instances: tuple[str, ...]
    slots: int
    idle_ticks: int
    is_iterative: bool
    latency_ticks: int


@dataclass(frozen=True, slots=True)
class SequenceRequestPlan:
    """One request of a sequence; instants in ticks, 0 or less where there is none."""

    at: int
    client: int
    name: str
    sequence: int | str
    flags: SequenceFlag
    tag: int
    timeout_ticks: int
    deadline_at: float
    cancel_at: int
    turns: int = 1  # how often an iterative model wants to see it


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """A whole world."""

    model: SequenceModelPlan
    clients: int
    requests: tuple[SequenceRequestPlan, ...]
    faults: tuple[FaultPlan, ...]
    submit_door: int
    is_limited: bool


def draw_sequences(random: Random) -> SequencePlan:
    """A world in which anything may happen to a sequence that may happen to one."""
    is_limited = random.random() < 0.15
    model = sequence_model(random.randrange(_MODELS), is_limited=is_limited)
    clients = random.randint(1, 3)
    draw = _draw_iterative if model.is_iterative else _draw_crowd
    requests = tuple(sorted(draw(random, clients), key=lambda one: one.at))
    last = requests[-1].at
    return SequencePlan(
        model=model,
        clients=clients,
        requests=requests,
        faults=tuple(_draw_faults(random, model, clients, last)),
        submit_door=random.choice((1, 2, 64, 64)),
        is_limited=is_limited,
    )


@functools.cache
def sequence_model(number: int, *, is_limited: bool) -> SequenceModelPlan:
    """The model `number` of its kind."""
    random = Random(number)  # noqa: S311  # reproducible on purpose
    is_iterative = random.random() < 0.25
    max_batch = random.choice((0, 1, 2, 4))
    count = random.choice((1, 1, 2, 3))
    idle = random.choice((8, 32, 200))
    strategy, slots = _draw_strategy(random, max_batch)
    iterative = "iterative_sequence: true" if is_iterative else ""
    limits = 'rate_limiter { resources { name: "r1" count: 1 } }' if is_limited else ""
    config = f"""
backend: "simulated" max_batch_size: {max_batch}
input {{ name: "TAG" data_type: TYPE_INT64 dims: [ 1 ] }}
output {{ name: "SUM" data_type: TYPE_INT64 dims: [ 1 ] }}
instance_group {{ count: {count} kind: KIND_CPU {limits} }}
sequence_batching {{
  {strategy} {iterative} max_sequence_idle_microseconds: {idle * TICK_US}
  control_input {{ name: "READY"
    control {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} }}
  state {{ input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_INT64 dims: [ 1 ] }}
}}
"""
    return SequenceModelPlan(
        config=config,
        instances=tuple(f"q_0_{number}" for number in range(count)),
        slots=slots,
        idle_ticks=idle,
        is_iterative=is_iterative,
        latency_ticks=random.choice((0, 1, 2, 4)),
    )


def _draw_strategy(random: Random, max_batch: int) -> tuple[str, int]:
    """The strategy's text and how many slots each instance has."""
    slots = max(1, max_batch)
    delay = f"max_queue_delay_microseconds: {random.choice((0, 0, 2, 8)) * TICK_US}"
    if random.random() < 0.5:
        return f"direct {{ {delay} minimum_slot_utilization: {random.choice((0.0, 0.5))} }}", slots
    candidates = random.choice((0, 1, 2, 3, 6))
    order = random.choice(("", "preserve_ordering: true"))
    text = f"oldest {{ max_candidate_sequences: {candidates} {delay} {order} }}"
    return text, candidates or slots


def _draw_crowd(random: Random, clients: int) -> list[SequenceRequestPlan]:
    requests: list[SequenceRequestPlan] = []
    for number in range(1, random.randint(2, MAX_SEQUENCES) + 1):
        client = random.randrange(clients)
        at = random.choice((0, 0, 1, 4, 16))
        length = random.randint(1, MAX_PLACES)
        ends = random.random() < 0.7
        for place in range(length):
            flags = SequenceFlag.START if place == 0 else SequenceFlag.NONE
            if ends and place == length - 1:
                flags |= SequenceFlag.END
            tag = 1 << (MAX_PLACES * (number - 1) + place)
            # Numbers and names are ids alike.
            sequence = number if number % 2 else f"s{number}"
            requests.append(
                _draw_request(
                    random,
                    f"s{number}.{place}",
                    at,
                    client,
                    tag=tag,
                    sequence=sequence,
                    flags=flags,
                )
            )
            at += random.choice((0, 0, 0, 1, 2, 6, 40))
    return requests


def _draw_iterative(random: Random, clients: int) -> list[SequenceRequestPlan]:
    requests: list[SequenceRequestPlan] = []
    at = 0
    for number in range(random.randint(1, MAX_ITERATIVE)):
        turns = random.randint(1, MAX_TURNS)
        client = random.randrange(clients)
        tag = 1 << (3 * number)
        requests.append(_draw_request(random, f"i{number}", at, client, tag=tag, turns=turns))
        at += random.choice((0, 0, 0, 1, 4))
    return requests


def _draw_request(
    random: Random,
    name: str,
    at: int,
    client: int,
    *,
    tag: int,
    sequence: int | str = 0,
    flags: SequenceFlag = SequenceFlag.NONE,
    turns: int = 1,
) -> SequenceRequestPlan:
    patience = random.choice((0, 0, 0, 0, 0, 0, 4, 16))
    fuse = random.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 6))
    return SequenceRequestPlan(
        at=at,
        client=client,
        name=name,
        sequence=sequence,
        flags=flags,
        tag=tag,
        timeout_ticks=random.choice((0, 0, 0, 3, 20)),
        deadline_at=(at + patience) * TICK_SECONDS if patience else math.inf,
        cancel_at=at + fuse if fuse else -1,
        turns=turns,
    )


_FAULTS: Final = (
    "slow_instance", "worker_loss", "instance_crash", "client_vanishes", "stalled_reader",
    "unload_in_flight", "clock_leap",
)  # fmt: skip


def _draw_faults(
    random: Random, model: SequenceModelPlan, clients: int, last: int
) -> list[FaultPlan]:
    return [
        draw_fault(random, random.choice(_FAULTS), "q", model.instances, clients=clients, last=last)
        for _ in range(random.choice((0, 0, 0, 1, 1, 2)))
    ]
