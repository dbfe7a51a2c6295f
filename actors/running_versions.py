"""The model versions that run: started, swapped in, and retired, each in a nursery of its own.

Owns every running version and its row in the index. Here is the ring that keeps a version's crash
from its neighbours. What to load, and in which order, is ModelRepository's decision.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import trio

from actors.channels import Door
from actors.failures import root_cause
from actors.index_writer import IndexWriter
from actors.messages import Fact, VersionLoaded, VersionUnloaded
from actors.model_index import ModelEntry, VersionEntry, VersionState
from actors.model_version import VersionActors
from actors.options import ServerOptions
from protocol.status import ServerError, internal, invalid_arg
from repo.metric_controls import first_response_buckets
from repo.preparation import ModelDescription

log = logging.getLogger(__name__)

WireVersion = Callable[[ModelDescription, int], VersionActors]

Judge = Callable[[ModelDescription], ModelDescription]
"""The last word on a description before it is wired; raises ServerError."""


@dataclass(slots=True, eq=False)
class Running:
    """One version that is being served; `ended` is set once its nursery is empty."""

    actors: VersionActors
    draining: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class RunningVersions:
    """The parent of every model version; its owner lends it a nursery to keep them in."""

    nursery: trio.Nursery

    def __init__(
        self,
        *,
        options: ServerOptions,
        wire_version: WireVersion,
        index: IndexWriter,
        statistics: Door[Fact],
    ) -> None:
        self._options = options
        self._wire_version = wire_version
        self._index = index
        self._statistics = statistics
        self._running: dict[tuple[str, int], Running] = {}
        self._alive: dict[Running, None] = {}  # those that were replaced and still drain included
        self._loads = trio.CapacityLimiter(max(1, options.model_load_thread_count))

    def of(self, models: Collection[str]) -> list[Running]:
        """The versions of these models that serve."""
        return [run for (name, _), run in self._running.items() if name in models]

    def all(self) -> list[Running]:
        """Every version that serves."""
        return list(self._running.values())

    async def load(
        self,
        description: ModelDescription,
        *,
        replaced: list[Running],
        judge: Judge = lambda description: description,
        is_limited: bool = True,
    ) -> ServerError | None:
        """Load every wanted version, then commit all of them or none; the error says why none.

        Those that they replace are added to `replaced`, and go on until they are retired.
        """
        name = description.config.name
        started: dict[int, Running] = {}
        reasons: dict[int, ServerError] = {}

        async def load_version(version: int) -> None:
            outcome = await self._start(description, version, judge, is_limited=is_limited)
            if isinstance(outcome, ServerError):
                reasons[version] = outcome
            else:
                started[version] = outcome

        before = {key: run for key, run in self._running.items() if key[0] == name}
        for version in description.versions:
            if (name, version) not in before:
                self._index.set_version(name, version, VersionEntry(VersionState.LOADING))
        async with trio.open_nursery() as loading:
            for version in description.versions:
                loading.start_soon(load_version, version)
        if reasons:
            self.retire(started.values())
            for version in started:
                if (name, version) not in before:
                    reason = "Cancelled: another version of the model failed to load"
                    self._index.set_version(
                        name, version, VersionEntry(VersionState.UNAVAILABLE, reason)
                    )
            for version, error in reasons.items():
                if (name, version) not in before:
                    self._index.set_version(
                        name, version, VersionEntry(VersionState.UNAVAILABLE, str(error))
                    )
            text = "".join(
                f"version {version} is at UNAVAILABLE state: {error};"
                for version, error in sorted(reasons.items())
            )
            return invalid_arg(f"load failed for model '{name}': {text}\n")
        self._commit(name, started, before)
        replaced += before.values()
        return None

    async def _start(
        self, description: ModelDescription, version: int, judge: Judge, *, is_limited: bool
    ) -> Running | ServerError:
        """Start one version's actors; retried as often as the operator allows."""
        key = (description.config.name, version)
        attempts = 1 + max(0, self._options.model_load_retry_count)
        error = internal("no attempt was made")
        for _ in range(attempts):
            async with self._loads if is_limited else contextlib.nullcontext():
                began_at = trio.current_time()
                try:
                    running = Running(self._wire_version(judge(description), version))
                    await self.nursery.start(self._serve, running)
                except ServerError as caught:
                    error = caught
                    log.error("failed to load '%s' version %s: %s", key[0], version, caught)
                    continue
                load_seconds = trio.current_time() - began_at
                buckets = first_response_buckets(description.config)
                loaded = VersionLoaded(key, load_seconds, buckets)
                await self._statistics.send(loaded)
                return running
        return error

    async def _serve(
        self,
        running: Running,
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
        self._alive[running] = None
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
            del self._alive[running]
            running.ended.set()
        self._forget(running, reason)

    def _forget(self, running: Running, reason: str) -> None:
        serving = running.actors.serving
        key = (serving.name, serving.version)
        if self._running.get(key) is running:
            del self._running[key]
            self._index.set_version(
                serving.name,
                serving.version,
                VersionEntry(VersionState.UNAVAILABLE, reason),
            )
            with contextlib.suppress(trio.WouldBlock):
                self._statistics.send_nowait(VersionUnloaded(key))

    def _commit(
        self,
        name: str,
        started: Mapping[int, Running],
        before: Mapping[tuple[str, int], Running],
    ) -> None:
        """Swap the new versions in, then drain the old ones: no request finds a gap."""
        entry = self._index.value.models.get(name, ModelEntry(name))
        rows = dict(entry.versions)
        for version, running in started.items():
            self._running[name, version] = running
            rows[version] = VersionEntry(VersionState.READY, serving=running.actors.serving)
            log.info("successfully loaded '%s' version %s", name, version)
        for _, version in before.keys() - {(name, version) for version in started}:
            rows[version] = VersionEntry(VersionState.UNLOADING)
        self._index.publish_entry(replace(entry, versions=rows, reason=""))

    def retire(self, runs: Iterable[Running]) -> None:
        """Let versions finish their work and end, each after whatever stands on it.

        A request of an ensemble keeps the members that it began with.
        """
        going = list(runs)
        for running in going:
            running.draining = True
            serving = running.actors.serving
            if self._running.get((serving.name, serving.version)) is running:
                self._index.set_version(
                    serving.name, serving.version, VersionEntry(VersionState.UNLOADING)
                )
        for running in going:
            name = running.actors.serving.name
            waits_for = [
                other for other in self._alive if other.draining and name in other.actors.members
            ]
            if waits_for:
                self.nursery.start_soon(self._drain_after, running, waits_for)
            else:
                running.actors.drain()

    async def _drain_after(self, running: Running, waits_for: Iterable[Running]) -> None:
        for other in waits_for:
            await other.ended.wait()
        running.actors.drain()
