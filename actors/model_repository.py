"""Which models are served: loads, reloads and unloads them, and publishes the ModelIndex.

Owns every model's state and is the only writer of the index. Hears `LoadModel` and `UnloadModel`;
runs each version as `VersionActors` in its own nursery. A load that replaces a serving version
swaps the index first and drains the old version afterwards, so that no request falls between.

Models that ensembles connect change together, one change at a time: members load before whatever
stands on them, which is judged anew when they have, and goes out of service before they do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import trio

from actors.channels import Door, Mailbox, Watch
from actors.ensemble_families import Families, circular, judged
from actors.index_writer import IndexWriter
from actors.messages import Fact, LoadModel, UnloadModel
from actors.model_index import ModelEntry, ModelIndex
from actors.options import ServerOptions
from actors.running_versions import Running, RunningVersions, WireVersion
from protocol.status import ServerError, internal
from repo.model_config import ensemble_scheduling
from repo.preparation import ModelDescription

log = logging.getLogger(__name__)


class ModelSource(Protocol):
    """Where models come from: directories in production, a dictionary in a simulation."""

    async def names(self) -> Mapping[str, str]:
        """Every model there is, and why it cannot be loaded ("" when nothing is known)."""

    async def describe(self, name: str, parameters: Mapping[str, str | bytes]) -> ModelDescription:
        """A model's completed and validated configuration. Raises ServerError."""

    def forget(self, name: str) -> None:
        """The model was unloaded: a configuration that a load request brought ends with it."""


_Described = dict[str, ModelDescription | ServerError]
"""What a look into the repository found, by model name."""


class StartupFailed(Exception):  # a fact, as the operator reads it
    """A model did not load at start and --exit-on-error says to end."""


