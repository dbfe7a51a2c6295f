"""The services behind the gRPC port, but for the two inference RPCs, which its connections serve.

Owns the conversion of the control plane's answers into typed messages, and which restriction
category each method is in.
"""

from __future__ import annotations

from typing import Final

from actors.control_plane import ControlPlane
from protocol.proto.generated import inference as pb
from protocol.proto.generated.grpc.health import v1 as health
from protocol.restriction import Category

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
}
"""Method path → restriction category."""


class InferenceService(pb.GrpcInferenceServiceBase):
    """Triton's service; what is not overridden here answers UNIMPLEMENTED."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control = control_plane

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._control.is_live())

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._control.is_ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        ready = await self._control.is_model_ready(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        reply: pb.ServerMetadataResponse = pb.ServerMetadataResponse().from_dict(
            self._control.server_metadata()
        )
        return reply

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        metadata = self._control.model_metadata(request.name, request.version)
        reply: pb.ModelMetadataResponse = pb.ModelMetadataResponse().from_dict(metadata)
        return reply

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        serving = self._control.model_config(request.name, request.version)
        return pb.ModelConfigResponse(config=serving.config)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest
    ) -> pb.ModelStatisticsResponse:
        statistics = await self._control.model_statistics(request.name, request.version)
        reply: pb.ModelStatisticsResponse = pb.ModelStatisticsResponse().from_dict(statistics)
        return reply


class HealthService(health.HealthBase):
    """The standard health service; it reports on the whole server, whichever service is named."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control = control_plane

    async def check(self, request: health.HealthCheckRequest) -> health.HealthCheckResponse:
        ready = self._control.is_ready()
        status = _STATUS.SERVING if ready else _STATUS.NOT_SERVING
        return health.HealthCheckResponse(status=_STATUS(status))
