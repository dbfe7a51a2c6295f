"""`triton_python_backend_utils`, which every model.py imports: the classes, and functions about
configurations and datatypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..configuration import ModelConfig
from ..tensor import NUMPY_DTYPE, Array, encode_bytes
from .c_python_backend_utils import (
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    InferenceTrace,
    Logger,
    Metric,
    MetricFamily,
    PreferredMemory,
    Tensor,
    TritonError,
    TritonModelException,
    is_model_ready,
    load_model,
    unload_model,
)

__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "Metric",
    "MetricFamily",
    "ModelConfig",
    "PreferredMemory",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "load_model",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

TRITON_STRING_TO_NUMPY: dict[str, type] = {
    f"TYPE_{'STRING' if name == 'BYTES' else name}": dtype.type
    for name, dtype in NUMPY_DTYPE.items()
    if name != "BF16"
}
TRITON_STRING_TO_NUMPY["TYPE_BOOL"] = bool

# In the order of DataType, from 1.
_NUMPY_TYPES = [NUMPY_DTYPE[name].type for name in NUMPY_DTYPE if name != "BF16"]

model_directory = ""  # set by the worker before the model is imported


def get_model_dir() -> str:
    """The version directory of the model."""
    return model_directory


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The request's input of that name, or None."""
    for tensor in inference_request.inputs():
        if tensor.name() == name:
            return tensor
    return None


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The response's output of that name, or None."""
    for tensor in inference_response.output_tensors():
        if tensor.name() == name:
            return tensor
    return None


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The properties of the input of that name in a configuration's JSON form, or None."""
    return _named(model_config.get("input", ()), name)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The properties of the output of that name in a configuration's JSON form, or None."""
    return _named(model_config.get("output", ()), name)


def _named(tensors: Any, name: str) -> dict[str, Any] | None:
    for properties in tensors:
        if properties["name"] == name:
            found: dict[str, Any] = properties
            return found
    return None


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    """Whether a configuration's JSON form asks for decoupled responses."""
    policy = model_config.get("model_transaction_policy", {})
    return bool(policy.get("decoupled", False))


def triton_to_numpy_type(data_type: int) -> type | None:
    """The numpy scalar type of a DataType number; None for BF16 and numbers that are none."""
    return _NUMPY_TYPES[data_type - 1] if 1 <= data_type <= len(_NUMPY_TYPES) else None


def numpy_to_triton_type(data_type: Any) -> int | None:
    """The DataType number of a numpy dtype or scalar type; None where there is none."""
    kind = np.dtype(data_type).type
    if kind is np.bytes_:
        kind = np.object_
    return _NUMPY_TYPES.index(kind) + 1 if kind in _NUMPY_TYPES else None


def triton_string_to_numpy(triton_type_string: str) -> type:
    """The numpy scalar type of a name such as TYPE_FP32. Raises KeyError, for TYPE_BF16 too."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def serialize_byte_tensor(input_tensor: Array) -> bytes | tuple[()] | None:
    """The wire bytes of an object or bytes array; `()` when it is empty, None for other dtypes."""
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype.kind not in "OS":
        return None
    return encode_bytes(input_tensor)


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Array:
    """The one-dimensional object array that `serialize_byte_tensor` wrote."""
    from ..tensor import decode_bytes

    return decode_bytes(encoded_tensor, (-1,))
