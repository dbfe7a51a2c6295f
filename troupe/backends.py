"""What a package needs to bring a backend: the names that stay when Troupe's insides change.

docs/custom_backends.md explains them. Owns no code.
"""

from __future__ import annotations

from protocol.datatypes import Array
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import (
    Backend,
    ExecuteRequest,
    InstanceContext,
    Outcome,
    ResponseSender,
    Timings,
)
from repo.backends.registry import ENTRY_POINT_GROUP
from repo.model_config import (
    ModelConfig,
    ModelInput,
    ModelOutput,
    copy_config,
    data_type_of,
    datatype,
    is_decoupled,
    parameter,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "Array",
    "Backend",
    "ExecuteRequest",
    "InferRequest",
    "InferResponse",
    "InstanceContext",
    "ModelConfig",
    "ModelInput",
    "ModelOutput",
    "Outcome",
    "ResponseSender",
    "ServerError",
    "StatusCode",
    "Tensor",
    "Timings",
    "copy_config",
    "data_type_of",
    "datatype",
    "is_decoupled",
    "parameter",
]
