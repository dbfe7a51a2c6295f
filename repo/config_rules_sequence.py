"""What a sequence batcher must be told: control tensors, strategy and implicit state.

Owns the wording of those refusals; all are INVALID_ARG. Triton discovers a wrong `use_growable_
memory` only when the first request uses the state; here such a model does not load.
"""

from __future__ import annotations

from typing import Final

import betterproto

from protocol.status import invalid_arg
from repo.model_config import (
    DataType,
    ModelConfig,
    ModelInstanceGroupKind,
    ModelSequenceBatching,
    ModelSequenceBatchingControl,
    ModelSequenceBatchingControlKind,
    ModelSequenceBatchingInitialState,
    ModelSequenceBatchingState,
    sequence_batching,
    strategy_direct,
    strategy_oldest,
)

_CORRID: Final = ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_CORRID
_CORRID_TYPES: Final = (
    DataType.TYPE_UINT64,
    DataType.TYPE_INT64,
    DataType.TYPE_UINT32,
    DataType.TYPE_INT32,
    DataType.TYPE_STRING,
)


def check_sequence_batching(config: ModelConfig) -> None:
    """Judge `config.sequence_batching`, which must be set. Raises ServerError INVALID_ARG."""
    sequence = sequence_batching(config)
    assert sequence is not None, "called for models with sequences only"
    _check_controls(sequence, config.name)
    _check_strategy(sequence, config)
    _check_states(sequence, config)


def _check_controls(sequence: ModelSequenceBatching, model_name: str) -> None:
    tensors: set[str] = set()
    kinds: set[str] = set()
    for control_input in sequence.control_input:
        if not control_input.name:
            raise invalid_arg(f"sequence batching control tensor must have a name for {model_name}")
        if control_input.name in tensors:
            raise invalid_arg(
                f"sequence batching control tensor '{control_input.name}' is specified for "
                f"multiple control kinds for {model_name}"
            )
        tensors.add(control_input.name)
        for control in control_input.control:
            kind = ModelSequenceBatchingControlKind(control.kind).name
            if kind in kinds:
                raise invalid_arg(
                    f"sequence batching specifies multiple {kind} tensors for {model_name}"
                )
            kinds.add(kind)
            if control.kind == _CORRID:
                _check_correlation_id(control, model_name)
            else:
                _check_boolean(control, kind, model_name)


def _check_boolean(control: ModelSequenceBatchingControl, kind: str, model_name: str) -> None:
    pairs = (
        ("int32_false_true", len(control.int32_false_true)),
        ("fp32_false_true", len(control.fp32_false_true)),
        ("bool_false_true", len(control.bool_false_true)),
    )
    given = [(field, count) for field, count in pairs if count]
    if not given:
        raise invalid_arg(
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or "
            f"'bool_false_true' for {kind} for {model_name}"
        )
    if len(given) > 1:
        raise invalid_arg(
            "sequence batching specifies more than one from 'int32_false_true', "
            f"'fp32_false_true' and 'bool_false_true' for {kind} for {model_name}"
        )
    field, count = given[0]
    if count != 2:
        raise invalid_arg(
            f"sequence batching control '{field}' must have exactly 2 entries "
            f"for {kind} for {model_name}"
        )


def _check_correlation_id(control: ModelSequenceBatchingControl, model_name: str) -> None:
    if control.int32_false_true or control.fp32_false_true or control.bool_false_true:
        raise invalid_arg(
            "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or "
            f"'bool_false_true' for CONTROL_SEQUENCE_CORRID for {model_name}"
        )
    if control.data_type not in _CORRID_TYPES:
        raise invalid_arg(
            f"unexpected data type for control CONTROL_SEQUENCE_CORRID for {model_name}. Allowed "
            "data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
        )


def _check_strategy(sequence: ModelSequenceBatching, config: ModelConfig) -> None:
    oldest = strategy_oldest(sequence)
    if oldest is not None:
        for size in oldest.preferred_batch_size:
            if size <= 0:
                raise invalid_arg(
                    f"sequence batching preferred batch size must be positive for {config.name}"
                )
            if size > config.max_batch_size:
                raise invalid_arg(
                    "sequence batching preferred batch size must be <= max batch size for "
                    f"{config.name}"
                )
    direct = strategy_direct(sequence)
    if direct is not None and not 0.0 <= direct.minimum_slot_utilization <= 1.0:
        # Triton's words; 0.0 itself is the default and is accepted.
        raise invalid_arg(
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for "
            f"{config.name}"
        )


def _check_states(sequence: ModelSequenceBatching, config: ModelConfig) -> None:
    names: set[str] = set()
    for state in sequence.state:
        if state.initial_state:
            _check_initial_state(state)
            name = state.initial_state[0].name
            if name in names:
                raise invalid_arg(f"State input name '{name}' specified more than once.")
            names.add(name)
        if state.use_growable_memory:
            _check_growable(state, config)


def _check_growable(state: ModelSequenceBatchingState, config: ModelConfig) -> None:
    name = state.input_name
    if not state.use_same_buffer_for_input_output:
        raise invalid_arg(
            "In order to 'use_growable_memory', you must also enable 'use_single_buffer' "
            f"for state input name '{name}'."
        )
    if any(group.kind != ModelInstanceGroupKind.KIND_GPU for group in config.instance_group):
        raise invalid_arg(
            "'use_growable_memory' can only work with KIND_GPU model instances right now. Please "
            "either change the instance type to KIND_GPU or set 'use_growable_memory' to false "
            f"for state input '{name}'."
        )


def _check_initial_state(state: ModelSequenceBatchingState) -> None:
    name = state.input_name
    if len(state.initial_state) > 1:
        raise invalid_arg(
            f"initial_state field for state input '{name}' must contain exactly one or zero "
            f"element. Found '{len(state.initial_state)}' elements."
        )
    initial = state.initial_state[0]
    if initial.data_type != state.data_type:
        raise invalid_arg(
            f"The data type used for 'initial_state' field of state '{name}' does not match "
            "the state data type."
        )
    if not initial.name:
        raise invalid_arg(
            f"Field 'name' must be set when using initial_state for state input '{name}'."
        )
    _check_initial_dims(initial, state)
    if betterproto.which_one_of(initial, "state_data")[0] == "":
        raise invalid_arg(f"initial_state setting expects state'{name}' to have state_data set")


def _check_initial_dims(
    initial: ModelSequenceBatchingInitialState, state: ModelSequenceBatchingState
) -> None:
    name = state.input_name
    if len(initial.dims) != len(state.dims):
        raise invalid_arg(
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions "
            f"for state input '{name}'. {len(initial.dims)} != {len(state.dims)}"
        )
    for dim, expected in zip(initial.dims, state.dims, strict=True):
        if dim == -1:
            raise invalid_arg(
                f"'initial_state' field for state input name '{name}' contains variable dimensions."
            )
        if expected not in {-1, dim}:
            raise invalid_arg(
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim "
                f"description. {dim} != {expected}"
            )
