"""What the load generator must know of a model, out of its metadata and configuration.

Owns `ModelInfo` and how it is read from the two documents. Both protocols give the same documents;
over gRPC their integers are strings. Never asks a server.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# What a server's JSON holds; its fields are checked where they are read.
Document = Mapping[str, Any]


class SetupError(Exception):
    """The run cannot begin; `str()` is the line for standard error, without `error: `."""


class Scheduler(enum.Enum):
    """How the server schedules the model."""

    NONE = enum.auto()
    DYNAMIC = enum.auto()
    SEQUENCE = enum.auto()
    ENSEMBLE = enum.auto()
    ENSEMBLE_SEQUENCE = enum.auto()


@dataclass(frozen=True)
class TensorSpec:
    """An input or output; `shape` has no batch dimension, -1 is a dynamic one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    is_shape_tensor: bool = False

    @property
    def is_dynamic(self) -> bool:
        return any(extent < 0 for extent in self.shape)


@dataclass(frozen=True)
class ModelInfo:
    """One model as a client sees it."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    scheduler: Scheduler = Scheduler.NONE
    decoupled: bool = False
    response_cache: bool = False
    composing: tuple[tuple[str, str], ...] = ()  # (name, version or "")

    @property
    def is_sequence(self) -> bool:
        return self.scheduler in {Scheduler.SEQUENCE, Scheduler.ENSEMBLE_SEQUENCE}

    @property
    def is_composed(self) -> bool:
        return bool(self.composing)


def read_model(
    metadata: Document,
    config: Document | None,
    *,
    version: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> ModelInfo:
    """The model of `metadata`, its `config` being None where the server does not tell.

    `shapes` are the user's, applied to inputs that have a dynamic dimension.
    """
    config = config or {}
    max_batch_size = int(config.get("max_batch_size", 0))
    inputs = _specs(metadata.get("inputs", ()), config.get("input", ()), max_batch_size)
    outputs = _specs(metadata.get("outputs", ()), config.get("output", ()), max_batch_size)
    shaped = tuple(
        replace(spec, shape=shapes[spec.name]) if spec.is_dynamic and spec.name in shapes else spec
        for spec in inputs
    )
    if "sequence_batching" in config:
        scheduler = Scheduler.SEQUENCE
    elif "dynamic_batching" in config:
        scheduler = Scheduler.DYNAMIC
    else:
        scheduler = Scheduler.NONE
    return ModelInfo(
        name=str(metadata["name"]),
        version=version,
        inputs=shaped,
        outputs=outputs,
        max_batch_size=max_batch_size,
        scheduler=scheduler,
        decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
        response_cache=bool(config.get("response_cache", {}).get("enable", False)),
    )


def _specs(
    tensors: Iterable[Document], configured: Iterable[Document], max_batch_size: int
) -> tuple[TensorSpec, ...]:
    by_name = {each.get("name"): each for each in configured}
    specs = []
    for tensor in tensors:
        shape = tuple(int(extent) for extent in tensor.get("shape", ()))
        of_config = by_name.get(tensor["name"], {})
        specs.append(
            TensorSpec(
                name=str(tensor["name"]),
                datatype=str(tensor["datatype"]),
                shape=shape[1:] if max_batch_size > 0 else shape,
                optional=bool(of_config.get("optional", False)),
                is_shape_tensor=bool(of_config.get("is_shape_tensor", False)),
            )
        )
    return tuple(specs)


def ensemble_steps(config: Document) -> list[tuple[str, str]]:
    """(model, version) of every step, in order; the version is "" for the latest."""
    steps = config.get("ensemble_scheduling", {}).get("step", ())
    found = []
    for step in steps:
        version = int(step.get("model_version", -1))
        found.append((str(step["model_name"]), str(version) if version > 0 else ""))
    return found


def composed(
    model: ModelInfo, composing: Sequence[tuple[str, str]], configs: Iterable[Document]
) -> ModelInfo:
    """`model` made of other models: an ensemble's steps or what a model calls itself."""
    if not composing:
        return model
    sequence = any("sequence_batching" in config for config in configs)
    return replace(
        model,
        composing=tuple(dict.fromkeys(composing)),
        scheduler=Scheduler.ENSEMBLE_SEQUENCE if sequence else Scheduler.ENSEMBLE,
    )


def check_usage(model: ModelInfo, *, batch_size: int, streaming: bool) -> None:
    """Raises SetupError where the model cannot be driven the way the user asked."""
    if batch_size > 1 and model.max_batch_size == 0:
        raise SetupError(f"can not specify batch size > 1 as the model '{model.name}' "
                         "does not support batching")  # fmt: skip
    if 0 < model.max_batch_size < batch_size:
        raise SetupError(
            f"can not specify batch size ({batch_size}) greater than the maximum "
            f"({model.max_batch_size}) of the model '{model.name}'"
        )
    if model.is_sequence and batch_size > 1:
        raise SetupError("can not specify batch size > 1 when using a sequence model")
    if model.decoupled and not streaming:
        raise SetupError("Decoupled models must be run with asynchronous mode and streaming")
