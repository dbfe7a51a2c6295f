"""What a model's `parameters` mean to PyTorch, and which file and device an instance uses.

Owns their spelling and defaults, and the thread counts of the process. It imports torch only
through the module it is handed, so that a server without torch can load this one.
"""

from __future__ import annotations

import logging
import threading  # noqa: TID251  # thread counts are set once for all instances' threads
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.status import unavailable
from repo.backends.base import InstanceContext
from repo.backends.settings import boolean_parameter, integer_parameter
from repo.model_config import ModelConfig

_LOG = logging.getLogger("troupe.repo")


@dataclass(frozen=True, slots=True)
class TorchSettings:
    """How a model runs. None leaves a process-wide setting of torch as it is; 0 threads too."""

    inference_mode: bool = True
    optimized_execution: bool = True
    cudnn: bool = True
    weight_sharing: bool = False
    cache_cleaning: bool = False
    jit_executor: bool | None = None
    jit_profiling: bool | None = None
    tensor_fuser: bool | None = None
    intra_op_threads: int = 0
    inter_op_threads: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> TorchSettings:
        """Raises ServerError INVALID_ARG for a misspelt value."""
        return cls(
            inference_mode=boolean_parameter(config, "INFERENCE_MODE") is not False,
            optimized_execution=not boolean_parameter(config, "DISABLE_OPTIMIZED_EXECUTION"),
            cudnn=not boolean_parameter(config, "DISABLE_CUDNN"),
            weight_sharing=boolean_parameter(config, "ENABLE_WEIGHT_SHARING") or False,
            cache_cleaning=boolean_parameter(config, "ENABLE_CACHE_CLEANING") or False,
            jit_executor=boolean_parameter(config, "ENABLE_JIT_EXECUTOR"),
            jit_profiling=boolean_parameter(config, "ENABLE_JIT_PROFILING"),
            tensor_fuser=boolean_parameter(config, "ENABLE_TENSOR_FUSER"),
            intra_op_threads=integer_parameter(config, "INTRA_OP_THREAD_COUNT", 0),
            inter_op_threads=integer_parameter(config, "INTER_OP_THREAD_COUNT", 0),
        )


class ThreadCounts:
    """The thread counts of a process: whoever sets one first has set it for all models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chosen: dict[str, int] = {}

    def choose(self, torch: Any, settings: TorchSettings, model_name: str) -> None:
        """Set what is not set yet; a count of 0 or less asks for nothing."""
        self._set("intra-op", settings.intra_op_threads, torch.set_num_threads, model_name)
        self._set("inter-op", settings.inter_op_threads, torch.set_num_interop_threads, model_name)

    def _set(self, word: str, count: int, apply: Callable[[int], object], model_name: str) -> None:
        if count <= 0:
            return
        with self._lock:
            first = self._chosen.get(word)
            if first is not None:
                if first != count:
                    _LOG.warning(
                        "model '%s' asks for %d %s threads, but another model was first and chose "
                        "%d for the whole process",
                        model_name,
                        count,
                        word,
                        first,
                    )
                return
            self._chosen[word] = count
            try:
                apply(count)
            except RuntimeError as error:
                # torch refuses once its pool runs; then the pool's own size rules.
                _LOG.warning("model '%s' cannot choose %s threads: %s", model_name, word, error)


THREAD_COUNTS: Final = ThreadCounts()


def model_file(context: InstanceContext, default: str, capability: str) -> Path:
    """The model's file; `capability` is `<major>.<minor>` of a GPU instance's device, or "".

    Raises ServerError UNAVAILABLE when it is not there.
    """
    config = context.config
    name = config.default_model_filename or default
    if context.kind == "GPU":
        name = config.cc_model_filenames.get(capability, name)
    path = context.version_directory / name
    if not path.exists():
        raise unavailable(f"unable to find '{path}' for model instance '{context.model_name}'")
    return path
