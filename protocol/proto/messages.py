"""The protobuf (upb) message classes, built from `generated/descriptors.binpb`.

They live in a descriptor pool of their own: Triton's client library registers the very same
symbols in protobuf's default pool, and both must be able to share a process. These classes serve
the hot path and the text format; the control plane uses the betterproto dataclasses in
`protocol.proto.generated`. Never hand a message of the one family to code that expects the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_DESCRIPTORS: Final = Path(__file__).parent / "generated" / "descriptors.binpb"

POOL: Final = descriptor_pool.DescriptorPool()
"""Every file under `protocol/proto`; server reflection answers from it."""

for _file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message_class(full_name: str) -> type[Message]:
    """The class of `inference.ModelConfig` and the like. KeyError for an unknown name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


if TYPE_CHECKING:
    from protocol.proto.generated.grpc_service_pb2 import (
        InferParameter,
        InferTensorContents,
        ModelConfigResponse,
        ModelInferRequest,
        ModelInferResponse,
        ModelStreamInferResponse,
    )
    from protocol.proto.generated.model_config_pb2 import ModelConfig
else:
    InferParameter = message_class("inference.InferParameter")
    InferTensorContents = message_class("inference.InferTensorContents")
    ModelConfig = message_class("inference.ModelConfig")
    ModelConfigResponse = message_class("inference.ModelConfigResponse")
    ModelInferRequest = message_class("inference.ModelInferRequest")
    ModelInferResponse = message_class("inference.ModelInferResponse")
    ModelStreamInferResponse = message_class("inference.ModelStreamInferResponse")

__all__ = [
    "POOL",
    "InferParameter",
    "InferTensorContents",
    "ModelConfig",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelStreamInferResponse",
    "message_class",
]
