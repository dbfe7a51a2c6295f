"""Loads models in the order in which they stand on each other, and judges ensembles anew.

Owns what was loaded and whether somebody asked for it, why a model's last load failed, and who may
change which models at a time. What a load means for what is loaded already is decided by
`policy/lifecycle`, who stands on whom by `ensembles/families`; versions run in `running_versions`.

Models that ensembles connect change together, one change at a time: members load before whatever
stands on them, which is judged anew when they have, and goes out of service before they do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import trio

from actors.ensembles.families import Families, circular, judged
from actors.failures import load_failure
from actors.lifecycle.index_writer import DUPLICATE, IndexWriter
from actors.lifecycle.model_index import VersionEntry, VersionState
from actors.lifecycle.running_versions import Running, RunningVersions, load_failed
from actors.policy.lifecycle import Lifecycle, Parameters
from protocol.status import ServerError, internal, not_found
from repo.model_config import ensemble_scheduling
from repo.overrides import FILE_PREFIX
from repo.preparation import LoadRefused, ModelDescription
from repo.scan import ModelIdentity, Sighting

log = logging.getLogger(__name__)


class ModelSource(Protocol):
    """Where models come from: directories in production, a dictionary in a simulation."""

    async def look(self, names: Collection[str] | None = None) -> Mapping[str, Sighting]:
        """What there is, or what there is of `names`, by full name. Raises ServerError."""

    async def describe(
        self, identity: ModelIdentity, parameters: Mapping[str, str | bytes]
    ) -> ModelDescription:
        """A model's completed and validated configuration. Raises ServerError."""

    def register(self, location: str, mapping: Mapping[str, str]) -> None:
        """Look in one more repository. Raises ServerError."""

    def unregister(self, location: str) -> None:
        """Look there no longer. Raises ServerError."""


class _Current:
    """Stands in a description's place where a load would change nothing."""


_CURRENT: Final = _Current()

_Described = dict[str, ModelDescription | ServerError | _Current]
"""What a look into the repository found, by model name."""

_Chosen = dict[str, ModelDescription | ServerError]

Answers = dict[str, ServerError | None]
"""What became of each model: None if it serves as it should, or what its client is told."""


