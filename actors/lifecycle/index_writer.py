"""The one writer of the ModelIndex: small changes become new snapshots.

Owns the cell while ModelRepository lives; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from actors.channels import Watch
from actors.lifecycle.model_index import ModelEntry, ModelIndex, VersionEntry
from repo.scan import Sighting

DUPLICATE: Final = "model appears in two or more repositories"


class IndexWriter:
    """Publishes what changed."""

    def __init__(self, index: Watch[ModelIndex]) -> None:
        self._index = index

    @property
    def value(self) -> ModelIndex:
        """What is published now."""
        return self._index.value

    def resolve(self, step: str, namespace: str) -> str | None:
        """See ModelIndex, as it is published now."""
        return self.value.resolve(step, namespace)

    def publish(self, index: ModelIndex) -> None:
        self._index.publish(index)

    def see(self, sightings: Mapping[str, Sighting], *, is_all: bool) -> None:
        """Note which models stand in the repositories; `is_all` if nothing else stands there."""
        models = dict(self.value.models)
        for name, seen in sightings.items():
            entry = models.get(name) or ModelEntry(name, namespace=seen.identity.namespace)
            reason = entry.reason
            if seen.is_duplicate or entry.is_duplicate:
                reason = DUPLICATE if seen.is_duplicate else ""
            models[name] = replace(
                entry, is_listed=True, is_duplicate=seen.is_duplicate, reason=reason
            )
        for name, entry in list(models.items()) if is_all else ():
            if name in sightings:
                continue
            if entry.versions:
                models[name] = replace(entry, is_listed=False, is_duplicate=False, reason="")
            else:
                del models[name]
        self._publish_models(models)

    def set_reason(self, name: str, reason: str) -> None:
        """Say why a known model cannot be loaded."""
        self.publish_entry(replace(self.value.models[name], reason=reason))

    def set_version(self, name: str, version: int, row: VersionEntry) -> None:
        """Change one version's row."""
        # A model that a request brought stands in no repository.
        entry = self.value.models.get(name) or ModelEntry(name, is_listed=False)
        self.publish_entry(replace(entry, versions={**entry.versions, version: row}))

    def publish_entry(self, entry: ModelEntry) -> None:
        """Replace a model's entry; which version is the latest follows from its rows."""
        ready = [number for number, row in entry.versions.items() if row.serving is not None]
        latest = entry.versions[max(ready)].serving if ready else None
        models = {**self.value.models, entry.name: replace(entry, latest=latest)}
        self._publish_models(models)

    def _publish_models(self, models: Mapping[str, ModelEntry]) -> None:
        index = self.value
        full_names = index.full_names
        if models.keys() != index.models.keys():
            found: dict[str, list[str]] = {}
            for name, entry in models.items():
                if entry.namespace:
                    found.setdefault(entry.plain_name, []).append(name)
            full_names = found
        self.publish(replace(index, models=models, full_names=full_names))
