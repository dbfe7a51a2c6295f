"""A model repository without a disk: models come, go and change as a scenario says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from protocol.status import not_found
from repo.preparation import ModelDescription
from repo.scan import ModelIdentity, ModelTimestamps, Sighting

Describe = Callable[[str], ModelDescription]
"""Prepares the model of that name. Raises ServerError."""


class SimulatedSource:
    """What stands in the repository: by model name, when each of its entries last changed.

    An entry is a version, by its number, the configuration file, or any other name.
    """

    def __init__(self, describe: Describe, names: Collection[str]) -> None:
        self._describe = describe
        self._now_ns = 1
        self.entries = {name: {"1": 1, "config.pbtxt": 1} for name in names}
        self.duplicates: set[str] = set()
        self.is_broken = False  # the repository cannot be read

    def touch(self, name: str, entry: str = "1") -> None:
        """Somebody writes to a part of a model, which is made if it was not there."""
        self._now_ns += 1
        self.entries.setdefault(name, {"1": self._now_ns, "config.pbtxt": self._now_ns})
        self.entries[name][entry] = self._now_ns

    def remove(self, name: str) -> None:
        """Somebody deletes a model's directory."""
        del self.entries[name]

    async def look(self, names: Collection[str] | None = None) -> Mapping[str, Sighting]:
        if self.is_broken:
            raise not_found("the simulated repository cannot be read")
        return {
            name: self._sighting(name) for name in self.entries if names is None or name in names
        }

    async def describe(
        self, identity: ModelIdentity, parameters: Mapping[str, str | bytes]
    ) -> ModelDescription:
        seen = self._sighting(identity.name)
        return replace(self._describe(identity.name), seen=seen)

    def register(self, location: str, mapping: Mapping[str, str]) -> None:
        raise not_found(f"there is no place '{location}' in a simulation")

    def unregister(self, location: str) -> None:
        self.register(location, {})

    def _sighting(self, name: str) -> Sighting:
        entries = self.entries.get(name)
        if entries is None:
            raise not_found("")
        return Sighting(
            ModelIdentity("", name),
            path=name,
            timestamps=ModelTimestamps(max(entries.values()), dict(entries)),
            is_duplicate=name in self.duplicates,
        )
