"""What a frontend process knows of the models: the core's index, sent whenever it has changed.

Owns the numbers, called handles, by which the two sides name one serving version, and the JSON of a
snapshot. A version's configuration is sent once; a frontend compiles its rules from it, so that
requests are judged where they come in. A version that the core no longer publishes keeps its handle
for nobody: requests that name it are judged anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from actors.channels import Door
from actors.lifecycle.model_index import (
    ModelEntry,
    ModelIndex,
    ServingVersion,
    VersionEntry,
    VersionState,
)
from actors.messages import Control, Submit
from actors.policy.queueing import Waiting
from repo.config_json import from_json
from repo.request_rules import RequestRules

Json = Mapping[str, object]


class Publisher:
    """The core's side, for one frontend."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}  # by the identity of what is published, kept below
        self._serving: dict[int, ServingVersion] = {}
        self._retired: dict[int, int] = {}  # handle → the first generation without it
        self._next = 1

    def find(self, handle: int) -> tuple[ServingVersion, bool]:
        """The version that the frontend means, and whether it is published still.

        Raises KeyError for a handle that the frontend cannot know any longer.
        """
        return self._serving[handle], handle not in self._retired

    def publish(self, index: ModelIndex, generation: int) -> Json:
        """The snapshot of an index; from now on its versions, and no others, are current."""
        serving = list(index.serving())
        current = {id(one) for one in serving}
        for handle, gone in self._serving.items():
            if id(gone) not in current and handle not in self._retired:
                self._retired[handle] = generation
                del self._handles[id(gone)]
        new: dict[str, Json] = {}
        for one in serving:
            if id(one) not in self._handles:
                handle = self._handles[id(one)] = self._next
                self._serving[handle] = one
                self._next += 1
                new[str(handle)] = _described(one)
        return {
            "models": {name: self._entry(entry) for name, entry in index.models.items()},
            "full_names": {name: list(full) for name, full in index.full_names.items()},
            "ready": index.ready,
            "exiting": index.exiting,
            "new": new,
        }

    def forget(self, generation: int) -> None:
        """The frontend has taken a snapshot in, and names no version that it did not have."""
        for handle, retired in list(self._retired.items()):
            if retired <= generation:
                del self._retired[handle]
                del self._serving[handle]

    def _entry(self, entry: ModelEntry) -> Json:
        return {
            "namespace": entry.namespace,
            "listed": entry.is_listed,
            "duplicate": entry.is_duplicate,
            "reason": entry.reason,
            "latest": None if entry.latest is None else self._handles[id(entry.latest)],
            "versions": {
                str(number): [
                    row.state.value,
                    row.reason,
                    None if row.serving is None else self._handles[id(row.serving)],
                ]
                for number, row in entry.versions.items()
            },
        }


def _described(serving: ServingVersion) -> Json:
    return {
        "name": serving.name,
        "version": serving.version,
        "config": serving.config_json,
        "doors": len(serving.doors),
        "decoupled": serving.decoupled,
        "levels": serving.priority_levels,
        "default_level": serving.default_level,
        "labels": {name: list(labels) for name, labels in serving.labels.items()},
    }


@dataclass(frozen=True, slots=True)
class Described:
    """A version as a snapshot brings it."""

    handle: int
    name: str
    version: int
    config: str
    doors: int
    decoupled: bool
    levels: int
    default_level: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


MakeDoors = Callable[[Described], Sequence[Door[Submit]]]
"""The ways in to a version."""


class Replica:
    """The frontend's side: the index with doors that lead to the core."""

    def __init__(self, *, make_doors: MakeDoors, control: Door[Control]) -> None:
        self._make_doors = make_doors
        self._control = control
        self._serving: dict[int, ServingVersion] = {}

    def apply(self, snapshot: Json) -> tuple[ModelIndex, Sequence[int]]:
        """The index of a snapshot, and the handles that it no longer has."""
        for text, described in _mapping(snapshot["new"]).items():
            version = Described(int(text), **described)  # type: ignore[arg-type]  # as `_described`
            self._serving[version.handle] = self._serve(version)
        used: set[int] = set()
        models = {
            name: self._entry(name, entry, used)
            for name, entry in _mapping(snapshot["models"]).items()
        }
        gone = [handle for handle in self._serving if handle not in used]
        for handle in gone:
            del self._serving[handle]
        full_names = cast("Mapping[str, Sequence[str]]", snapshot["full_names"])
        index = ModelIndex(
            models=models,
            full_names=full_names,
            ready=bool(snapshot["ready"]),
            exiting=bool(snapshot["exiting"]),
        )
        return index, gone

    def _entry(self, name: str, entry: Json, used: set[int]) -> ModelEntry:
        versions: dict[int, VersionEntry] = {}
        rows = cast("Mapping[str, tuple[str, str, int | None]]", entry["versions"])
        for number, (state, reason, handle) in rows.items():
            serving = None if handle is None else self._serving[handle]
            if handle is not None:
                used.add(handle)
            versions[int(number)] = VersionEntry(VersionState(state), reason, serving)
        latest = cast("int | None", entry["latest"])
        return ModelEntry(
            name,
            namespace=str(entry["namespace"]),
            is_listed=bool(entry["listed"]),
            is_duplicate=bool(entry["duplicate"]),
            versions=versions,
            latest=None if latest is None else self._serving[latest],
            reason=str(entry["reason"]),
        )

    def _serve(self, described: Described) -> ServingVersion:
        config = from_json(described.config)
        return ServingVersion(
            name=described.name,
            version=described.version,
            config=config,
            config_json=described.config,
            rules=RequestRules.compile(config),
            doors=self._make_doors(described),
            control=self._control,
            instances=(),
            decoupled=described.decoupled,
            priority_levels=described.levels,
            default_level=described.default_level,
            pending=_nothing_pending,
            waiting=_nothing_waiting,
            labels=described.labels,
        )


def _nothing_pending() -> int:
    """The queues are the core's."""
    return 0


def _nothing_waiting() -> Mapping[int, Waiting]:
    return {}


def _mapping(value: object) -> Mapping[str, Json]:
    assert isinstance(value, Mapping), "the core sends mappings here"
    return value