class ModelRepository:
    """The actor, and the parent of every model."""

    def __init__(
        self,
        *,
        options: ServerOptions,
        source: ModelSource,
        wire_version: WireVersion,
        index: Watch[ModelIndex],
        mailbox: Mailbox,
        commands: Door[LoadModel | UnloadModel],
        statistics: Door[Fact],
    ) -> None:
        self._options = options
        self._source = source
        self._index = IndexWriter(index)
        self._versions = RunningVersions(
            options=options, wire_version=wire_version, index=self._index, statistics=statistics
        )
        self._mailbox = mailbox
        self._commands = commands
        self._families = Families()
        self._tracked: dict[str, bool] = {}  # what was loaded, and whether somebody asked for it
        self._problems: dict[str, ServerError] = {}  # why a model's last load failed
        self._busy: dict[str, trio.Lock] = {}
        self._drained = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what is to be loaded at start, report `started`, then obey until `drain`.

        Raises StartupFailed before `started`.
        """
        async with trio.open_nursery() as nursery:
            self._versions.nursery = nursery
            # A model may load others while it is being loaded itself.
            nursery.start_soon(self._obey_commands, nursery)
            await self._load_at_start()
            self._index.publish(replace(self._index.value, ready=True))
            task_status.started()

    def stop_accepting(self) -> None:
        """The server is exiting: probes and control calls say so; inference still works."""
        self._index.publish(replace(self._index.value, exiting=True))

    def drain(self) -> None:
        """Unload everything once its work is done, then let `run` return."""
        self._versions.retire(self._versions.all())
        self._drained.set()
        self._mailbox.ring()

    async def _obey_commands(self, nursery: trio.Nursery) -> None:
        while not self._drained.is_set():
            await self._mailbox.wait()
            for command in self._commands.drain():
                nursery.start_soon(self._obey, command)
        self._mailbox.close()

    async def _obey(self, command: LoadModel | UnloadModel) -> None:
        match command:
            case LoadModel(name, parameters, reply):
                answers = await self._load([name], parameters, by_model=command.by_model)
                answer = answers[name]
            case UnloadModel(name, unload_dependents, reply):
                await self._unload(name, unload_dependents=unload_dependents)
                answer = None
        with contextlib.suppress(trio.BrokenResourceError):  # the caller has left
            reply.send_nowait(answer)

    # --- loading ---------------------------------------------------------------------------------

    async def _load_at_start(self) -> None:
        known = await self._source.names()
        self._index.publish(
            ModelIndex({name: ModelEntry(name, reason=reason) for name, reason in known.items()})
        )
        if self._options.model_control_mode == "explicit":
            wanted = self._options.load_model
            if "*" in wanted:
                if len(wanted) > 1:
                    raise StartupFailed(
                        "Invalid argument - Wildcard model name '*' must be the ONLY startup "
                        "model if specified at all."
                    )
                wanted = tuple(known)
        else:
            wanted = tuple(known)
        described: _Described = {}
        await self._describe(wanted, {}, described)
        failures: list[ServerError] = []

        async def load(names: Collection[str]) -> None:
            answers = await self._load(names, {}, described)
            failures.extend(error for error in answers.values() if error is not None)

        async with trio.open_nursery() as loading:
            remaining = set(wanted)
            while remaining:
                family = self._families.around([min(remaining)]) & remaining
                remaining -= family
                loading.start_soon(load, sorted(family))
        if failures and self._options.exit_on_error:
            raise StartupFailed("Internal - failed to load all models")

    async def _load(
        self,
        names: Collection[str],
        parameters: Mapping[str, str | bytes],
        described: _Described | None = None,
        *,
        by_model: bool = False,
    ) -> dict[str, ServerError | None]:
        """Load or reload models; for each of `names` None, or what its client is told."""
        described = {} if described is None else described
        while True:
            async with self._hold(self._families.around(names)):
                missing = self._needed(names) - described.keys()
                if not missing:
                    chosen = {name: described[name] for name in self._needed(names)}
                    self._track(chosen, names)
                    answers = await self._load_in_order(chosen, by_model=by_model)
                    return {name: answers[name] for name in names}
                # Parameters are for the one model that was asked for, which comes first.
                given = parameters if missing == set(names) else {}
                await self._describe(missing, given, described)
            # Descriptions tell of further members, which are to be held as well.

    @contextlib.asynccontextmanager
    async def _hold(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Change nobody else's models meanwhile. In the order of names, so that no two wait."""
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted(names):
                await stack.enter_async_context(self._busy.setdefault(name, trio.Lock()))
            yield

    def _needed(self, names: Iterable[str]) -> set[str]:
        """`names`, and the members of ensembles among them that do not serve."""
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += [one for one in self._families.members(name) if not self._serves(one)]
        return found

    def _serves(self, name: str) -> bool:
        entry = self._index.value.models.get(name)
        return entry is not None and entry.latest is not None

    async def _describe(
        self, names: Iterable[str], parameters: Mapping[str, str | bytes], described: _Described
    ) -> None:
        async def describe(name: str) -> None:
            try:
                description = await self._source.describe(name, parameters)
            except ServerError as error:
                described[name] = error
                self._cannot_be_loaded(name, error)
            else:
                described[name] = description
                self._families.learn(description)

        async with trio.open_nursery() as nursery:
            for name in sorted(names):
                nursery.start_soon(describe, name)

    def _cannot_be_loaded(self, name: str, error: ServerError) -> None:
        log.error("Poll failed for model '%s': %s", name, error.message)
        if name in self._index.value.models:
            self._problems[name] = error
            self._index.set_reason(name, str(error))

    def _track(self, described: _Described, asked_for: Collection[str]) -> None:
        for name, description in described.items():
            if isinstance(description, ModelDescription):
                self._tracked[name] = self._tracked.get(name, False) or name in asked_for

    async def _load_in_order(
        self, described: _Described, *, by_model: bool
    ) -> dict[str, ServerError | None]:
        """Load members before what stands on them, and then what already stood on them."""
        answers: dict[str, ServerError | None] = {}
        replaced: list[Running] = []
        dependents = [
            name
            for name in self._families.dependents(described)
            if name in self._tracked and name not in described
        ]
        done = {name: trio.Event() for name in [*described, *dependents]}

        async def load(name: str) -> None:
            members = [one for one in self._families.members(name) if one in done]
            for member in members:
                await done[member].wait()
            if name in described:
                answers[name] = await self._load_one(
                    name, described[name], replaced, by_model=by_model
                )
            elif any(one in answers and answers[one] is None for one in members):
                answers[name] = await self._load_again(name, replaced)
            done[name].set()

        for name, way in [(name, self._families.circle(name)) for name in done]:
            if way:
                described[name] = circular(way)
                self._cannot_be_loaded(name, circular(way))
                self._families.forget(name)
        async with trio.open_nursery() as nursery:
            for name in done:
                nursery.start_soon(load, name)
        # Only now: what was replaced ends after whatever stood on it, which was replaced as well.
        self._versions.retire(replaced)
        return answers

    async def _load_one(
        self,
        name: str,
        description: ModelDescription | ServerError,
        replaced: list[Running],
        *,
        by_model: bool = False,
    ) -> ServerError | None:
        """Load one model, whose members have been loaded."""
        if isinstance(description, ServerError):
            detail = f": {description.message}" if description.message else ""
            return internal(
                f"failed to load '{name}', failed to poll from model repository{detail}"
            )
        error = await self._versions.load(
            description,
            replaced=replaced,
            judge=self._judge,
            # A model that asks has a place itself, and would wait for its own end.
            is_limited=not by_model,
        )
        if error is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = error
        return error

    def _judge(self, description: ModelDescription) -> ModelDescription:
        if ensemble_scheduling(description.config) is None:
            return description
        return judged(description, self._index.value, self._problems)

    async def _load_again(self, ensemble: str, replaced: list[Running]) -> ServerError | None:
        """Judge an ensemble anew after its members have changed; it ends if it does not fit."""
        description = self._families.description_of(ensemble)
        error = await self._load_one(ensemble, description, replaced)
        if error is not None:
            log.error("ensemble '%s' no longer fits its members: %s", ensemble, error.message)
            self._versions.retire(self._versions.of([ensemble]))
        return error

    # --- unloading -------------------------------------------------------------------------------

    async def _unload(self, name: str, *, unload_dependents: bool) -> None:
        """Take a model out of the index at once; its work in flight still completes.

        What stands on it goes with it, and comes back with it. With `unload_dependents` go also the
        members of an ensemble that nobody has asked for and nothing else stands on.
        """
        async with self._hold(self._families.around([name])):
            going = [name]
            self._tracked.pop(name, None)
            if unload_dependents:
                going += self._members_left_over(name)
            for ensemble in self._families.dependents(going):
                if ensemble not in going and self._serves(ensemble):
                    log.warning("ensemble '%s' depends on '%s', which is unloaded", ensemble, name)
                    going.append(ensemble)
            for each in going:
                self._source.forget(each)
            self._versions.retire(self._versions.of(going))

    def _members_left_over(self, name: str) -> list[str]:
        found: list[str] = []
        for member in self._families.members(name):
            users = set(self._families.dependents([member])) & self._tracked.keys()
            if self._tracked.get(member) is False and not users:
                del self._tracked[member]
                found += [member, *self._members_left_over(member)]
        return found
