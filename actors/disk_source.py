"""Models on disk, as ModelRepository asks for them.

Owns nothing but the list of repositories. Reading files and opening models to complete their
configuration block, so each description is made in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import trio

from actors.options import ServerOptions
from protocol.status import internal, not_found
from repo.backends.base import InstanceContext
from repo.backends.registry import PYTHON, auto_complete, preferred_groups
from repo.config_json import from_json
from repo.instance_groups import DeviceTable
from repo.model_config import ModelConfig, ensemble_scheduling
from repo.overrides import LoadOverrides, override_directory, parse_overrides
from repo.pbtxt import read_config
from repo.preparation import Complete, ModelDescription, ModelFiles, prepare
from repo.scan import ModelEntry, ModelIdentity, Repository, read_entry, scan
from repo.storage import Checkout, LocalStorage, open_storage

CompletePython = Callable[[InstanceContext], Awaitable[str | None]]
"""Asks a model.py for its configuration, as JSON; None when it has nothing to say."""

DUPLICATE = "model appears in two or more repositories"


class DiskSource:
    """The repositories that --model-repository names."""

    def __init__(
        self, options: ServerOptions, *, devices: DeviceTable, complete_python: CompletePython
    ) -> None:
        self._options = options
        self._devices = devices
        self._complete_python = complete_python
        # Configurations that load requests brought, and when the model's files had last changed.
        self._configs: dict[str, tuple[str, int]] = {}
        self._repositories = [
            Repository(open_storage(location))
            for location in dict.fromkeys(options.model_repository)
        ]

    async def names(self) -> Mapping[str, str]:
        """Every model directory; a name that two repositories share cannot be loaded."""
        listing = await trio.to_thread.run_sync(scan, self._repositories)
        names = {identity.name: "" for identity in listing.models}
        return names | {identity.name: DUPLICATE for identity in listing.duplicates}

    async def describe(self, name: str, parameters: Mapping[str, str | bytes]) -> ModelDescription:
        overrides = parse_overrides(parameters)
        return await trio.to_thread.run_sync(self._describe, name, overrides)

    def forget(self, name: str) -> None:
        """The model was unloaded: it comes back with the configuration of its own files."""
        self._configs.pop(name, None)

    def _describe(self, name: str, overrides: LoadOverrides) -> ModelDescription:
        if overrides.files:
            return self._describe_override(name, overrides)
        listing = scan(self._repositories)
        entry = next((one for key, one in listing.models.items() if key.name == name), None)
        if entry is None:
            if any(identity.name == name for identity in listing.duplicates):
                raise not_found(DUPLICATE)
            raise not_found("")
        checkout = entry.storage.checkout(entry.directory)
        return self._prepare(
            self._choose_config(entry, overrides, checkout.directory), entry, checkout
        )

    def _describe_override(self, name: str, overrides: LoadOverrides) -> ModelDescription:
        """A model made of a request's files; what stands in the repository is not looked at."""
        assert overrides.config is not None, "files come with a configuration"
        checkout = override_directory(name, overrides.files)
        storage = LocalStorage(str(checkout.directory.parent))
        entry = read_entry(storage, ModelIdentity("", name), name)
        description = self._prepare(self._override(name, overrides.config), entry, checkout)
        self.forget(name)
        return description

    def _prepare(
        self, config: ModelConfig, entry: ModelEntry, checkout: Checkout
    ) -> ModelDescription:
        directory = checkout.directory
        completes = not self._options.disable_auto_complete_config
        description = prepare(
            config,
            _files(entry, directory),
            devices=self._devices,
            complete=self._complete(directory) if completes else None,
            prefer=preferred_groups,
        )
        return replace(description, checkout=checkout)

    def _choose_config(
        self, entry: ModelEntry, overrides: LoadOverrides, directory: Path
    ) -> ModelConfig:
        """The request's, else the last request's while no file has changed, else the file's."""
        changed_ns = entry.timestamps.latest_ns
        if overrides.config is not None:
            config = self._override(entry.name, overrides.config)
            self._configs[entry.name] = (overrides.config, changed_ns)
            return config
        known = self._configs.get(entry.name)
        if known is not None and known[1] == changed_ns:
            return self._override(entry.name, known[0])
        self.forget(entry.name)
        return self._read_config(entry, directory)

    def _override(self, name: str, text: str) -> ModelConfig:
        config = from_json(text)
        config.name = config.name or name
        return config

    def _read_config(self, entry: ModelEntry, directory: Path) -> ModelConfig:
        path = entry.config_path(self._options.model_config_name)
        if path is not None:
            return read_config(directory / Path(path).relative_to(entry.directory))
        if self._options.disable_auto_complete_config:
            path = f"{entry.path}/config.pbtxt"
            raise internal(f"failed to open text file for read {path}: No such file or directory")
        return ModelConfig(name=entry.name)

    def _complete(self, directory: Path) -> Complete:
        def complete(config: ModelConfig, version: int) -> ModelConfig:
            if ensemble_scheduling(config) is not None:
                return config  # it has no files that could tell anything
            context = InstanceContext(
                config=config,
                version=version,
                model_directory=directory,
                instance_name=config.name,
                kind="CPU",
                settings=self._options.backend_settings(config.backend),
            )
            if config.backend != PYTHON:
                return auto_complete(context)
            if not _may_complete_itself(context):
                return config
            completed = trio.from_thread.run(self._complete_python, context)
            return config if completed is None else from_json(completed)

        return complete


def _may_complete_itself(context: InstanceContext) -> bool:
    """Whether a model.py can have an `auto_complete_config`; asking it costs a whole process.

    It has one if any of its own files names it, and may have inherited one from a library if its
    configuration is not complete as it stands.
    """
    if not (context.config.input and context.config.output):
        return True
    for directory in (context.version_directory, context.model_directory):
        for path in directory.glob("*.py"):
            if b"auto_complete_config" in path.read_bytes():
                return True
    return False


def _files(entry: ModelEntry, directory: Path) -> ModelFiles:
    """What preparation wants to know of the directory; formats are told by its first directory."""
    first = min(entry.subdirectories, default="")
    inside = (directory / first).iterdir() if first else ()
    return ModelFiles(
        directory, entry.subdirectories, {each.name: each.is_dir() for each in inside}
    )
