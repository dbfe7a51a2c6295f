"""What a load means for what is loaded already: nothing, other instances, or other versions.

Owns the memory of every loaded model: what was seen of its files, and what was made of them. Only
a load that succeeded is remembered, so that whatever failed is tried again by the next load or
poll. It looks at no file and loads nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from repo.instance_groups import InstanceSpec
from repo.model_config import ensemble_scheduling
from repo.overrides import CONFIG
from repo.preparation import ModelDescription
from repo.scan import Sighting, version_files_changed

Parameters = Mapping[str, str | bytes]
"""What a load request brought along, by name."""

_MAY_CHANGE: Final = frozenset({"instance_group", "version_policy"})

OUT_OF_DATE: Final = (
    "Newer operation has been applied to the model lifecycle, current load operation is out-dated."
)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is to become of the versions that a model shall have."""

    fresh: tuple[int, ...]  # made anew, beside an old one if there is one
    updated: tuple[int, ...]  # go on, with other instances where these differ


class Lifecycle:
    """The models that were loaded, as they were then."""

    def __init__(self) -> None:
        self._loaded: dict[str, ModelDescription] = {}

    def parameters(self, name: str, given: Parameters, seen: Sighting | None) -> Parameters:
        """What a model is to be described with: a configuration outlives the request it came with.

        It is the model's own until its files change or the model is unloaded.
        """
        known = self._loaded.get(name)
        if given or known is None or known.given_config is None:
            return given
        if known.seen is None or seen is None or is_modified(known.seen, seen):
            return given
        return {CONFIG: known.given_config}

    def is_current(
        self, name: str, given: Parameters, seen: Sighting, serving: Collection[int]
    ) -> bool:
        """Whether a load would change nothing: every version serves, and no file has changed."""
        known = self._loaded.get(name)
        return (
            not given
            and not self.is_news(name, seen)
            and known is not None
            and set(known.versions) == set(serving)
        )

    def is_news(self, name: str, seen: Sighting) -> bool:
        """Whether a poll has to load it: it was never loaded as it is, or that failed."""
        known = self._loaded.get(name)
        return known is None or known.seen is None or is_modified(known.seen, seen)

    def plan(self, new: ModelDescription, serving: Collection[int]) -> LoadPlan:
        """Which of the wanted versions are made anew, and which only get other instances."""
        old = self._loaded.get(new.name)
        if old is None or not may_be_updated(old, new):
            return LoadPlan(new.versions, ())
        assert old.seen is not None, "otherwise it cannot be updated"
        assert new.seen is not None, "otherwise it cannot be updated"
        updated = [
            version
            for version in new.versions
            if version in serving
            and not version_files_changed(old.seen.timestamps, new.seen.timestamps, version)
        ]
        fresh = [version for version in new.versions if version not in updated]
        return LoadPlan(tuple(fresh), tuple(updated))

    def remember(self, description: ModelDescription) -> None:
        """A load has succeeded."""
        self._loaded[description.name] = description

    def forget(self, name: str) -> None:
        """A model was unloaded: it comes back as its own files say."""
        self._loaded.pop(name, None)


def is_modified(old: Sighting, new: Sighting) -> bool:
    """Whether a model's files have changed: something is newer than all of it was, or it moved."""
    newer = new.timestamps.latest_ns > old.timestamps.latest_ns
    return newer or new.path != old.path


def may_be_updated(old: ModelDescription, new: ModelDescription) -> bool:
    """Whether running versions could go on with another instance group or version policy."""
    if old.seen is None or new.seen is None or old.seen.path != new.seen.path:
        return False
    if ensemble_scheduling(new.config) is not None:
        return False
    return what_an_update_keeps(old) == what_an_update_keeps(new)


def what_an_update_keeps(description: ModelDescription) -> Mapping[str, object]:
    """A configuration without its instance groups and version policy, to be compared."""
    fields = json.loads(description.config_json)
    return {name: field for name, field in fields.items() if name not in _MAY_CHANGE}


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How the instances there are become those that are wanted."""

    kept: tuple[int, ...]  # indexes of running ones
    surplus: tuple[int, ...]  # likewise
    missing: tuple[InstanceSpec, ...]


def reconcile(
    running: Mapping[int, InstanceSpec], wanted: Sequence[InstanceSpec]
) -> Reconciliation:
    """Match instances by what they are made from; of equal ones the newest are surplus."""
    needed = Counter(spec.signature for spec in wanted)
    kept: list[int] = []
    surplus: list[int] = []
    for index, spec in sorted(running.items()):
        if needed[spec.signature]:
            needed[spec.signature] -= 1
            kept.append(index)
        else:
            surplus.append(index)
    missing: list[InstanceSpec] = []
    for spec in reversed(wanted):  # the last ones of a group are those that it did not have
        if needed[spec.signature]:
            needed[spec.signature] -= 1
            missing.insert(0, spec)
    return Reconciliation(tuple(kept), tuple(surplus), tuple(missing))
