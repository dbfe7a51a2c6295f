"""What both protocols answer about the server itself, from health to log settings.

Every answer is the JSON shape of the REST protocol; gRPC makes its typed message from the same
value, so that the two can never tell different stories. Owns nothing: it reads the published
model index and asks those that own the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import trio

from actors.channels import Door, Watch
from actors.control.bodies import (
    EXTENSIONS,
    Json,
    index_rows,
    log_settings_row,
    statistics_row,
    tensor_metadata,
)
from actors.control.shared_memory import SharedMemory
from actors.lifecycle.model_index import (
    UNLOADED,
    ModelIndex,
    ServingVersion,
    VersionState,
    parse_version,
)
from actors.messages import (
    LoadModel,
    RefreshIndex,
    RegisterRepository,
    RepositoryCommand,
    UnloadModel,
    UnregisterRepository,
    VersionKey,
)
from actors.metrics.statistics import StatisticsReader
from actors.settings.log_settings import LogControl
from actors.settings.options import ServerOptions
from actors.street.instance import Instance
from actors.traces.tracing import Tracing
from protocol.status import ServerError, StatusCode, invalid_arg, unavailable, unsupported
from protocol.v2_json_control import (
    LogUpdate,
    TraceUpdate,
    check_model_name,
)
from protocol.v2_json_shared_memory import (
    CudaRegion,
    SystemRegion,
    cuda_status_row,
    system_status_row,
)

log = logging.getLogger(__name__)


class ControlPlane:
    """The server's own answers; every method raises ServerError with the wire text."""

    def __init__(
        self,
        *,
        options: ServerOptions,
        server_version: str,
        index: Watch[ModelIndex],
        statistics: StatisticsReader,
        repository: Door[RepositoryCommand],
        regions: SharedMemory,
        logs: LogControl,
        tracing: Tracing,
    ) -> None:
        self._options = options
        self._version = server_version
        self._index = index
        self._statistics = statistics
        self._repository = repository
        self._regions = regions
        self._logs = logs
        self._tracing = tracing
        self._is_stopping = False

    def stop(self) -> None:
        """The server is about to stop: probes say so from now on, whatever still works."""
        self._is_stopping = True

    def is_live(self) -> bool:
        self._refuse_probe_while_exiting()
        return True

    async def is_ready(self) -> bool:
        """Start-up has ended and, with strict readiness, every model is ready or was unloaded.

        A model that was to be loaded and has no version makes the server not ready, and so does an
        instance that says no; one that nobody has asked for does not count.
        """
        self._refuse_probe_while_exiting()
        index = self._index.value
        if not (index.ready and self._options.strict_readiness):
            return index.ready
        tracked = [entry for entry in index.models.values() if entry.versions or entry.reason]
        if not all(entry.versions for entry in tracked):
            return False
        rows = [row for entry in tracked for row in entry.versions.values()]
        if any(row.state is not VersionState.READY and row.reason != UNLOADED for row in rows):
            return False
        return await _all_ready(
            [one for row in rows if row.serving is not None for one in row.serving.instances]
        )

    async def is_model_ready(self, name: str, version: str) -> bool:
        """An unknown model is not ready, and no error: readiness probes expect a plain no."""
        self._refuse_while_exiting()
        serving = self._index.value.is_model_ready(name, version)
        if serving is None:
            return False
        return await _all_ready(serving.instances)

    def server_metadata(self) -> Json:
        return {
            "name": self._options.id,
            "version": self._version,
            "extensions": list(EXTENSIONS),
        }

    def model_metadata(self, name: str, version: str) -> Json:
        self._refuse_while_exiting()
        serving = self._index.value.find(name, version)
        entry = self._index.value.models[serving.name]
        versions = (
            [str(serving.version)]
            if version
            else [
                str(number)
                for number, row in sorted(entry.versions.items())
                if row.serving is not None
            ]
        )
        config = serving.config
        return {
            "name": name,
            "versions": versions,
            "platform": config.platform or config.backend,
            "inputs": [tensor_metadata(tensor, serving) for tensor in config.input],
            "outputs": [tensor_metadata(tensor, serving) for tensor in config.output],
        }

    def model_config(self, name: str, version: str) -> ServingVersion:
        """The version whose `config` is asked for; JSON and typed form are both at hand there."""
        self._refuse_while_exiting()
        return self._index.value.find(name, version)

    async def model_statistics(self, name: str, version: str) -> Json:
        """The counters of one version, of one model's ready versions, or of all ready ones."""
        self._refuse_while_exiting()
        wanted = self._versions_to_count(name, version)
        counters = await self._statistics.read()
        return {
            "model_stats": [
                statistics_row(key, counters[key]) for key in sorted(wanted) if key in counters
            ]
        }

    def _versions_to_count(self, name: str, version: str) -> list[VersionKey]:
        index = self._index.value
        parse_version(version)
        if not name:
            return [
                (entry.name, number)
                for entry in index.models.values()
                for number, row in entry.versions.items()
                if row.serving is not None
            ]
        entry = index.entry_of(name)
        if entry is None or entry.latest is None:
            raise invalid_arg(f"requested model '{name}' is not available")
        if not version:
            return [
                (entry.name, number)
                for number, row in entry.versions.items()
                if row.serving is not None
            ]
        try:
            serving = index.find(name, version)
        except ServerError:
            raise invalid_arg(
                f"requested model version is not available for model '{name}'"
            ) from None
        return [(serving.name, serving.version)]

    async def repository_index(self, repository: str, *, ready_only: bool) -> list[Json]:
        """One row per version ever attempted; a model never touched is its name alone.

        A name is one that requests can use: with namespaces the plain one, unless several models
        have it.
        """
        self._refuse_while_exiting()
        if repository:
            raise unsupported("'repository_name' specification is not supported")
        send, receive = trio.open_memory_channel[ServerError | None](1)
        await self._repository.send(RefreshIndex(send))
        error = await receive.receive()
        if error is not None:
            log.error("%s", error.message)
        return self.index_rows(ready_only=ready_only)

    def index_rows(self, *, ready_only: bool) -> list[Json]:
        """The repository index as it was when somebody last looked at the repositories."""
        index = self._index.value
        rows: list[Json] = []
        for _, entry in sorted(index.models.items()):
            if not entry.is_listed:
                continue
            same = index.full_names.get(entry.plain_name, ())
            name = entry.name if len(same) > 1 else entry.plain_name
            rows += index_rows(name, entry, ready_only=ready_only)
        return rows

    async def load_model(
        self,
        repository: str,
        name: str,
        parameters: Mapping[str, str | bytes],
        *,
        by_model: bool = False,
    ) -> None:
        """Load or reload; returns once that has ended, however long it takes."""
        check_model_name(name)
        self._refuse_repository_control(repository)
        send, receive = trio.open_memory_channel[ServerError | None](1)
        await self._repository.send(LoadModel(name, parameters, send, by_model))
        _raise(await receive.receive())

    async def register_repository(self, location: str, mapping: Mapping[str, str]) -> None:
        """Look for models in one more place; `mapping` is model name → directory there.

        A directory that is mapped has that name only. For programs that embed the server, in
        explicit mode.
        """
        send, receive = trio.open_memory_channel[ServerError | None](1)
        await self._repository.send(RegisterRepository(location, mapping, send))
        _raise(await receive.receive())

    async def unregister_repository(self, location: str) -> None:
        """Look there no longer. Models that were loaded from it go on until they are unloaded."""
        send, receive = trio.open_memory_channel[ServerError | None](1)
        await self._repository.send(UnregisterRepository(location, send))
        _raise(await receive.receive())

    async def unload_model(self, repository: str, name: str, *, unload_dependents: bool) -> None:
        """Take a model out of service; work in flight still completes."""
        self._refuse_repository_control(repository)
        send, receive = trio.open_memory_channel[ServerError | None](1)
        await self._repository.send(UnloadModel(name, unload_dependents, send))
        _raise(await receive.receive())

    # --- shared memory -----------------------------------------------------------------------

    def check_client_memory_allowed(self) -> None:
        """Raise UNSUPPORTED when clients may not share memory, whatever they would register."""
        self._regions.check_allowed()

    def register_system_memory(self, region: SystemRegion) -> None:
        self._regions.register_system(region)

    async def register_cuda_memory(self, region: CudaRegion) -> None:
        await self._regions.register_cuda(region)

    def unregister_system_memory(self, name: str) -> None:
        """Forget one region, or all when `name` is empty; those in use go when they are not."""
        self._regions.unregister_system(name)

    def unregister_cuda_memory(self, name: str) -> None:
        self._regions.unregister_cuda(name)

    def system_memory_status(self, name: str) -> list[Json]:
        """One row per region, by name; `name` asks for one of them, "" for all."""
        return [system_status_row(region) for region in self._regions.system_status(name)]

    def cuda_memory_status(self, name: str) -> list[Json]:
        return [cuda_status_row(region) for region in self._regions.cuda_status(name)]

    # --- logging and tracing -----------------------------------------------------------------

    def log_settings(self) -> Json:
        return log_settings_row(self._logs.settings.value)

    def update_log_settings(self, update: LogUpdate) -> Json:
        """Change what `update` names; the answer is all that holds now."""
        return log_settings_row(self._logs.update(update))

    def trace_settings(self, model: str) -> Json:
        """The settings for one model, or for all others when `model` is empty."""
        if model and self._index.value.entry_of(model) is None:
            raise invalid_arg(f"Request for unknown model : {model}")
        return self._tracing.body(model)

    def update_trace_settings(self, model: str, update: TraceUpdate) -> Json:
        """Change what `update` names; the answer is all that holds now."""
        self.trace_settings(model)  # an unknown model is the graver mistake
        self._tracing.update(model, update)
        return self._tracing.body(model)

    def _refuse_repository_control(self, repository: str) -> None:
        self._refuse_while_exiting()
        if repository:
            raise unsupported("'repository_name' specification is not supported")
        if self._options.model_control_mode != "explicit":
            raise unavailable("explicit model load / unload is not allowed if polling is enabled")

    def _refuse_probe_while_exiting(self) -> None:
        if self._is_stopping or self._index.value.exiting:
            raise ServerError(StatusCode.UNAVAILABLE, "Server exiting")

    def _refuse_while_exiting(self) -> None:
        if self._index.value.exiting:
            raise unavailable("Server not ready")


async def _all_ready(instances: Sequence[Instance]) -> bool:
    """Whether every instance says so. They are asked at the same time: a model may take a while."""
    if len(instances) == 1:
        return await instances[0].is_ready()
    ready: list[bool] = []

    async def ask(instance: Instance) -> None:
        ready.append(await instance.is_ready())

    async with trio.open_nursery() as nursery:
        for instance in instances:
            nursery.start_soon(ask, instance)
    return all(ready)


def _raise(error: ServerError | None) -> None:
    if error is not None:
        raise error
