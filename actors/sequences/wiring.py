"""The map of one model version with sequences: its channels with their capacities, its actors.

Submit door → SequenceBatcher → Execute doors → SequenceInstances → (OrderedReplies) → callers
Grants flow back from the instances, straight or through the server's RateLimiter, and so does
Released where the batcher has to hear of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from actors.channels import Door
from actors.lifecycle.crew import Crew, Recruit
from actors.lifecycle.model_version import VersionActors
from actors.messages import Control, Grant, Released
from actors.policy.sequencing import sequence_policy
from actors.sequences.batcher import SequenceBatcher
from actors.sequences.instance import SequenceInstance
from actors.version_wiring import (
    CONTROL_DOOR,
    QUEUE_CEILING,
    Front,
    VersionPorts,
    execute_door,
    executor_of,
    grants_out,
    ordering_wiring,
    own_mailboxes,
    seat_of,
    serving_version,
    submit_doors,
)
from repo.implicit_state import StateKeeper, StatePlan
from repo.instance_groups import InstanceSpec
from repo.model_config import SequenceSettings, sequence_settings
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
    key = (description.name, version)
    sequences = sequence_settings(config)
    assert sequences is not None, "wiring asks only for models with sequences"
    plan = StatePlan.load(config, description.directory)
    mailbox = ports.mailboxes.open("sequence batcher", key)
    control: Door[Control] = mailbox.door(CONTROL_DOOR)
    (door,) = submit_doors(mailbox, priority_levels=0)
    released: Door[Released] = mailbox.door(RELEASED_DOOR)
    seat = seat_of(ports, key)
    grants: Door[Grant] = mailbox.door(1)  # the crew makes it as wide as it has to be
    ordering = ordering_wiring(ports, key, sequences.preserve_ordering)
    executors = partial(executor_of, version=version, settings=settings, ports=ports, seat=seat)

    def recruit(description: ModelDescription, spec: InstanceSpec, index: int) -> Recruit:
        own, execute = execute_door(ports, key, AT_ONCE)
        if ordering is not None:
            ordering.make_room(AT_ONCE)
        instance = SequenceInstance(
            keeper=StateKeeper(plan),
            released=released if _is_heard(sequences) else None,
            reschedules=sequences.iterative,
            index=index,
            name=spec.name,
            key=key,
            executor=executors(description, spec, index),
            mailbox=own,
            execute=execute,
            grants=grants_out(seat, grants, spec, AT_ONCE),
            statistics=ports.facts,
            warmup=() if spec.passive else warmup_samples(config, description.directory),
            slow=ports.slow_teller(key),
        )
        return Recruit(spec, instance, execute, AT_ONCE)

    crew = Crew(description, recruiter=recruit, control=control, grants=grants, seat=seat)
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
        instances=crew.instances,
        execute=crew.execute,
        statistics=ports.facts,
        ceiling=QUEUE_CEILING,
        ordering=ordering.seat if ordering else None,
        limiter=seat,
        slow=ports.slow_teller(key),
    )
    front = Front([door], control)
    return VersionActors(
        serving=serving_version(description, version, front, batcher, crew.instances),
        scheduler=batcher,
        crew=crew,
        control=control,
        ordering=ordering.actor if ordering else None,
        closers=own_mailboxes(mailbox, ordering),
    )


def _is_heard(sequences: SequenceSettings) -> bool:
    """Whether the batcher has to know when a request has ended."""
    return sequences.strategy == "oldest" or sequences.iterative


def _executing(description: ModelDescription) -> list[int]:
    """The instances that are not passive, by their index."""
    return [number for number, spec in enumerate(description.instances) if not spec.passive]