class ModelLoading:
    """One per server; its methods may run at the same time."""

    def __init__(
        self, *, source: ModelSource, index: IndexWriter, versions: RunningVersions
    ) -> None:
        self._source = source
        self._index = index
        self._versions = versions
        self._lifecycle = Lifecycle()
        self._families = Families(index.resolve)
        self._tracked: dict[str, bool] = {}  # what was loaded, and whether somebody asked for it
        self._problems: dict[str, ServerError] = {}  # why a model's last load failed
        self._busy: dict[str, trio.Lock] = {}

    # --- loading ---------------------------------------------------------------------------------

    async def load_all(self, names: Collection[str]) -> Answers:
        """Load models that may be unrelated: those that are load at the same time."""
        described: _Described = {}
        await self._describe(names, {}, described)
        answers: Answers = {}

        async def load(family: Collection[str]) -> None:
            answers.update(await self.load(family, {}, described))

        async with trio.open_nursery() as loading:
            remaining = set(names)
            while remaining:
                family = self._families.around([min(remaining)]) & remaining
                remaining -= family
                loading.start_soon(load, sorted(family))
        return answers

    async def load(
        self,
        names: Collection[str],
        parameters: Parameters,
        described: _Described | None = None,
        *,
        begin: Callable[[], None] = lambda: None,
        by_model: bool = False,
    ) -> Answers:
        """Load or reload models, and whatever their ensembles stand on.

        `begin` is called once nobody else changes them; it may raise ServerError.
        """
        described = {} if described is None else described
        has_begun = False
        while True:
            async with self._hold(self._families.around(names)):
                if not has_begun:
                    begin()
                    has_begun = True
                missing = self._needed(names) - described.keys()
                if not missing:
                    return await self._load_described(names, described, by_model=by_model)
                # Parameters are for the one model that was asked for, which comes first.
                given = parameters if missing & set(names) else {}
                await self._describe(missing & set(names) or missing, given, described)
            # Descriptions tell of further members, which are to be held as well.

    async def _load_described(
        self, names: Collection[str], described: _Described, *, by_model: bool
    ) -> Answers:
        chosen: _Chosen = {}
        for name in sorted(self._needed(names)):  # a set has another order in every process
            found = described[name]
            if not isinstance(found, _Current):
                chosen[name] = found
            if not isinstance(found, ServerError):
                self._tracked[name] = self._tracked.get(name, False) or name in names
        answers = await self._load_in_order(chosen, by_model=by_model)
        return {name: answers.get(name) for name in names}

    @contextlib.asynccontextmanager
    async def _hold(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Change nobody else's models meanwhile. In the order of names, so that no two wait."""
        ordered = sorted(names)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name in ordered:
                    await stack.enter_async_context(self._busy.setdefault(name, trio.Lock()))
                yield
        finally:
            for name in ordered:
                lock = self._busy.get(name)
                if lock is not None and not lock.locked():
                    del self._busy[name]  # names are whatever clients make up

    def _needed(self, names: Iterable[str]) -> set[str]:
        """`names`, and the members of ensembles among them."""
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += self._families.members(name)
        return found

    async def _describe(
        self, names: Collection[str], parameters: Parameters, described: _Described
    ) -> None:
        """Look at models, and read what has changed."""
        try:
            sightings = await self._source.look(names)
        except ServerError as error:
            for name in names:
                described[name] = self._cannot_be_loaded(name, error)
            return
        self._index.see(sightings, is_all=False)

        async def describe(name: str) -> None:
            try:
                described[name] = await self._described(name, parameters, sightings.get(name))
            except LoadRefused as error:
                described[name] = self._is_refused(name, error)
            except Exception as caught:  # noqa: BLE001  # ring: no configuration ends the server
                described[name] = self._cannot_be_loaded(name, load_failure(name, caught))

        async with trio.open_nursery() as nursery:
            for name in sorted(names):
                nursery.start_soon(describe, name)

    async def _described(
        self, name: str, parameters: Parameters, seen: Sighting | None
    ) -> ModelDescription | _Current:
        brings_files = any(key.startswith(FILE_PREFIX) for key in parameters)
        if not brings_files:
            if seen is None:
                raise not_found("")
            if seen.is_duplicate:
                raise not_found(DUPLICATE)
            serving = self._versions.numbers(name)
            if self._lifecycle.is_current(name, parameters, seen, serving):
                return _CURRENT
        identity = ModelIdentity("", name) if seen is None else seen.identity
        given = self._lifecycle.parameters(name, parameters, seen)
        description = await self._source.describe(identity, given)
        self._families.learn(description)
        return description

    def _cannot_be_loaded(self, name: str, error: ServerError) -> ServerError:
        if error.message == DUPLICATE:
            log.error("failed to poll model '%s': not unique across all model repositories", name)
            self._problems[name] = error  # the index says so already
            return error
        log.error("Poll failed for model '%s': %s", name, error.message)
        if name in self._index.value.models:
            self._problems[name] = error
            self._index.set_reason(name, str(error))
        return error

    def _is_refused(self, name: str, error: LoadRefused) -> ServerError:
        self._problems[name] = error
        if error.version is None:
            log.error("failed to load '%s': %s", name, error)
            if name in self._index.value.models:
                self._index.set_reason(name, str(error))
            return error
        log.error("failed to load '%s' version %s: %s", name, error.version, error)
        if error.version not in self._versions.numbers(name):
            row = VersionEntry(VersionState.UNAVAILABLE, str(error))
            self._index.set_version(name, error.version, row)
        return error

    async def _load_in_order(self, described: _Chosen, *, by_model: bool = False) -> Answers:
        """Load members before what stands on them, and then what already stood on them."""
        answers: Answers = {}
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
                described[name] = self._is_refused(name, LoadRefused(None, circular(way)))
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
        if isinstance(description, LoadRefused):
            return load_failed(name, {description.version or 0: description})
        if isinstance(description, ServerError):
            if description.message == DUPLICATE:
                self._take_out([name])
            detail = f": {description.message}" if description.message else ""
            return internal(
                f"failed to load '{name}', failed to poll from model repository{detail}"
            )
        error = await self._versions.load(
            description,
            self._lifecycle.plan(description, self._versions.numbers(name)),
            replaced=replaced,
            judge=self._judge,
            is_limited=not by_model,
        )
        if error is None:
            self._problems.pop(name, None)
            self._lifecycle.remember(description)
        else:
            self._problems[name] = error
        return error

    def _judge(self, description: ModelDescription) -> ModelDescription:
        if ensemble_scheduling(description.config) is None:
            return description
        try:
            return judged(description, self._index.value, self._problems)
        except ServerError as error:
            raise LoadRefused(None, error) from error

    async def _load_again(self, ensemble: str, replaced: list[Running]) -> ServerError | None:
        """Judge an ensemble anew after its members have changed; it ends if it does not fit."""
        description = self._families.description_of(ensemble)
        error = await self._load_one(ensemble, description, replaced)
        if error is not None:
            log.error("ensemble '%s' no longer fits its members: %s", ensemble, error.message)
            self._versions.retire(self._versions.of([ensemble]))
        return error

    # --- polling ---------------------------------------------------------------------------------

    async def follow(self, sightings: Mapping[str, Sighting]) -> None:
        """Do what a look at all repositories asks for; what goes wrong is only logged."""
        self._index.see(sightings, is_all=True)
        gone = [name for name in self._tracked if name not in sightings]
        duplicates = [name for name, seen in sightings.items() if seen.is_duplicate]
        for name in duplicates:
            self._cannot_be_loaded(name, not_found(DUPLICATE))
        for name in [*gone, *duplicates]:
            await self.unload(name)
        # What has failed, or lost what it stands on, is tried again.
        changed = [
            name
            for name, seen in sightings.items()
            if not seen.is_duplicate and self._lifecycle.is_news(name, seen)
        ]
        await self.load_all(changed)

    # --- unloading -------------------------------------------------------------------------------

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Take a model out of the index at once; its work in flight still completes.

        What stands on it goes with it, and comes back with it. With `unload_dependents` go also the
        members of an ensemble that nobody has asked for and nothing else stands on.
        """
        async with self._hold(self._families.around([name])):
            going = [name]
            self._tracked.pop(name, None)
            if unload_dependents:
                going += self._members_left_over(name)
            self._take_out(going)

    def _take_out(self, names: Sequence[str]) -> None:
        going = list(names)
        for ensemble in self._families.dependents(going):
            if ensemble not in going and self._versions.of([ensemble]):
                log.warning("ensemble '%s' depends on '%s', which is unloaded", ensemble, names[0])
                going.append(ensemble)
        for each in going:
            self._lifecycle.forget(each)
        self._versions.retire(self._versions.of(going))

    def _members_left_over(self, name: str) -> list[str]:
        found: list[str] = []
        for member in self._families.members(name):
            users = set(self._families.dependents([member])) & self._tracked.keys()
            if self._tracked.get(member) is False and not users:
                del self._tracked[member]
                found += [member, *self._members_left_over(member)]
        return found
