"""Which models are served: obeys operators, follows the repositories, publishes the ModelIndex.

Hears load and unload requests, registrations and questions for news; looks at the repositories
itself every now and then in poll mode. How models load is the business of `model_loading`, each
version runs in a nursery of its own (`running_versions`). A load that replaces a serving version
swaps the index first and drains the old version afterwards, so that no request falls between.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from actors.channels import Door, Mailbox, Watch
from actors.lifecycle.index_writer import IndexWriter
from actors.lifecycle.load_gate import AvailableMemory
from actors.lifecycle.model_index import ModelIndex
from actors.lifecycle.model_loading import Answers, ModelLoading, ModelSource
from actors.lifecycle.running_versions import Running, RunningVersions, WireVersion
from actors.messages import (
    Fact,
    LoadModel,
    RefreshIndex,
    RegisterRepository,
    RepositoryCommand,
    UnloadModel,
    UnregisterRepository,
)
from actors.policy.lifecycle import OUT_OF_DATE
from actors.settings.options import ServerOptions
from protocol.status import ServerError, internal, unsupported
from repo.scan import Sighting

__all__ = ["ModelRepository", "ModelSource", "StartupFailed"]

log = logging.getLogger(__name__)


class StartupFailed(Exception):  # a fact, as the operator reads it
    """A model did not load at start and --exit-on-error says to end."""


@dataclass(slots=True, eq=False)
class _Pending:
    """A load that has not begun; those who ask for the same meanwhile get its answer."""

    command: LoadModel
    number: int  # in the order in which operations came
    replies: list[trio.MemorySendChannel[ServerError | None]] = field(default_factory=list)


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
        commands: Door[RepositoryCommand],
        statistics: Door[Fact],
        available_memory: AvailableMemory = lambda: None,
        reclaim: Callable[[], None] | None = None,
    ) -> None:
        self._options = options
        self._source = source
        self._index = IndexWriter(index)
        self._versions = RunningVersions(
            options=options,
            wire_version=wire_version,
            index=self._index,
            statistics=statistics,
            available_memory=available_memory,
            reclaim=reclaim,
        )
        self._loading = ModelLoading(source=source, index=self._index, versions=self._versions)
        self._mailbox = mailbox
        self._commands = commands
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}  # the number of the last operation on a model
        self._pending: dict[Hashable, _Pending] = {}  # by what they ask for
        self._polling = trio.CancelScope()
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
            if self._options.model_control_mode == "poll":
                nursery.start_soon(self._poll)
            task_status.started()

    def alive(self) -> Sequence[Running]:
        """Every version that has not ended, also if it serves no longer."""
        return self._versions.alive()

    def stop_accepting(self) -> None:
        """The server is exiting: probes and control calls say so; inference still works."""
        self._index.publish(replace(self._index.value, exiting=True))

    def drain(self) -> None:
        """Unload everything once its work is done, then let `run` return."""
        self._polling.cancel()
        self._versions.stop()
        self._drained.set()
        self._mailbox.ring()

    # --- at start, and later on its own ----------------------------------------------------------

    async def _load_at_start(self) -> None:
        try:
            known = await self._source.look()
        except ServerError as error:
            raise StartupFailed(f"{error.status.value} - {error.message}") from error
        self._index.see(known, is_all=True)
        answers = await self._loading.load_all(self._wanted_at_start(known))
        if self._options.exit_on_error and any(error for error in answers.values()):
            raise StartupFailed("Internal - failed to load all models")

    def _wanted_at_start(self, known: Mapping[str, Sighting]) -> Collection[str]:
        """Full names. Raises StartupFailed."""
        wanted = self._options.load_model
        if self._options.model_control_mode != "explicit":
            return tuple(known)
        if "*" not in wanted:
            return [full for name in dict.fromkeys(wanted) for full in _full_names(name, known)]
        if len(wanted) > 1:
            raise StartupFailed(
                "Invalid argument - Wildcard model name '*' must be the ONLY startup model if "
                "specified at all."
            )
        return tuple(known)

    async def _poll(self) -> None:
        """Follow the repositories; what goes wrong is logged, and looked at again."""
        with self._polling:
            while True:
                await trio.sleep(max(1, self._options.repository_poll_secs))
                try:
                    sightings = await self._source.look()
                except ServerError as error:
                    log.error("Failed to poll model repositories: %s", error.message)
                else:
                    # A change that has begun is not left half done.
                    with trio.CancelScope(shield=True):
                        await self._loading.follow(sightings)

    # --- commands --------------------------------------------------------------------------------

    async def _obey_commands(self, nursery: trio.Nursery) -> None:
        while not self._drained.is_set():
            await self._mailbox.wait()
            for command in self._commands.drain():
                match command:
                    case LoadModel():
                        self._accept_load(command, nursery)
                    case UnloadModel():
                        number = self._newest[command.name] = next(self._numbers)
                        nursery.start_soon(self._unload, command, number)
                    case RegisterRepository() | UnregisterRepository() | RefreshIndex():
                        nursery.start_soon(self._change_repositories, command)
        self._mailbox.close()

    def _accept_load(self, command: LoadModel, nursery: trio.Nursery) -> None:
        """Begin a load, unless the very same is about to begin and nothing has come between."""
        wish = (command.name, frozenset(command.parameters.items()), command.by_model)
        pending = self._pending.get(wish)
        if pending is None or pending.number != self._newest.get(command.name):
            number = self._newest[command.name] = next(self._numbers)
            pending = self._pending[wish] = _Pending(command, number)
            nursery.start_soon(self._load, wish, pending)
        pending.replies.append(command.reply)

    async def _load(self, wish: Hashable, pending: _Pending) -> None:
        command = pending.command

        def begin() -> None:
            if self._pending.get(wish) is pending:
                del self._pending[wish]
            if self._newest.get(command.name) != pending.number:
                raise internal(OUT_OF_DATE)

        try:
            known = await self._source.look([command.name])
            self._index.see(known, is_all=False)
            answers = await self._loading.load(
                _full_names(command.name, known),
                command.parameters,
                begin=begin,
                by_model=command.by_model,
            )
            answer = _first_error(answers)
        except ServerError as error:
            answer = error
        finally:
            if self._pending.get(wish) is pending:
                del self._pending[wish]
            self._end(command.name, pending.number)
        for reply in pending.replies:
            _answer(reply, answer)

    async def _unload(self, command: UnloadModel, number: int) -> None:
        index = self._index.value
        for name in (command.name, *index.full_names.get(command.name, ())):
            await self._loading.unload(name, unload_dependents=command.unload_dependents)
        self._end(command.name, number)
        _answer(command.reply, None)

    def _end(self, name: str, number: int) -> None:
        if self._newest.get(name) == number:
            del self._newest[name]

    async def _change_repositories(
        self, command: RegisterRepository | UnregisterRepository | RefreshIndex
    ) -> None:
        answer: ServerError | None = None
        try:
            if not isinstance(command, RefreshIndex):
                self._check_registration_allowed()
            match command:
                case RegisterRepository(location, mapping):
                    self._source.register(location, mapping)
                case UnregisterRepository(location):
                    self._source.unregister(location)
            self._index.see(await self._source.look(), is_all=True)
        except ServerError as error:
            answer = error
        _answer(command.reply, answer)

    def _check_registration_allowed(self) -> None:
        if self._options.model_control_mode != "explicit":
            raise unsupported(
                "repository registration is not allowed if model control mode is not EXPLICIT"
            )


def _full_names(name: str, known: Mapping[str, Sighting]) -> list[str]:
    """The models that a client means; with namespaces there may be several of that name."""
    found = [full for full, seen in known.items() if name in {full, seen.identity.name}]
    return found or [name]


def _first_error(answers: Answers) -> ServerError | None:
    return next((error for error in answers.values() if error is not None), None)


def _answer(reply: trio.MemorySendChannel[ServerError | None], answer: ServerError | None) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the caller has left
        reply.send_nowait(answer)
