"""The model versions that run: started, swapped in, and retired, each in a nursery of its own.

Owns every running version and its row in the index. Here is the ring that keeps a version's crash
from its neighbours. What to load, and in which order, is ModelRepository's decision.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import trio

from actors.channels import Door
from actors.failures import load_failure, root_cause
from actors.lifecycle.crew import Draft
from actors.lifecycle.index_writer import IndexWriter
from actors.lifecycle.load_gate import AvailableMemory, LoadGate
from actors.lifecycle.model_index import UNLOADED, ModelEntry, VersionEntry, VersionState
from actors.lifecycle.model_version import VersionActors
from actors.messages import Fact, VersionLoaded, VersionUnloaded
from actors.policy.lifecycle import LoadPlan
from actors.policy.load_admission import LoadAdmission
from actors.settings.options import ServerOptions
from protocol.status import ServerError, internal, invalid_arg, unavailable
from repo.metric_controls import first_response_buckets
from repo.preparation import LoadRefused, ModelDescription

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

    @property
    def name(self) -> str:
        return self.actors.serving.name

    @property
    def version(self) -> int:
        return self.actors.serving.version

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer of this version."""
        return self.actors.in_flight


@dataclass(slots=True, eq=False)
class _Attempt:
    """What has come of a load so far, by version."""

    made: dict[int, Running] = field(default_factory=dict)
    drafts: dict[Running, Draft] = field(default_factory=dict)
    reasons: dict[int, ServerError] = field(default_factory=dict)  # why one failed

    def look_for_the_dead(self) -> None:
        """A version that has crashed since it was loaded, or updated, is no success."""
        for running in [*self.made.values(), *self.drafts]:
            if running.ended.is_set():
                version = running.actors.serving.version
                self.reasons[version] = unavailable("the version ended while others were loading")


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
        available_memory: AvailableMemory,
        reclaim: Callable[[], None] | None = None,
    ) -> None:
        """`reclaim` is called soon after versions have ended, once for several."""
        self._reclaim = reclaim
        self._attempts = 1 + max(0, options.model_load_retry_count)
        self._wire_version = wire_version
        self._index = index
        self._statistics = statistics
        self._running: dict[tuple[str, int], Running] = {}
        self._stopping = False
        self._alive: dict[Running, None] = {}  # those that were replaced and still drain included
        self._gate = LoadGate(LoadAdmission(options.model_load_thread_count), available_memory)

    def of(self, models: Collection[str]) -> list[Running]:
        """The versions of these models that serve."""
        return [run for run in self.all() if run.actors.serving.name in models]

    def all(self) -> list[Running]:
        """Every version that serves."""
        return [run for run in self._running.values() if not run.draining]

    def alive(self) -> list[Running]:
        """Every version that has not ended: those that drain, too."""
        return list(self._alive)

    def numbers(self, name: str) -> list[int]:
        """The versions of a model that serve, by their numbers."""
        return [run.actors.serving.version for run in self.of([name])]

    def stop(self) -> None:
        """Let every version end, and those that are still loading when they have loaded."""
        self._stopping = True
        self.retire(self.all())

    async def load(
        self,
        description: ModelDescription,
        plan: LoadPlan,
        *,
        replaced: list[Running],
        judge: Judge = lambda description: description,
        is_limited: bool = True,
    ) -> ServerError | None:
        """Load and update what is planned, then commit all of it or none; the error says why none.

        Those that the new ones replace are added to `replaced`, and go on until they are retired.
        """
        name = description.name
        before = {key: run for key, run in self._running.items() if key[0] == name}
        attempt = _Attempt()
        for version in plan.fresh:
            if (name, version) not in before:
                self._index.set_version(name, version, VersionEntry(VersionState.LOADING))
        async with trio.open_nursery() as loading:
            for version in plan.fresh:
                loading.start_soon(self._make, description, version, judge, is_limited, attempt)
            for version in plan.updated:
                running = before[name, version]
                loading.start_soon(self._draft, description, running, is_limited, attempt)
        attempt.look_for_the_dead()
        if attempt.reasons:
            self._give_up(name, attempt, before)
            if description.agents is not None:
                description.agents.fail()
            return load_failed(name, attempt.reasons)
        replaced += self._commit(description, attempt, before)
        if self._stopping:
            self.retire(attempt.made.values())
        if description.agents is not None:
            description.agents.complete()
        return None

    def _give_up(
        self, name: str, attempt: _Attempt, before: Mapping[tuple[str, int], Running]
    ) -> None:
        """What was made ends again; whatever served before goes on."""
        self.retire(attempt.made.values())
        for running, draft in attempt.drafts.items():
            running.actors.drop(draft)
        for version in [*attempt.made, *attempt.reasons]:
            if (name, version) not in before:
                error = attempt.reasons.get(version)
                reason = "Cancelled: another version of the model failed to load"
                row = VersionEntry(VersionState.UNAVAILABLE, str(error) if error else reason)
                self._index.set_version(name, version, row)

    async def _make(
        self,
        description: ModelDescription,
        version: int,
        judge: Judge,
        is_limited: bool,
        attempt: _Attempt,
    ) -> None:
        """Start one version's actors; retried as often as the operator allows."""
        key = (description.name, version)
        size = description.load_bytes * max(1, len(description.instances))
        for left in reversed(range(self._attempts)):
            async with self._turn(size, is_limited):
                began_at = trio.current_time()
                try:
                    running = Running(self._wire_version(judge(description), version))
                    await self.nursery.start(self._serve, running)
                except Exception as caught:  # noqa: BLE001  # ring: other models live on
                    error = load_failure(description.name, caught)
                    log.error("failed to load '%s' version %s: %s", *key, error)
                    if not left:
                        attempt.reasons[version] = error
                    continue
                load_seconds = trio.current_time() - began_at
            buckets = first_response_buckets(description.config)
            await self._statistics.send(VersionLoaded(key, load_seconds, buckets))
            attempt.made[version] = running
            return

    async def _draft(
        self,
        description: ModelDescription,
        running: Running,
        is_limited: bool,
        attempt: _Attempt,
    ) -> None:
        """Start the instances that a running version shall have more."""
        version = running.actors.serving.version
        for left in reversed(range(self._attempts)):
            async with self._turn(description.load_bytes, is_limited):
                try:
                    attempt.drafts[running] = await running.actors.draft(description)
                except Exception as caught:  # noqa: BLE001  # as above
                    error = load_failure(description.name, caught)
                    log.error(
                        "failed to update '%s' version %s: %s", description.name, version, error
                    )
                    if not left:
                        attempt.reasons[version] = error
                    continue
            return

    def _turn(self, size: int, is_limited: bool) -> AbstractAsyncContextManager[None]:
        """A model that asks for another one has a turn itself, and would wait for its own end."""
        return self._gate.turn(size) if is_limited else contextlib.nullcontext()

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

        reason = UNLOADED
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
            if self._reclaim is not None:
                # Not before this task has let go of the version, which it does without a pause.
                token = trio.lowlevel.current_trio_token()
                token.run_sync_soon(self._reclaim, idempotent=True)
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
        description: ModelDescription,
        attempt: _Attempt,
        before: Mapping[tuple[str, int], Running],
    ) -> list[Running]:
        """Swap the new versions in; the result is what they replace. No request finds a gap."""
        name = description.name
        entry = self._index.value.models.get(name) or ModelEntry(name, is_listed=False)
        # What failed before, and is not wanted any more, is no news.
        rows = {
            version: row
            for version, row in entry.versions.items()
            if row.state is not VersionState.UNAVAILABLE or row.reason == UNLOADED
        }
        for running, draft in attempt.drafts.items():
            running.actors.update(description, draft)
            serving = running.actors.serving
            rows[serving.version] = VersionEntry(VersionState.READY, serving=serving)
            log.info("successfully updated '%s' version %s", name, serving.version)
        for version, running in attempt.made.items():
            self._running[name, version] = running
            rows[version] = VersionEntry(VersionState.READY, serving=running.actors.serving)
            log.info("successfully loaded '%s' version %s", name, version)
        replaced = [run for run in before.values() if run not in attempt.drafts]
        for running in replaced:
            version = running.actors.serving.version
            if version not in attempt.made:
                rows[version] = VersionEntry(VersionState.UNLOADING)
        self._index.publish_entry(replace(entry, versions=rows, reason=""))
        return replaced

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


def load_failed(name: str, reasons: Mapping[int, ServerError]) -> ServerError:
    """What the client is told of versions that do not load, by their numbers."""
    for error in reasons.values():
        if isinstance(error, LoadRefused) and error.version is None:
            return invalid_arg(f"load failed for model '{name}': {error.message}\n")
    text = "".join(
        f"version {version} is at UNAVAILABLE state: {error};"
        for version, error in sorted(reasons.items())
    )
    return invalid_arg(f"load failed for model '{name}': {text}\n")
