"""What a backend may add to a configuration from a model's own files.

Owns the limits of that (inputs, outputs, batch size, a scheduler where none was chosen, the
decoupled flag) and the derivation from a model graph. Opening the model is the backend's work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.status import internal, invalid_arg
from repo.model_config import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
    copy_config,
    data_type_of,
    dynamic_batching,
    ensemble_scheduling,
    is_decoupled,
    mark_set,
    scheduling_choice,
    sequence_batching,
)

_LOG = logging.getLogger("troupe.repo")

DEFAULT_MAX_BATCH_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output as a model file declares it; -1 is a size that it leaves open."""

    name: str
    datatype: str  # on the wire: FP32, BYTES, …
    shape: tuple[int, ...]


def accept_completed(config: ModelConfig, completed: ModelConfig) -> ModelConfig:
    """A copy of `config` with what a backend completed and may complete.

    Raises ServerError INTERNAL when it changed a scheduler that the configuration chose.
    """
    old, new = scheduling_choice(config), scheduling_choice(completed)
    if old and new and old != new:
        raise internal(f"Cannot update scheduling choice from {old} to {new} when auto-completing.")
    result, completed = copy_config(config), copy_config(completed)
    result.max_batch_size = completed.max_batch_size
    result.input = completed.input
    result.output = completed.output
    if not old:
        if (batching := dynamic_batching(completed)) is not None:
            result.dynamic_batching = batching
        elif (sequence := sequence_batching(completed)) is not None:
            result.sequence_batching = sequence
        elif (ensemble := ensemble_scheduling(completed)) is not None:
            result.ensemble_scheduling = ensemble
    if is_decoupled(completed) != is_decoupled(result):
        result.model_transaction_policy.decoupled = is_decoupled(completed)
    return result


def default_max_batch_size(settings: Mapping[str, str]) -> int:
    """`--backend-config=default-max-batch-size=<n>`; a negative one reads as 0.

    Raises ServerError INVALID_ARG for what is no integer.
    """
    text = settings.get("default-max-batch-size")
    if text is None:
        return DEFAULT_MAX_BATCH_SIZE
    try:
        return max(int(text), 0)
    except ValueError:
        raise invalid_arg(
            f"backend config 'default-max-batch-size' must be an integer, got '{text}'"
        ) from None


def needs_graph(config: ModelConfig) -> bool:
    """Whether the configuration leaves inputs or outputs open; logs when it does not."""
    if (config.input or config.batch_input) and config.output:
        _LOG.info(
            "skipping model configuration auto-complete for '%s': "
            "inputs and outputs already specified",
            config.name,
        )
        return False
    return True


def complete_from_graph(
    config: ModelConfig,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    default_batch_size: int,
) -> ModelConfig:
    """A copy of `config` with batch size, batcher and the empty side of its tensors filled in.

    Raises ServerError INVALID_ARG when the configuration asks a model to batch that cannot.
    """
    config = copy_config(config)
    can_batch = all(one.shape[:1] == (-1,) for one in (*inputs, *outputs))
    if not can_batch:
        if config.max_batch_size != 0:
            raise invalid_arg(
                f"autofill failed for model '{config.name}': model does not support batching "
                "while non-zero max_batch_size is specified"
            )
    else:
        if config.max_batch_size == 0:
            config.max_batch_size = default_batch_size
        if config.max_batch_size > 1 and not scheduling_choice(config):
            config.dynamic_batching = ModelDynamicBatching()
    batched = config.max_batch_size > 0
    if not config.input:
        config.input = [_input(one, batched) for one in sorted(inputs, key=lambda one: one.name)]
    if not config.output:
        config.output = [_output(one, batched) for one in sorted(outputs, key=lambda one: one.name)]
    return config


def _dims(tensor: GraphTensor, batched: bool) -> list[int]:
    return list(tensor.shape[1:] if batched else tensor.shape)


def _input(tensor: GraphTensor, batched: bool) -> ModelInput:
    dims = _dims(tensor, batched)
    one = ModelInput(tensor.name, data_type_of(tensor.datatype), dims=dims or [1])
    if batched and not dims:
        mark_set(one.reshape)
    return one


def _output(tensor: GraphTensor, batched: bool) -> ModelOutput:
    dims = _dims(tensor, batched)
    out = ModelOutput(tensor.name, data_type_of(tensor.datatype), dims=dims or [1])
    if batched and not dims:
        mark_set(out.reshape)
    return out
