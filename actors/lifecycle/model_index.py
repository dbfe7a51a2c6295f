"""What can be served right now: the snapshot that ModelRepository publishes through a Watch.

Frontends read it on every request, so a look-up is two dictionary accesses and no message. The
doors in it are borrowed: their schedulers own and close them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from actors.channels import Door
from actors.messages import Control, Submit
from actors.policy.queueing import Waiting
from actors.street.instance import Instance
from protocol.status import ServerError, StatusCode, invalid_arg, not_found, unavailable
from repo.model_config import ModelConfig
from repo.request_rules import RequestRules

_MAX_VERSION: Final = 2**63 - 1  # versions are int64 on the wire
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)  # no more digits than an int64 has

SEPARATOR: Final = "::"
"""Between a namespace and a model's name, as `repo.scan` prints them."""


UNLOADED: Final = "unloaded"
"""The reason of a version that somebody took out of service."""


class VersionState(Enum):
    """Where a version stands in its life; the words are those of the repository index."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True, eq=False)
class ServingVersion:
    """A loaded model version and the way in."""

    name: str
    version: int
    config: ModelConfig
    config_json: str
    rules: RequestRules
    doors: Sequence[Door[Submit]]  # one per priority level; a single one without priorities
    control: Door[Control]
    instances: Sequence[Instance]
    decoupled: bool
    priority_levels: int  # 0: no priorities
    default_level: int
    pending: Callable[[], int]  # requests accepted and not yet executing
    waiting: Callable[[], Mapping[int, Waiting]]  # the same by level, with the oldest's age
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by output name
    takes_device_tensors: bool = False  # else its inputs are copied to the host before
    # A field, because every response asks for it and a configuration answers slowly.
    has_batch_dimension: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_batch_dimension", self.config.max_batch_size > 0)

    def level_of(self, priority: int) -> int:
        """A request's priority as a level of this model; 0 and unknown ones mean the default."""
        return priority if 0 < priority <= self.priority_levels else self.default_level

    def door_of(self, level: int) -> Door[Submit]:
        """The way in for a level; models with more levels than doors share the last one."""
        doors = self.doors
        return doors[min(level, len(doors)) - 1] if level else doors[0]


@dataclass(frozen=True, slots=True, eq=False)
class VersionEntry:
    """One row of the repository index."""

    state: VersionState
    reason: str = ""
    serving: ServingVersion | None = None  # set exactly while READY


@dataclass(frozen=True, slots=True, eq=False)
class ModelEntry:
    """A model by name. `versions` is empty for one that was never touched.

    With namespaces the name is `<namespace>::<model>`, which no two models share.
    """

    name: str
    namespace: str = ""
    is_listed: bool = True  # it stands in a repository; one that does not lives until unloaded
    is_duplicate: bool = False  # it stands in several, so that none of them is taken
    versions: Mapping[int, VersionEntry] = field(default_factory=dict)
    latest: ServingVersion | None = None  # the highest READY version
    reason: str = ""  # why it cannot be loaded, when no version says so

    @property
    def plain_name(self) -> str:
        """Its name within its own repository."""
        return self.name[len(self.namespace) + len(SEPARATOR) :] if self.namespace else self.name


@dataclass(frozen=True, slots=True, eq=False)
class ModelIndex:
    """Every model of every repository."""

    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    # With namespaces: the full names by the plain ones.
    full_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ready: bool = False  # start-up loading has ended
    exiting: bool = False

    def find(self, name: str, version_text: str) -> ServingVersion:
        """The version that serves a request. Raises ServerError with Triton's wording."""
        entry = self.models.get(name)
        if entry is not None and not version_text and entry.latest is not None:
            return entry.latest
        return self._find_slowly(name, version_text, entry)

    def _find_slowly(
        self, name: str, version_text: str, entry: ModelEntry | None
    ) -> ServingVersion:
        version = parse_version(version_text)
        if entry is None and self.full_names:
            entry = self._only_one(name)
            if entry is not None and version is None and entry.latest is not None:
                return entry.latest
        subject = f"Request for unknown model: '{name}'"
        if entry is None or not entry.versions:
            raise not_found(f"{subject} is not found")
        if version is None:
            raise not_found(f"{subject} has no available versions")
        found = entry.versions.get(version)
        if found is None:
            raise not_found(f"{subject} version {version} is not found")
        if found.serving is None:
            raise unavailable(f"{subject} version {version} is not at ready state")
        return found.serving

    def _only_one(self, name: str) -> ModelEntry | None:
        """The model that a name without namespace means. Raises INVALID_ARG for several."""
        found = [self.models[full] for full in self.full_names.get(name, ())]
        found = [entry for entry in found if entry.versions] or found
        if len(found) > 1:
            raise invalid_arg(
                f"There are {len(found)} identifiers of model '{name}' in global map, model "
                "namespace must be provided to resolve ambiguity."
            )
        return found[0] if found else None

    def entry_of(self, name: str) -> ModelEntry | None:
        """A model by its full name, or its plain one. Raises INVALID_ARG if that is ambiguous."""
        return self.models.get(name) or self._only_one(name)

    def resolve(self, name: str, namespace: str) -> str | None:
        """The full name of a step's model, as seen from its ensemble's namespace.

        One of the same namespace comes first, then the only one of that name anywhere.
        """
        if not namespace and not self.full_names:
            entry = self.models.get(name)
            return name if entry is not None and _is_there(entry) else None
        own = f"{namespace}{SEPARATOR}{name}" if namespace else name
        candidates = [own] if own in self.models else []
        found = [full for full in candidates if _is_there(self.models[full])]
        if not found:
            others = self.full_names.get(name, ())
            found = [full for full in others if _is_there(self.models[full])]
        return found[0] if len(found) == 1 else None

    def serving(self) -> Iterator[ServingVersion]:
        """Every version that serves, by model name and version."""
        for _, entry in sorted(self.models.items()):
            for _, row in sorted(entry.versions.items()):
                if row.serving is not None:
                    yield row.serving

    def is_model_ready(self, name: str, version_text: str) -> ServingVersion | None:
        """Like `find`, but None for an unknown or unready model; a bad version still raises."""
        try:
            return self.find(name, version_text)
        except ServerError as error:
            if error.status is StatusCode.INVALID_ARG:
                raise
            return None


def _is_there(entry: ModelEntry) -> bool:
    return entry.is_listed or entry.latest is not None


def parse_version(text: str) -> int | None:
    """A version as the protocols write it; "" is None, the latest. Raises ServerError."""
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or not -_MAX_VERSION <= int(text) <= _MAX_VERSION:
        raise invalid_arg(
            f"failed to get model version from specified version string '{text}' "
            "(details: stol), version should be an integral value > 0"
        )
    if text.startswith("-"):
        raise invalid_arg(
            f"invalid model version specified '{text}' , version should be an integral value > 0"
        )
    return int(text)
