"""REST operations that no model answers: health, metadata, repository, shared memory, settings.

Owns how each of them reads its body and spells its answer. What it means is the control plane's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from actors.control.control_plane import ControlPlane
from protocol import routes
from protocol.http1_error import Headers, HttpError
from protocol.http1_response import JSON_HEADERS, NO_HEADERS, Buffer, error_body
from protocol.status import ServerError
from protocol.v2_json_control import (
    parse_index,
    parse_load,
    parse_log_update,
    parse_trace_update,
    parse_unload,
)
from protocol.v2_json_shared_memory import SystemRegion, parse_register

ControlOperation = (
    routes.ServerMetadata
    | routes.ServerLive
    | routes.ServerReady
    | routes.ModelMetadata
    | routes.ModelReady
    | routes.ModelConfig
    | routes.ModelStatistics
    | routes.TraceSetting
    | routes.LogSettings
    | routes.RepositoryIndex
    | routes.ModelLoad
    | routes.ModelUnload
    | routes.SharedMemoryStatus
    | routes.SharedMemoryRegister
    | routes.SharedMemoryUnregister
)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A response that is ready to be written."""

    status: int
    headers: Headers = NO_HEADERS
    parts: Sequence[Buffer] = ()


NOTHING = Answer(200)
"""What a command answers that has been obeyed."""


class HttpControl:
    """Runs control operations, one call each."""

    def __init__(self, control_plane: ControlPlane, *, max_input_size: int) -> None:
        """`max_input_size` bounds every JSON body, in bytes."""
        self._control_plane = control_plane
        self._max_input_size = max_input_size

    async def run(self, operation: ControlOperation, body: bytes | memoryview) -> Answer:
        """The answer to one operation; a client's mistakes are answers too."""
        try:
            return await self._run(operation, body)
        except HttpError as error:
            headers = (*JSON_HEADERS, *error.headers)
            return Answer(error.status, headers, [error_body(error.message)])
        except ServerError as error:
            return Answer(error.http_status, JSON_HEADERS, [error_body(error.message)])

    async def _run(self, operation: ControlOperation, body: bytes | memoryview) -> Answer:
        control = self._control_plane
        match operation:
            case routes.ServerLive():
                return _probe(control.is_live())
            case routes.ServerReady():
                return _probe(await control.is_ready())
            case routes.ModelReady(model, version):
                if await control.is_model_ready(model, version):
                    return NOTHING
                return Answer(400, JSON_HEADERS, [error_body("Model version not ready")])
            case routes.ServerMetadata():
                return _json(control.server_metadata())
            case routes.ModelMetadata(model, version):
                return _json(control.model_metadata(model, version))
            case routes.ModelConfig(model, version):
                serving = control.model_config(model, version)
                return Answer(200, JSON_HEADERS, [serving.config_json.encode()])
            case routes.ModelStatistics(model, version):
                return _json(await control.model_statistics(model, version))
            case routes.RepositoryIndex() | routes.ModelLoad() | routes.ModelUnload():
                return await self._run_on_repository(operation, body)
            case routes.TraceSetting() | routes.LogSettings():
                return self._run_on_settings(operation, body)
            case _:
                return await self._run_on_memory(operation, body)

    async def _run_on_repository(
        self,
        operation: routes.RepositoryIndex | routes.ModelLoad | routes.ModelUnload,
        body: bytes | memoryview,
    ) -> Answer:
        control, limit = self._control_plane, self._max_input_size
        match operation:
            case routes.RepositoryIndex():
                # Over HTTP the index takes a repository's name, and does not look at it.
                return _json(
                    await control.repository_index("", ready_only=parse_index(body, limit))
                )
            case routes.ModelLoad(model, repository):
                await control.load_model(repository, model, parse_load(body, limit))
            case routes.ModelUnload(model, repository):
                dependents = parse_unload(body, limit)
                await control.unload_model(repository, model, unload_dependents=dependents)
            case _:
                assert_never(operation)
        return NOTHING

    def _run_on_settings(
        self, operation: routes.TraceSetting | routes.LogSettings, body: bytes | memoryview
    ) -> Answer:
        control, limit = self._control_plane, self._max_input_size
        match operation:
            case routes.TraceSetting(model, update=False):
                return _json(control.trace_settings(model))
            case routes.TraceSetting(model):
                control.trace_settings(model)  # an unknown model is the graver mistake
                return _json(control.update_trace_settings(model, parse_trace_update(body, limit)))
            case routes.LogSettings(update=False):
                return _json(control.log_settings())
            case routes.LogSettings():
                return _json(control.update_log_settings(parse_log_update(body, limit)))
            case _:
                assert_never(operation)

    async def _run_on_memory(
        self,
        operation: routes.SharedMemoryStatus
        | routes.SharedMemoryRegister
        | routes.SharedMemoryUnregister,
        body: bytes | memoryview,
    ) -> Answer:
        control = self._control_plane
        match operation:
            case routes.SharedMemoryStatus("system", region):
                return _json(control.system_memory_status(region))
            case routes.SharedMemoryStatus(_, region):
                return _json(control.cuda_memory_status(region))
            case routes.SharedMemoryRegister(kind, region):
                control.check_client_memory_allowed()
                wanted = parse_register(kind, region, body, self._max_input_size)
                if isinstance(wanted, SystemRegion):
                    control.register_system_memory(wanted)
                else:
                    await control.register_cuda_memory(wanted)
            case routes.SharedMemoryUnregister("system", region):
                control.unregister_system_memory(region)
            case routes.SharedMemoryUnregister(_, region):
                control.unregister_cuda_memory(region)
            case _:
                assert_never(operation)
        return NOTHING


def _probe(healthy: bool) -> Answer:
    """Health probes have no body, whatever they say."""
    return NOTHING if healthy else Answer(400)


def _json(value: Mapping[str, object] | Sequence[object]) -> Answer:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Answer(200, JSON_HEADERS, [text.encode("utf-8", "surrogateescape")])
