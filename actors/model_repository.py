"""Which models are served: loads, reloads and unloads them, and publishes the ModelIndex.

Owns every model's state and is the only writer of the index. Hears `LoadModel` and `UnloadModel`;
runs each version as `VersionActors` in its own nursery. A load that replaces a serving version
swaps the index first and drains the old version afterwards, so that no request falls between.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from actors.channels import Door, Mailbox, Watch
from actors.failures import root_cause
from actors.messages import Fact, LoadModel, UnloadModel, VersionLoaded, VersionUnloaded
from actors.model_index import ModelEntry, ModelIndex, VersionEntry, VersionState
from actors.model_version import VersionActors
from actors.options import ServerOptions
from protocol.status import ServerError, internal, invalid_arg
from repo.preparation import ModelDescription

log = logging.getLogger(__name__)


class ModelSource(Protocol):
    """Where models come from: directories in production, a dictionary in a simulation."""

    async def names(self) -> Mapping[str, str]:
        """Every model there is, and why it cannot be loaded ("" when nothing is known)."""

    async def describe(self, name: str, parameters: Mapping[str, str | bytes]) -> ModelDescription:
        """A model's completed and validated configuration. Raises ServerError."""


WireVersion = Callable[[ModelDescription, int], VersionActors]


class StartupFailed(Exception):  # a fact, as the operator reads it
    """A model did not load at start and --exit-on-error says to end."""


