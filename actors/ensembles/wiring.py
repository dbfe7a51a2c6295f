"""The map of one ensemble version: doors for its callers and one actor, but no instances.

Submit door → Ensemble → the members' own doors; their replies come back to the Ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.channels import Door
from actors.ensembles.ensemble import MEMBER_WINDOW, Ensemble
from actors.ensembles.members import Members
from actors.lifecycle.model_index import ServingVersion
from actors.lifecycle.model_version import VersionActors
from actors.messages import Control
from actors.policy.dataflow import Dataflow
from actors.policy.dataflow_graph import Graph
from actors.version_wiring import (
    CONTROL_DOOR,
    QUEUE_CEILING,
    VersionPorts,
    open_front,
    serving_version,
    submit_doors,
)
from protocol.status import ServerError
from repo.model_config import EnsembleSettings, ensemble_settings
from repo.preparation import ModelDescription


def wire_ensemble(
    description: ModelDescription, version: int, *, ports: VersionPorts
) -> VersionActors:
    """An ensemble whose members are loaded. `description` was judged together with theirs."""
    config = description.config
    settings = ensemble_settings(config)
    assert settings is not None, "wiring asks only for ensembles"
    key = (description.name, version)
    # The steps of a judged ensemble mean these very models, whatever comes to the name later.
    steps = [
        replace(step, model_name=description.members[step.model_name]) for step in settings.steps
    ]
    members = Members(steps, ports.calls.index)
    lineup = members.now().servings
    graph = Graph(
        settings.steps,
        inputs=[one.name for one in config.input],
        outputs=[one.name for one in config.output],
        decoupled=members.decoupled,
    )
    limit = settings.max_inflight_requests
    mailbox = ports.mailboxes.open("ensemble", key)
    control: Door[Control] = mailbox.door(CONTROL_DOOR)
    doors = submit_doors(mailbox, priority_levels=0)
    ensemble = Ensemble(
        key=key,
        graph=graph,
        policy=Dataflow(
            config.name,
            graph,
            batches=config.max_batch_size > 0,
            output_dims={one.name: tuple(one.dims) for one in config.output},
            max_inflight=limit,
        ),
        members=members,
        calls=ports.calls,
        mailbox=mailbox,
        control=control,
        doors=doors,
        statistics=ports.facts,
        ceiling=QUEUE_CEILING,
        # A limit is there to bound memory: then no more lies in a window than may be under way.
        window=min(limit, MEMBER_WINDOW) or MEMBER_WINDOW,
        slow=ports.slow_teller(key),
    )
    way_in = open_front(ports.cache, description, key, doors, control)
    labelled = replace(description, labels=_labels(description, settings, lineup))
    return VersionActors(
        serving=serving_version(labelled, version, way_in, ensemble, instances=()),
        scheduler=ensemble,
        crew=None,
        control=control,
        ordering=None,
        closers=[mailbox.close, *way_in.closers],
        under_way=ensemble.under_way,
        members=frozenset(description.members.values()),
    )


def _labels(
    description: ModelDescription,
    settings: EnsembleSettings,
    lineup: Sequence[ServingVersion | ServerError],
) -> Mapping[str, Sequence[str]]:
    """The ensemble's own labels, and for other outputs those of the model that makes them."""
    labels = dict(description.labels)
    for step, serving in zip(settings.steps, lineup, strict=True):
        if isinstance(serving, ServerError):
            continue
        for output, tensor in step.output_map.items():
            if output in serving.labels:
                labels.setdefault(tensor, serving.labels[output])
    return labels
