"""Checkers of what is executed: how much, where, with what."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from simulation.ledger import Ledger, Life, Ran

Place = tuple[str, int | None]
"""A resource's name and its device; a global resource has none."""


def batches_fit(ledger: Ledger) -> Iterator[str]:
    """No batch is larger than the model takes, mixes shapes, or is what nobody asked for."""
    for ran in ledger.ran:
        life = ran.life
        if ran.batch_size > life.batching.max_batch_size:
            yield f"{ran.names} are {ran.batch_size} together, more than the maximum"
        batches = life.is_dynamic or life.has_sequences or ran.is_warmup
        if not batches and len(ran.names) != 1:
            yield f"{ran.names} were batched by the default scheduler"
        members = [ledger.asked[name] for name in ran.names if name in ledger.asked]
        if len({member.shape_key for member in members}) > 1:
            yield f"{ran.names} have different shapes"
        if len(members) == len(ran.names):
            size = sum(member.batch for member in members)
            # A batch of sequences may be padded.
            if size != ran.batch_size and not (life.has_sequences and size < ran.batch_size):
                yield f"{ran.names} are {size} together, not {ran.batch_size}"
        if any(member.life is not life for member in members):
            yield f"{ran.names} ran in a version that they were not given to"


def instances_run_one_batch(ledger: Ledger) -> Iterator[str]:
    """An instance runs one batch at a time and was given no more than two; passive ones, none.

    This is what conserving grants looks like from outside.
    """
    for life, name, runs in _by_instance(ledger):
        if any(spec.name == name and spec.passive for spec in life.instances):
            yield f"the passive instance {name} was given {runs[0].names}"
        for earlier, later in itertools.pairwise(runs):
            if later.began_at < earlier.ended_at and later.began_at < math.inf:
                yield f"{name} began {later.names} while it ran {earlier.names}"
        for earlier, later in zip(runs, runs[2:], strict=False):
            if later.at < earlier.ended_at:
                yield f"{name} was given {later.names} with two batches before it"


def _by_instance(ledger: Ledger) -> Iterator[tuple[Life, str, list[Ran]]]:
    groups: dict[tuple[int, str], list[Ran]] = {}
    for ran in ledger.ran:
        groups.setdefault((id(ran.life), ran.instance), []).append(ran)
    for (_, name), runs in groups.items():
        yield runs[0].life, name, runs


def resources_suffice(ledger: Ledger) -> Iterator[str]:
    """Under the rate limiter, what runs at once never needs more of anything than there is."""
    if not ledger.is_limited:
        return
    needs = {
        (id(life), spec.name): Counter(
            {
                (need.name, None if need.is_global else spec.device_id): need.count
                for need in spec.resources
            }
        )
        for life in ledger.lives
        for spec in life.instances
    }
    capacity: Counter[Place] = Counter()
    for counts in needs.values():
        for place, count in counts.items():
            capacity[place] = max(capacity[place], count)
    capacity.update(
        {
            place: ledger.declared[place[0]] - count
            for place, count in capacity.items()
            if place[0] in ledger.declared
        }
    )
    for ran in ledger.ran:
        used: Counter[Place] = Counter()
        for other in ledger.ran:
            if other.order <= ran.order and other.ended_at > ran.at:
                used.update(needs[id(other.life), other.instance])
        for place, count in used.items():
            if count > capacity[place]:
                yield f"{count} of {place[0]} are in use at {ran.at}, of {capacity[place]}"
