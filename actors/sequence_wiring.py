"""The map of one model version with sequences: its channels with their capacities, its actors.

Submit door → SequenceBatcher → Execute channels → SequenceInstances → (OrderedReplies) → callers
Grants flow back from the instances, straight or through the server's RateLimiter, and so does
Released where the batcher has to hear of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from actors.channels import Door
from actors.messages import Control, Execute, Grant, Released
from actors.model_version import VersionActors
from actors.policy.sequencing import sequence_policy
from actors.sequence_batcher import SequenceBatcher
from actors.sequence_instance import SequenceInstance
from actors.version_wiring import (
    CONTROL_DOOR,
    QUEUE_CEILING,
    Front,
    VersionPorts,
    executors_of,
    grants_out,
    ordering_wiring,
    own_mailboxes,
    seat_of,
    serving_version,
    submit_doors,
)
from repo.implicit_state import StateKeeper, StatePlan
from repo.model_config import sequence_settings
from repo.preparation import ModelDescription
from repo.sequence_inputs import SequenceInputs
from repo.warmup import warmup_samples

# One batch of a sequence at a time: the next one needs the state that this one leaves behind.
AT_ONCE: Final = 1
# Requests that have ended, until the batcher looks; each is owed, so that more find room as well.
RELEASED_DOOR: Final = 64


def wire_sequences(
    description: ModelDescription, version: int, *, ports: VersionPorts, settings: Mapping[str, str]
) -> VersionActors:
    """A sequence batcher and its instances. Raises ServerError for a wrong initial state."""
    config = description.config
    key = (config.name, version)
    sequences = sequence_settings(config)
    assert sequences is not None, "wiring asks only for models with sequences"
    plan = StatePlan.load(config, description.directory)
    mailbox = ports.mailboxes.open("sequence batcher", key)
    control: Door[Control] = mailbox.door(CONTROL_DOOR)
    (door,) = submit_doors(mailbox, priority_levels=0)
    released: Door[Released] = mailbox.door(RELEASED_DOOR)
    seat = seat_of(ports, key, description)
    made = executors_of(description, version, settings, ports, seat)
    grants: Door[Grant] = mailbox.door(AT_ONCE * len(made))
    channels = [trio.open_memory_channel[Execute](AT_ONCE) for _ in made]  # a place per grant
    ordering = ordering_wiring(ports, key, AT_ONCE * len(made), sequences.preserve_ordering)
    samples = warmup_samples(config, description.directory)
    is_heard = sequences.strategy == "oldest" or sequences.iterative
    instances = [
        SequenceInstance(
            keeper=StateKeeper(plan),
            released=released if is_heard else None,
            reschedules=sequences.iterative,
            index=number,
            name=spec.name,
            key=key,
            executor=made[number],
            execute=channels[number][1],
            grants=grants_out(seat, grants, spec, AT_ONCE),
            carriers=AT_ONCE,
            statistics=ports.facts,
            warmup=() if spec.passive else samples,
            slow=ports.slow_teller(key),
        )
        for number, spec in enumerate(description.instances)
    ]
    batcher = SequenceBatcher(
        key=key,
        policy=sequence_policy(sequences, _executing(description)),
        inputs=SequenceInputs(config),
        pads=sequences.strategy == "direct",
        reschedules=sequences.iterative,
        mailbox=mailbox,
        control=control,
        grants=grants,
        released=released,
        door=door,
        instances=instances,
        execute=[send for send, _ in channels],
        statistics=ports.facts,
        ceiling=QUEUE_CEILING,
        ordering=ordering.seat if ordering else None,
        limiter=seat,
    )
    return VersionActors(
        serving=serving_version(description, version, Front([door], control), batcher, instances),
        scheduler=batcher,
        instances=instances,
        control=control,
        ordering=ordering.actor if ordering else None,
        seat=seat,
        grants=grants,
        specs=description.instances,
        closers=own_mailboxes(mailbox, ordering),
    )


def _executing(description: ModelDescription) -> list[int]:
    """The instances that are not passive, by their index."""
    return [number for number, spec in enumerate(description.instances) if not spec.passive]
