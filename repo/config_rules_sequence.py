"""What a sequence batcher must be told: control tensors, strategy and implicit state.

Owns the wording of those refusals; all are INVALID_ARG. Triton discovers a wrong `use_growable_
memory` only when the first request uses the state; here such a model does not load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import betterproto

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
from repo.refusals import ConfigRefusal, DrawnShape

_HERE: Final = "sequence_batching"
_CORRID: Final = ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_CORRID
_CORRID_TYPES: Final = (
    DataType.TYPE_UINT64,
    DataType.TYPE_INT64,
    DataType.TYPE_UINT32,
    DataType.TYPE_INT32,
    DataType.TYPE_STRING,
)


def sequence_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    """Judge `config.sequence_batching`, which must be set."""
    sequence = sequence_batching(config)
    assert sequence is not None, "called for models with sequences only"
    yield from _control_refusals(sequence, config.name)
    yield from _strategy_refusals(sequence, config)
    yield from _state_refusals(sequence, config)


def _control_refusals(sequence: ModelSequenceBatching, model_name: str) -> Iterator[ConfigRefusal]:
    tensors: set[str] = set()
    kinds: set[str] = set()
    for index, control_input in enumerate(sequence.control_input):
        here = f"{_HERE}.control_input[{index}]"
        if not control_input.name:
            yield ConfigRefusal(
                f"sequence batching control tensor must have a name for {model_name}", here
            )
        elif control_input.name in tensors:
            yield ConfigRefusal(
                f"sequence batching control tensor '{control_input.name}' is specified for "
                f"multiple control kinds for {model_name}",
                f"{here}.name",
            )
        tensors.add(control_input.name)
        for number, control in enumerate(control_input.control):
            place = f"{here}.control[{number}]"
            kind = ModelSequenceBatchingControlKind(control.kind).name
            if kind in kinds:
                yield ConfigRefusal(
                    f"sequence batching specifies multiple {kind} tensors for {model_name}",
                    f"{place}.kind",
                )
            kinds.add(str(kind))
            if control.kind == _CORRID:
                yield from _correlation_id_refusals(control, model_name, place)
            else:
                yield from _boolean_refusals(control, f"{kind} for {model_name}", place)


def _boolean_refusals(
    control: ModelSequenceBatchingControl, subject: str, place: str
) -> Iterator[ConfigRefusal]:
    pairs = (
        ("int32_false_true", len(control.int32_false_true)),
        ("fp32_false_true", len(control.fp32_false_true)),
        ("bool_false_true", len(control.bool_false_true)),
    )
    given = [(field, count) for field, count in pairs if count]
    if not given:
        yield ConfigRefusal(
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or "
            f"'bool_false_true' for {subject}",
            place,
        )
        return
    if len(given) > 1:
        yield ConfigRefusal(
            "sequence batching specifies more than one from 'int32_false_true', "
            f"'fp32_false_true' and 'bool_false_true' for {subject}",
            f"{place}.{given[1][0]}",
        )
        return
    field, count = given[0]
    if count != 2:
        yield ConfigRefusal(
            f"sequence batching control '{field}' must have exactly 2 entries for {subject}",
            f"{place}.{field}",
        )


def _correlation_id_refusals(
    control: ModelSequenceBatchingControl, model_name: str, place: str
) -> Iterator[ConfigRefusal]:
    if control.int32_false_true or control.fp32_false_true or control.bool_false_true:
        yield ConfigRefusal(
            "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or "
            f"'bool_false_true' for CONTROL_SEQUENCE_CORRID for {model_name}",
            place,
        )
    if control.data_type not in _CORRID_TYPES:
        yield ConfigRefusal(
            f"unexpected data type for control CONTROL_SEQUENCE_CORRID for {model_name}. Allowed "
            "data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING",
            f"{place}.data_type",
        )


def _strategy_refusals(
    sequence: ModelSequenceBatching, config: ModelConfig
) -> Iterator[ConfigRefusal]:
    oldest = strategy_oldest(sequence)
    sizes = () if oldest is None else oldest.preferred_batch_size
    for index, size in enumerate(sizes):
        place = f"{_HERE}.oldest.preferred_batch_size[{index}]"
        if size <= 0:
            yield ConfigRefusal(
                f"sequence batching preferred batch size must be positive for {config.name}", place
            )
        if size > config.max_batch_size:
            yield ConfigRefusal(
                "sequence batching preferred batch size must be <= max batch size for "
                f"{config.name}",
                place,
            )
    direct = strategy_direct(sequence)
    if direct is not None and not 0.0 <= direct.minimum_slot_utilization <= 1.0:
        # Triton's words; 0.0 itself is the default and is accepted.
        yield ConfigRefusal(
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for "
            f"{config.name}",
            f"{_HERE}.direct.minimum_slot_utilization",
        )


def _state_refusals(
    sequence: ModelSequenceBatching, config: ModelConfig
) -> Iterator[ConfigRefusal]:
    names: set[str] = set()
    for index, state in enumerate(sequence.state):
        place = f"{_HERE}.state[{index}]"
        if state.data_type == DataType.TYPE_INVALID:
            yield ConfigRefusal(
                f"sequence batching state '{state.input_name}' must specify 'data_type' for "
                f"{config.name}",
                f"{place}.data_type",
            )
        if state.initial_state:
            yield from _initial_state_refusals(state, place)
            name = state.initial_state[0].name
            if name in names:
                yield ConfigRefusal(
                    f"State input name '{name}' specified more than once.",
                    f"{place}.initial_state[0].name",
                )
            names.add(name)
        if state.use_growable_memory:
            yield from _growable_refusals(state, config, f"{place}.use_growable_memory")


def _growable_refusals(
    state: ModelSequenceBatchingState, config: ModelConfig, place: str
) -> Iterator[ConfigRefusal]:
    name = state.input_name
    if not state.use_same_buffer_for_input_output:
        yield ConfigRefusal(
            "In order to 'use_growable_memory', you must also enable 'use_single_buffer' "
            f"for state input name '{name}'.",
            place,
        )
    if any(group.kind != ModelInstanceGroupKind.KIND_GPU for group in config.instance_group):
        yield ConfigRefusal(
            "'use_growable_memory' can only work with KIND_GPU model instances right now. Please "
            "either change the instance type to KIND_GPU or set 'use_growable_memory' to false "
            f"for state input '{name}'.",
            place,
        )


def _initial_state_refusals(
    state: ModelSequenceBatchingState, place: str
) -> Iterator[ConfigRefusal]:
    name = state.input_name
    if len(state.initial_state) > 1:
        yield ConfigRefusal(
            f"initial_state field for state input '{name}' must contain exactly one or zero "
            f"element. Found '{len(state.initial_state)}' elements.",
            f"{place}.initial_state[1]",
        )
    initial, here = state.initial_state[0], f"{place}.initial_state[0]"
    if initial.data_type != state.data_type:
        yield ConfigRefusal(
            f"The data type used for 'initial_state' field of state '{name}' does not match "
            "the state data type.",
            f"{here}.data_type",
        )
    if not initial.name:
        yield ConfigRefusal(
            f"Field 'name' must be set when using initial_state for state input '{name}'.", here
        )
    yield from _initial_dims_refusals(initial, state, here)
    if betterproto.which_one_of(initial, "state_data")[0] == "":
        yield ConfigRefusal(
            f"initial_state setting expects state'{name}' to have state_data set", here
        )


def _initial_dims_refusals(
    initial: ModelSequenceBatchingInitialState, state: ModelSequenceBatchingState, place: str
) -> Iterator[ConfigRefusal]:
    name = state.input_name
    if len(initial.dims) != len(state.dims):
        yield ConfigRefusal(
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions "
            f"for state input '{name}'. {len(initial.dims)} != {len(state.dims)}",
            f"{place}.dims",
            expected=DrawnShape(tuple(state.dims)),
            found=DrawnShape(tuple(initial.dims)),
        )
        return
    for index, (dim, expected) in enumerate(zip(initial.dims, state.dims, strict=True)):
        if dim == -1:
            yield ConfigRefusal(
                f"'initial_state' field for state input name '{name}' contains variable "
                "dimensions.",
                f"{place}.dims[{index}]",
            )
        elif expected not in {-1, dim}:
            yield ConfigRefusal(
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim "
                f"description. {dim} != {expected}",
                f"{place}.dims[{index}]",
            )
