"""What Triton implements in C++; some models import it from here by name."""

from __future__ import annotations

from ..bls import ResponseIterator, is_model_ready, load_model, unload_model
from ..errors import TritonError, TritonModelException
from ..logger import Logger
from ..metrics import Metric, MetricFamily, MetricKind
from ..objects import (
    MEMORY_CPU,
    MEMORY_GPU,
    InferenceRequest,
    InferenceResponse,
    InferenceTrace,
    PreferredMemory,
)
from ..sender import InferenceResponseSender
from ..tensor import Tensor

# Texts and pickles name a class by its module, and this is the one that Triton's have.
for _published in (
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    InferenceTrace,
    Logger,
    Metric,
    MetricFamily,
    PreferredMemory,
    ResponseIterator,
    Tensor,
    TritonError,
    TritonModelException,
):
    _published.__module__ = "c_python_backend_utils"

TRITONSERVER_MEMORY_GPU = MEMORY_GPU
TRITONSERVER_MEMORY_CPU = MEMORY_CPU

__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "is_model_ready",
    "load_model",
    "unload_model",
]
