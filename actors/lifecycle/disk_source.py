"""Models on disk, as ModelRepository asks for them.

Owns the catalogue of repositories. Reading files, asking repository agents and opening models to
complete their configuration block, so each description is made in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from actors.lifecycle.index_writer import DUPLICATE
from actors.settings.options import ServerOptions
from protocol.status import internal, not_found
from repo.agents import AgentChain, AgentModel, make_agent
from repo.backends.base import InstanceContext
from repo.backends.registry import (
    PYTHON,
    auto_complete,
    may_complete_itself,
    preferred_groups,
    worker_module,
)
from repo.catalogue import Catalogue
from repo.config_files import read_config
from repo.config_json import from_json
from repo.instance_groups import DeviceTable
from repo.model_config import ModelConfig, ensemble_scheduling
from repo.overrides import LoadOverrides, override_directory, parse_overrides
from repo.preparation import Complete, ModelDescription, ModelFiles, prepare
from repo.scan import ModelEntry, ModelIdentity, Sighting, read_entry
from repo.storage import Checkout, Downloads, LocalStorage, Storage, tree_bytes

CompletePython = Callable[[InstanceContext], Awaitable[str | None]]
"""Asks a model.py for its configuration, as JSON; None when it has nothing to say."""


class DiskSource:
    """The repositories that --model-repository names, and those that are registered later."""

    def __init__(
        self, options: ServerOptions, *, devices: DeviceTable, complete_python: CompletePython
    ) -> None:
        """Raises ServerError for a repository that is none."""
        self._options = options
        self._devices = devices
        self._complete_python = complete_python
        self._catalogue = Catalogue(
            options.model_repository,
            Downloads(options.download_cache_directory, options.download_cache_byte_size),
            namespacing=options.model_namespacing,
        )

    async def look(self, names: Collection[str] | None = None) -> Mapping[str, Sighting]:
        try:
            return await trio.to_thread.run_sync(self._catalogue.look, names)
        except OSError as error:
            raise internal(f"failed to read model repository: {error}") from error

    async def describe(
        self, identity: ModelIdentity, parameters: Mapping[str, str | bytes]
    ) -> ModelDescription:
        overrides = parse_overrides(parameters)
        return await trio.to_thread.run_sync(self._describe, identity, overrides)

    def register(self, location: str, mapping: Mapping[str, str]) -> None:
        self._catalogue.register(location, mapping)

    def unregister(self, location: str) -> None:
        self._catalogue.unregister(location)

    def _describe(self, identity: ModelIdentity, overrides: LoadOverrides) -> ModelDescription:
        if overrides.files:
            return self._describe_override(identity.name, overrides)
        entry = self._catalogue.find(identity)
        if entry is None:
            seen = self._catalogue.look([identity.name]).get(str(identity))
            raise not_found(DUPLICATE if seen is not None else "")
        try:
            checkout = entry.storage.checkout(entry.directory)
        except OSError as error:
            raise internal(f"failed to copy model '{entry.name}': {error}") from error
        description = self._prepare(entry, checkout, overrides.config)
        return replace(
            description,
            namespace=identity.namespace,
            seen=entry.sighting,
            given_config=overrides.config,
        )

    def _describe_override(self, name: str, overrides: LoadOverrides) -> ModelDescription:
        """A model made of a request's files; what stands in the repository is not looked at."""
        assert overrides.config is not None, "files come with a configuration"
        checkout = override_directory(name, overrides.files)
        entry = _entry_at(checkout.directory, ModelIdentity("", name))
        return self._prepare(entry, checkout, overrides.config)

    def _prepare(
        self, entry: ModelEntry, checkout: Checkout, given_config: str | None
    ) -> ModelDescription:
        config = self._config(entry, checkout.directory, given_config)
        directory, config, agents = self._ask_agents(entry, checkout.directory, config)
        if directory != checkout.directory:
            entry = _entry_at(directory, entry.identity)
            config = self._config(entry, directory, given_config) if given_config else config
        completes = not self._options.disable_auto_complete_config
        try:
            description = prepare(
                config,
                _files(entry, directory),
                devices=self._devices,
                complete=self._complete(entry, directory) if completes else None,
                prefer=partial(preferred_groups, devices=self._devices),
            )
        except BaseException:
            agents.fail()
            raise
        size = max(tree_bytes(directory / str(version)) for version in description.versions)
        return replace(description, checkout=checkout, agents=agents, load_bytes=size)

    def _ask_agents(
        self, entry: ModelEntry, directory: Path, config: ModelConfig
    ) -> tuple[Path, ModelConfig, AgentChain]:
        """Where the model really is, after every agent that its configuration names was asked.

        An agent that sends the model elsewhere is followed by those that the configuration there
        names in the places after its own.
        """
        chain = AgentChain()
        asked = 0
        while asked < len(config.model_repository_agents.agents):
            wanted = config.model_repository_agents.agents[asked]
            asked += 1
            agent = make_agent(wanted.name, wanted.parameters, self._options.repoagent_directory)
            model = AgentModel(entry.name, directory, entry.storage.is_local)
            redirected = chain.load(wanted.name, agent, model)
            if redirected is not None and redirected != directory:
                directory = redirected
                config = self._config(_entry_at(directory, entry.identity), directory, None)
        return directory, config, chain

    def _config(self, entry: ModelEntry, directory: Path, given: str | None) -> ModelConfig:
        """The request's configuration, or the one that the model's files hold."""
        if given is not None:
            config = from_json(given)
            config.name = config.name or entry.name
            return config
        path = entry.config_path(self._options.model_config_name)
        if path is not None:
            config = read_config(directory / Path(path).relative_to(entry.directory))
            if entry.is_mapped:
                config.name = entry.name  # its directory, and its own file, call it otherwise
            return config
        if self._options.disable_auto_complete_config:
            path = f"{entry.path}/config.pbtxt"
            raise internal(f"failed to open text file for read {path}: No such file or directory")
        return ModelConfig(name=entry.name)

    def _complete(self, entry: ModelEntry, directory: Path) -> Complete:
        has_file = entry.config_path(self._options.model_config_name) is not None

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
            module = worker_module(config, context.settings)
            if config.backend != PYTHON and module is None:
                completed_config = auto_complete(context)
                if not (has_file or completed_config.input or completed_config.output):
                    raise not_found(f"model configuration is not provided for model '{entry.name}'")
                return completed_config
            if not may_complete_itself(context, module):
                return config
            completed = trio.from_thread.run(self._complete_python, context)
            return config if completed is None else from_json(completed)

        return complete


def _entry_at(directory: Path, identity: ModelIdentity) -> ModelEntry:
    """A model whose directory stands outside of every repository."""
    storage: Storage = LocalStorage(str(directory.parent))
    return read_entry(storage, identity, directory.name)


def _files(entry: ModelEntry, directory: Path) -> ModelFiles:
    """What preparation wants to know of the directory; formats are told by its first directory."""
    first = min(entry.subdirectories, default="")
    inside = (directory / first).iterdir() if first else ()
    return ModelFiles(
        directory,
        entry.subdirectories,
        entry.name,
        {each.name: each.is_dir() for each in inside},
    )
