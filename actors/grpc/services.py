"""The services behind the gRPC port, but for the two inference RPCs, which its connections serve.

Owns the conversion of the control plane's answers into typed messages, and which restriction
category each method is in.
"""

from __future__ import annotations

from typing import Final

from actors.control.bodies import Json
from actors.control.control_plane import ControlPlane
from actors.grpc import control as convert
from protocol.grpc_reflection import Reflection, ReflectionAlpha
from protocol.grpc_service import Servable, json_reply
from protocol.proto.generated import inference as pb
from protocol.proto.generated.grpc.health import v1 as health
from protocol.restriction import Category
from protocol.v2_json_shared_memory import CudaRegion, SystemRegion

_STATUS: Final = health.HealthCheckResponseServingStatus
_SERVICE: Final = "/inference.GRPCInferenceService/"

CATEGORIES: Final = {
    **{
        _SERVICE + method: category
        for category, methods in {
            Category.HEALTH: ("ServerLive", "ServerReady", "ModelReady"),
            Category.METADATA: ("ServerMetadata", "ModelMetadata"),
            Category.MODEL_CONFIG: ("ModelConfig",),
            Category.INFERENCE: ("ModelInfer", "ModelStreamInfer"),
            Category.STATISTICS: ("ModelStatistics",),
            Category.MODEL_REPOSITORY: (
                "RepositoryIndex",
                "RepositoryModelLoad",
                "RepositoryModelUnload",
            ),
            Category.SHARED_MEMORY: (
                "SystemSharedMemoryStatus",
                "SystemSharedMemoryRegister",
                "SystemSharedMemoryUnregister",
                "CudaSharedMemoryStatus",
                "CudaSharedMemoryRegister",
                "CudaSharedMemoryUnregister",
            ),
            Category.TRACE: ("TraceSetting",),
            Category.LOGGING: ("LogSettings",),
        }.items()
        for method in methods
    },
    "/grpc.health.v1.Health/Check": Category.HEALTH,
    "/grpc.health.v1.Health/Watch": Category.HEALTH,
    # Not in Triton: what the services of a server are is as good as its metadata.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Category.METADATA,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Category.METADATA,
}
"""Method path → restriction category."""

SERVICES: Final = (
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""What reflection lists."""


def services(control_plane: ControlPlane) -> tuple[Servable, ...]:
    """Every service of the port."""
    return (
        InferenceService(control_plane),
        HealthService(control_plane),
        Reflection(SERVICES),
        ReflectionAlpha(SERVICES),
    )


class InferenceService(pb.GrpcInferenceServiceBase):
    """Triton's service, but for the two inference RPCs."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control = control_plane

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._control.is_live())

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._control.is_ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        ready = await self._control.is_model_ready(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return json_reply(pb.ServerMetadataResponse, self._control.server_metadata())

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        metadata = self._control.model_metadata(request.name, request.version)
        return json_reply(pb.ModelMetadataResponse, metadata)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        serving = self._control.model_config(request.name, request.version)
        return pb.ModelConfigResponse(config=serving.config)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest
    ) -> pb.ModelStatisticsResponse:
        statistics = await self._control.model_statistics(request.name, request.version)
        return json_reply(pb.ModelStatisticsResponse, statistics)

    # --- repository --------------------------------------------------------------------------

    async def repository_index(
        self, request: pb.RepositoryIndexRequest
    ) -> pb.RepositoryIndexResponse:
        rows = await self._control.repository_index(
            request.repository_name, ready_only=request.ready
        )
        return json_reply(pb.RepositoryIndexResponse, {"models": rows})

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest
    ) -> pb.RepositoryModelLoadResponse:
        parameters = convert.load_parameters(request.parameters)
        await self._control.load_model(request.repository_name, request.model_name, parameters)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        await self._control.unload_model(
            request.repository_name,
            request.model_name,
            unload_dependents=convert.unload_dependents(request.parameters),
        )
        return pb.RepositoryModelUnloadResponse()

    # --- shared memory -----------------------------------------------------------------------

    async def system_shared_memory_status(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        rows = self._control.system_memory_status(request.name)
        return json_reply(pb.SystemSharedMemoryStatusResponse, _by_name(rows))

    async def system_shared_memory_register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._control.register_system_memory(
            SystemRegion(request.name, request.key, request.offset, request.byte_size)
        )
        return pb.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._control.unregister_system_memory(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_shared_memory_status(
        self, request: pb.CudaSharedMemoryStatusRequest
    ) -> pb.CudaSharedMemoryStatusResponse:
        rows = self._control.cuda_memory_status(request.name)
        return json_reply(pb.CudaSharedMemoryStatusResponse, _by_name(rows))

    async def cuda_shared_memory_register(
        self, request: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        await self._control.register_cuda_memory(
            CudaRegion(request.name, request.raw_handle, request.device_id, request.byte_size)
        )
        return pb.CudaSharedMemoryRegisterResponse()

    async def cuda_shared_memory_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        self._control.unregister_cuda_memory(request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    # --- tracing and logging -----------------------------------------------------------------

    async def trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        update = convert.trace_update(request.settings)
        settings = self._control.update_trace_settings(request.model_name, update)
        return convert.trace_setting_reply(settings)

    async def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        update = convert.log_update(request.settings)
        return convert.log_settings_reply(self._control.update_log_settings(update))


def _by_name(rows: list[Json]) -> dict[str, object]:
    return {"regions": {str(row["name"]): row for row in rows}}


class HealthService(health.HealthBase):
    """The standard health service; it reports on the whole server, whichever service is named."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control = control_plane

    async def check(self, request: health.HealthCheckRequest) -> health.HealthCheckResponse:
        ready = await self._control.is_ready()
        status = _STATUS.SERVING if ready else _STATUS.NOT_SERVING
        return health.HealthCheckResponse(status=_STATUS(status))
