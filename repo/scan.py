"""What model repositories hold, as one immutable snapshot, and how two snapshots differ.

Owns the naming of models (with and without namespaces), the detection of duplicates, and the
timestamps by which a change is noticed. It reads directory entries only: never a configuration,
never a model file. Loading, and remembering which load failed, is the business of the actors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from repo.config_files import CONFIG_FILES, config_files, only_one
from repo.storage import Storage
from repo.versions import discover_versions

CONFIG_DIRECTORY: Final = "configs"


class ModelIdentity(NamedTuple):
    """A model's place among all repositories; `namespace` is "" unless namespacing is on."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}::{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Repository:
    """One place to look for models.

    `mapping` (model name → subdirectory) comes from a registration: a mapped subdirectory is seen
    under its mapped name only.
    """

    storage: Storage
    mapping: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelTimestamps:
    """When a model directory changed, in ns: itself, and the tree of each direct entry.

    All zero when any part could not be read, so that the next readable scan counts as a change.
    """

    directory_ns: int = 0
    entries_ns: Mapping[str, int] = field(default_factory=dict)

    @property
    def latest_ns(self) -> int:
        return max(self.directory_ns, *self.entries_ns.values(), 0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look at the repositories told of a model, without reading any file of it."""

    identity: ModelIdentity
    path: str = ""  # of its directory, as messages print it
    timestamps: ModelTimestamps = field(default_factory=ModelTimestamps)
    is_duplicate: bool = False  # several repositories have it, so that none is taken


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model directory; `directory` is relative to its repository's root."""

    identity: ModelIdentity
    storage: Storage
    directory: str
    timestamps: ModelTimestamps
    subdirectories: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def is_mapped(self) -> bool:
        """Whether it has another name than its directory."""
        return self.directory.rpartition("/")[2] != self.name

    @property
    def path(self) -> str:
        return self.storage.full_path(self.directory)

    @property
    def sighting(self) -> Sighting:
        return Sighting(self.identity, self.path, self.timestamps)

    def versions(self) -> tuple[int, ...]:
        """The versions found, ascending; warns of directories that are none."""
        return discover_versions(self.subdirectories)

    def config_path(self, config_name: str = "") -> str | None:
        """The configuration file, relative to the repository; None when the model has none.

        `config_name` picks `configs/<name>.pbtxt`, or another of its forms, where that exists.
        Raises ServerError where several files are it.
        """
        names: tuple[str, ...] = ()
        if config_name and CONFIG_DIRECTORY in self.subdirectories:
            stem = f"{CONFIG_DIRECTORY}/{config_name}"
            names = tuple(one for one in config_files(stem) if self._exists(one))
        if not names:
            listed = self.timestamps.entries_ns  # empty where the directory could not be read
            candidates = [one for one in CONFIG_FILES if one in listed or not listed]
            names = tuple(one for one in candidates if self._exists(one))
        name = only_one(names, self.name)
        return None if name is None else f"{self.directory}/{name}"

    def _exists(self, name: str) -> bool:
        return self.storage.exists(f"{self.directory}/{name}")


@dataclass(frozen=True, slots=True)
class RepositoryListing:
    """Every model of every repository. A duplicate is in `duplicates` and not in `models`."""

    models: Mapping[ModelIdentity, ModelEntry] = field(default_factory=dict)
    duplicates: frozenset[ModelIdentity] = frozenset()


@dataclass(frozen=True, slots=True)
class ListingDiff:
    """What became of the models between two listings; each tuple is sorted."""

    added: tuple[ModelIdentity, ...]
    removed: tuple[ModelIdentity, ...]
    modified: tuple[ModelIdentity, ...]
    unmodified: tuple[ModelIdentity, ...]


def scan(
    repositories: Sequence[Repository],
    *,
    namespacing: bool = False,
    names: Collection[str] | None = None,
) -> RepositoryListing:
    """List the models of all repositories. Raises OSError when a repository itself is unreadable.

    Every directory is a model, hidden ones too; plain files are not. `names` asks for some of them,
    with or without their namespaces.
    """
    models: dict[ModelIdentity, ModelEntry] = {}
    duplicates: set[ModelIdentity] = set()
    for repository in repositories:
        namespace = repository.storage.location if namespacing else ""
        for name, directory in _model_directories(repository):
            identity = ModelIdentity(namespace, name)
            if names is not None and name not in names and str(identity) not in names:
                continue
            if identity in models:
                duplicates.add(identity)
            else:
                models[identity] = read_entry(repository.storage, identity, directory)
    for identity in duplicates:
        del models[identity]
    return RepositoryListing(models, frozenset(duplicates))


def read_entry(storage: Storage, identity: ModelIdentity, directory: str) -> ModelEntry:
    """One model directory; an unreadable one has zero timestamps and no subdirectories."""
    try:
        entries = storage.entries(directory)
        timestamps = ModelTimestamps(
            storage.latest_change_ns(directory, recursive=False),
            {one.name: storage.latest_change_ns(f"{directory}/{one.name}") for one in entries},
        )
    except OSError:
        return ModelEntry(identity, storage, directory, ModelTimestamps(), ())
    subdirectories = tuple(entry.name for entry in entries if entry.is_directory)
    return ModelEntry(identity, storage, directory, timestamps, subdirectories)


def diff(old: RepositoryListing, new: RepositoryListing) -> ListingDiff:
    """What changed: *modified* means that the newest change is newer than it was before."""
    kept = sorted(old.models.keys() & new.models.keys())
    modified = [
        identity
        for identity in kept
        if new.models[identity].timestamps.latest_ns > old.models[identity].timestamps.latest_ns
        or new.models[identity].path != old.models[identity].path
    ]
    changed = set(modified)
    return ListingDiff(
        added=tuple(sorted(new.models.keys() - old.models.keys())),
        removed=tuple(sorted(old.models.keys() - new.models.keys())),
        modified=tuple(modified),
        unmodified=tuple(identity for identity in kept if identity not in changed),
    )


def version_files_changed(old: ModelTimestamps, new: ModelTimestamps, version: int) -> bool:
    """Whether a loaded `version` must be loaded anew because files that it may read changed.

    These are its own directory and everything beside the version directories, except the
    configuration: that is compared by content.
    """
    return _files_of(old, version) != _files_of(new, version)


def _files_of(timestamps: ModelTimestamps, version: int) -> dict[str, int]:
    return {
        name: changed_ns
        for name, changed_ns in timestamps.entries_ns.items()
        if name == str(version)
        or not (name.isdecimal() or name in {*CONFIG_FILES, CONFIG_DIRECTORY})
    }


def _model_directories(repository: Repository) -> list[tuple[str, str]]:
    """(model name, directory) of every model of one repository."""
    found = [entry.name for entry in repository.storage.entries() if entry.is_directory]
    mapped = set(repository.mapping.values())
    pairs = [(name, name) for name in found if name not in mapped]
    pairs += [(name, place) for name, place in repository.mapping.items() if place in found]
    return pairs
