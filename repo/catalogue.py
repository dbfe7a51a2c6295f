"""The repositories of one server: those it was started with, and those that were registered since.

Owns the list of them and the texts with which a registration is refused. What stands in them is
read by `scan`. Looking blocks and may run in a thread: it works on the list as it was then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from protocol.status import ServerError, already_exists, invalid_arg
from repo.scan import ModelEntry, ModelIdentity, Repository, RepositoryListing, Sighting, scan
from repo.storage import Downloads, open_storage


class Catalogue:
    """A model is looked for in every repository."""

    def __init__(
        self, locations: Sequence[str], downloads: Downloads, *, namespacing: bool = False
    ) -> None:
        """Raises ServerError for a location that is no repository."""
        self.namespacing = namespacing
        self._downloads = downloads
        self._repositories: tuple[Repository, ...] = tuple(
            Repository(open_storage(location, downloads)) for location in dict.fromkeys(locations)
        )

    def look(self, names: Collection[str] | None = None) -> dict[str, Sighting]:
        """What there is, or what there is of `names`, by `<namespace>::<model>`.

        Raises OSError when a repository cannot be read.
        """
        listing = self._listing(names)
        seen = {str(identity): entry.sighting for identity, entry in listing.models.items()}
        for identity in listing.duplicates:
            seen[str(identity)] = Sighting(identity, is_duplicate=True)
        return seen

    def find(self, identity: ModelIdentity) -> ModelEntry | None:
        """One model as it stands there now; None when there is none, or several."""
        return self._listing([identity.name]).models.get(identity)

    def register(self, location: str, mapping: Mapping[str, str]) -> None:
        """Add a repository; its `mapping` names models that stand in other directories.

        Raises ServerError.
        """
        if any(one.storage.location == location for one in self._repositories):
            raise already_exists(f"model repository '{location}' has already been registered")
        try:
            storage = open_storage(location, self._downloads)
        except ServerError:
            if not Path(location).is_dir():
                text = f"failed to register '{location}', repository not found"
                raise invalid_arg(text) from None
            raise
        if not self.namespacing:
            taken = {name for one in self._repositories for name in one.mapping}
            for name in mapping:
                if name in taken:
                    raise already_exists(
                        f"failed to register '{name}', there is a conflicting mapping for '{name}'"
                    )
        self._repositories += (Repository(storage, dict(mapping)),)

    def unregister(self, location: str) -> None:
        """Look there no longer. Models that were loaded from it go on. Raises ServerError."""
        rest = tuple(one for one in self._repositories if one.storage.location != location)
        if len(rest) == len(self._repositories):
            raise invalid_arg(f"failed to unregister '{location}', repository not found")
        self._repositories = rest

    def _listing(self, names: Collection[str] | None) -> RepositoryListing:
        return scan(self._repositories, namespacing=self.namespacing, names=names)