@dataclass(slots=True)
class _Running:
    """One version that is being served; `ended` is set once its nursery is empty."""

    actors: VersionActors
    draining: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


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
        self._wire_version = wire_version
        self._index = index
        self._mailbox = mailbox
        self._commands = commands
        self._statistics = statistics
        self._running: dict[tuple[str, int], _Running] = {}
        self._busy: dict[str, trio.Lock] = {}
        self._loads = trio.CapacityLimiter(max(1, options.model_load_thread_count))
        self._drained = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what is to be loaded at start, report `started`, then obey until `drain`.

        Raises StartupFailed before `started`.
        """
        async with trio.open_nursery() as nursery:
            await self._load_at_start(nursery)
            self._publish(replace(self._index.value, ready=True))
            task_status.started()
            while not self._drained.is_set():
                await self._mailbox.wait()
                for command in self._commands.drain():
                    nursery.start_soon(self._obey, command, nursery)
            self._mailbox.close()

    def stop_accepting(self) -> None:
        """The server is exiting: probes and control calls say so; inference still works."""
        self._publish(replace(self._index.value, exiting=True))

    def drain(self) -> None:
        """Unload everything once its work is done, then let `run` return."""
        for running in self._running.values():
            running.draining = True
            running.actors.drain()
        self._drained.set()
        self._mailbox.ring()

    async def _load_at_start(self, nursery: trio.Nursery) -> None:
        known = await self._source.names()
        self._publish(
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
        failures: list[ServerError] = []

        async def load(name: str) -> None:
            error = await self._load(name, {}, nursery)
            if error is not None:
                failures.append(error)

        async with trio.open_nursery() as loading:
            for name in sorted(set(wanted)):
                loading.start_soon(load, name)
        if failures and self._options.exit_on_error:
            self.drain()
            raise StartupFailed("Internal - failed to load all models")

    async def _obey(self, command: LoadModel | UnloadModel, nursery: trio.Nursery) -> None:
        match command:
            case LoadModel(name, parameters, reply):
                answer = await self._load(name, parameters, nursery)
            case UnloadModel(name, _, reply):
                answer = await self._unload(name)
        with contextlib.suppress(trio.BrokenResourceError):  # the caller has left
            reply.send_nowait(answer)

    async def _load(
        self, name: str, parameters: Mapping[str, str | bytes], nursery: trio.Nursery
    ) -> ServerError | None:
        """Load or reload one model; None, or what its client is told."""
        async with self._busy.setdefault(name, trio.Lock()):
            try:
                description = await self._source.describe(name, parameters)
            except ServerError as error:
                log.error("Poll failed for model '%s': %s", name, error.message)
                if name in self._index.value.models:
                    self._set_reason(name, str(error))
                return internal(
                    f"failed to load '{name}', failed to poll from model repository: "
                    f"{error.message}"
                )
            return await self._load_versions(description, nursery)

    async def _load_versions(
        self, description: ModelDescription, nursery: trio.Nursery
    ) -> ServerError | None:
        """Load every wanted version, then commit all of them or none."""
        name = description.config.name
        started: dict[int, _Running] = {}
        reasons: dict[int, ServerError] = {}

        async def load_version(version: int) -> None:
            outcome = await self._start_version(description, version, nursery)
            if isinstance(outcome, ServerError):
                reasons[version] = outcome
            else:
                started[version] = outcome

        before = {key: run for key, run in self._running.items() if key[0] == name}
        for version in description.versions:
            if (name, version) not in before:
                self._set_version(name, version, VersionEntry(VersionState.LOADING))
        async with trio.open_nursery() as loading:
            for version in description.versions:
                loading.start_soon(load_version, version)
        if reasons:
            for version, running in started.items():
                running.draining = True
                running.actors.drain()
                if (name, version) not in before:
                    reason = "Cancelled: another version of the model failed to load"
                    self._set_version(name, version, VersionEntry(VersionState.UNAVAILABLE, reason))
            for version, error in reasons.items():
                if (name, version) not in before:
                    self._set_version(
                        name, version, VersionEntry(VersionState.UNAVAILABLE, str(error))
                    )
            text = "".join(
                f"version {version} is at UNAVAILABLE state: {error};"
                for version, error in sorted(reasons.items())
            )
            return invalid_arg(f"load failed for model '{name}': {text}\n")
        self._commit(name, started, before)
        return None

    async def _start_version(
        self, description: ModelDescription, version: int, nursery: trio.Nursery
    ) -> _Running | ServerError:
        """Start one version's actors; retried as often as the operator allows."""
        key = (description.config.name, version)
        attempts = 1 + max(0, self._options.model_load_retry_count)
        error = internal("no attempt was made")
        for _ in range(attempts):
            async with self._loads:
                began_at = trio.current_time()
                try:
                    running = _Running(self._wire_version(description, version))
                    await nursery.start(self._serve, running)
                except ServerError as caught:
                    error = caught
                    log.error("failed to load '%s' version %s: %s", key[0], version, caught)
                    continue
                loaded = VersionLoaded(key, trio.current_time() - began_at)
                await self._statistics.send(loaded)
                return running
        return error

    async def _serve(
        self,
        running: _Running,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one version to its end; the ring that keeps a crash from spreading."""
        serving = running.actors.serving
        started = False

        class Started(trio.TaskStatus[None]):
            def started(self, value: None = None) -> None:
                nonlocal started
                started = True
                task_status.started()

        reason = "unloaded"
        try:
            await running.actors.run(task_status=Started())
        except Exception as error:  # ring boundary: other models live on
            cause = root_cause(error)
            if not isinstance(cause, ServerError):
                log.exception("model '%s' version %s crashed", serving.name, serving.version)
                cause = internal(f"model crashed with {type(cause).__name__}: {cause}")
            if not started:
                raise cause from error
            reason = str(cause)
        finally:
            running.ended.set()
        self._forget(running, reason)

    def _forget(self, running: _Running, reason: str) -> None:
        serving = running.actors.serving
        key = (serving.name, serving.version)
        if self._running.get(key) is running:
            del self._running[key]
            self._set_version(
                serving.name,
                serving.version,
                VersionEntry(VersionState.UNAVAILABLE, reason),
            )
            with contextlib.suppress(trio.WouldBlock):
                self._statistics.send_nowait(VersionUnloaded(key))

    def _commit(
        self,
        name: str,
        started: Mapping[int, _Running],
        before: Mapping[tuple[str, int], _Running],
    ) -> None:
        """Swap the new versions in, then drain the old ones: no request finds a gap."""
        entry = self._index.value.models.get(name, ModelEntry(name))
        rows = dict(entry.versions)
        for version, running in started.items():
            self._running[name, version] = running
            rows[version] = VersionEntry(VersionState.READY, serving=running.actors.serving)
            log.info("successfully loaded '%s' version %s", name, version)
        for (_, version), running in before.items():
            running.draining = True
            if version not in started:
                rows[version] = VersionEntry(VersionState.UNLOADING)
        self._publish_entry(replace(entry, versions=rows, reason=""))
        for running in before.values():
            running.actors.drain()

    async def _unload(self, name: str) -> ServerError | None:
        """Take a model out of the index at once; its work in flight still completes."""
        async with self._busy.setdefault(name, trio.Lock()):
            for (model, version), running in list(self._running.items()):
                if model == name:
                    self._set_version(name, version, VersionEntry(VersionState.UNLOADING))
                    running.draining = True
                    running.actors.drain()
            return None

    # --- the index ---------------------------------------------------------------------------

    def _set_reason(self, name: str, reason: str) -> None:
        entry = self._index.value.models[name]
        self._publish_entry(replace(entry, reason=reason))

    def _set_version(self, name: str, version: int, row: VersionEntry) -> None:
        entry = self._index.value.models.get(name, ModelEntry(name))
        self._publish_entry(replace(entry, versions={**entry.versions, version: row}))

    def _publish_entry(self, entry: ModelEntry) -> None:
        ready = [number for number, row in entry.versions.items() if row.serving is not None]
        latest = entry.versions[max(ready)].serving if ready else None
        index = self._index.value
        models = {**index.models, entry.name: replace(entry, latest=latest)}
        self._publish(replace(index, models=models))

    def _publish(self, index: ModelIndex) -> None:
        self._index.value = index
