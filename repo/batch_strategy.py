"""Custom batching: loads a model's own strategy, a Python file that may close batches early.

The file defines five functions; they play the parts of the five that Triton expects of a C library:

    model_batcher_initialize(model_config: str) -> object     once, at load; the JSON configuration
    model_batcher_finalize(batcher) -> None                   once, at unload
    model_batch_initialize(batcher) -> object                 a new batch begins
    model_batch_include_request(request, batch) -> bool       may this request join it?
    model_batch_finalize(batch) -> None                       the batch leaves, or its scan restarts

`request` is a `protocol.inference.InferRequest`. Owns only the finding and loading; when the
functions are called is the scheduling policy's decision.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final  # Any: what a model's own file defines

from protocol.inference import InferRequest
from protocol.status import ServerError, internal, invalid_arg, not_found
from repo.model_config import ModelConfig, parameter, sequence_batching

PARAMETER: Final = "TRITON_BATCH_STRATEGY_PATH"
DEFAULT_FILE: Final = "batchstrategy.py"

_FUNCTIONS: Final = (
    "model_batcher_initialize",
    "model_batcher_finalize",
    "model_batch_initialize",
    "model_batch_include_request",
    "model_batch_finalize",
)


@dataclass(frozen=True, slots=True, eq=False)
class StrategyFunctions:
    """A loaded and initialised strategy."""

    batcher: object
    begin: Callable[[object], object]
    include: Callable[[InferRequest, object], bool]
    end: Callable[[object], None]
    finalize: Callable[[object], None]


def load_strategy(
    config: ModelConfig, config_json: str, model_directory: Path, version: int
) -> StrategyFunctions | None:
    """The strategy of a model, initialised; None when it has none.

    Raises ServerError: INVALID_ARG for a path outside the model directory, for missing functions or
    beside sequence batching, NOT_FOUND for a file that is not there, INTERNAL for code that raises.
    """
    path = strategy_file(config, model_directory, version)
    if path is None:
        return None
    if sequence_batching(config) is not None:
        raise invalid_arg(
            f"{PARAMETER} cannot be specified with sequence batcher, "
            "using default batching strategy"
        )
    initialize, finalize, begin, include, end = _functions(path, config.name)
    try:
        batcher = initialize(config_json)
    except ServerError:
        raise
    except Exception as error:
        raise internal(f"{path} failed to initialize: {type(error).__name__}: {error}") from error
    return StrategyFunctions(batcher, begin, include, end, finalize)


def strategy_file(config: ModelConfig, model_directory: Path, version: int) -> Path | None:
    """The file that defines a model's strategy; None when it has none. Raises ServerError."""
    named = parameter(config, PARAMETER)
    if named is None:
        candidates = (model_directory / str(version), model_directory)
        return next(
            (each / DEFAULT_FILE for each in candidates if (each / DEFAULT_FILE).is_file()), None
        )
    root = model_directory.resolve()
    path = (root / named).resolve()
    if not path.is_relative_to(root):
        raise invalid_arg("Batching library path escapes model repository.")
    if not path.is_file():
        raise not_found(f"Batching library path not found: {path}")
    return path


def _functions(path: Path, model_name: str) -> list[Callable[..., Any]]:
    spec = importlib.util.spec_from_file_location(f"troupe_strategy_{model_name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise internal(f"{path} failed to load: {type(error).__name__}: {error}") from error
    functions = [getattr(module, name, None) for name in _FUNCTIONS]
    if not all(callable(each) for each in functions):
        raise invalid_arg(
            f"{path} does not define all required custom batching functions for model {model_name}"
        )
    return functions  # type: ignore[return-value]  # each was just seen to be callable
