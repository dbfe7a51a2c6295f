"""The one writer of the ModelIndex: small changes become new snapshots.

Owns the cell while ModelRepository lives; decides nothing.
"""

from __future__ import annotations

from dataclasses import replace

from actors.channels import Watch
from actors.model_index import ModelEntry, ModelIndex, VersionEntry


class IndexWriter:
    """Publishes what changed."""

    def __init__(self, index: Watch[ModelIndex]) -> None:
        self._index = index

    @property
    def value(self) -> ModelIndex:
        """What is published now."""
        return self._index.value

    def publish(self, index: ModelIndex) -> None:
        self._index.value = index

    def set_reason(self, name: str, reason: str) -> None:
        """Say why a known model cannot be loaded."""
        self.publish_entry(replace(self.value.models[name], reason=reason))

    def set_version(self, name: str, version: int, row: VersionEntry) -> None:
        """Change one version's row."""
        entry = self.value.models.get(name, ModelEntry(name))
        self.publish_entry(replace(entry, versions={**entry.versions, version: row}))

    def publish_entry(self, entry: ModelEntry) -> None:
        """Replace a model's entry; which version is the latest follows from its rows."""
        ready = [number for number, row in entry.versions.items() if row.serving is not None]
        latest = entry.versions[max(ready)].serving if ready else None
        index = self.value
        models = {**index.models, entry.name: replace(entry, latest=latest)}
        self.publish(replace(index, models=models))
