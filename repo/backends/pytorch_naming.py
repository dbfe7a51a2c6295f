"""Which configured tensor is which argument, and which result, of a PyTorch model.

Owns the naming conventions (argument names, `<name>__<index>`, the order of the configuration) and
the wording with which a configuration that does not fit its model is refused at load. It sees
descriptions only and never imports torch. The names of .pt2 models are in `pytorch_call_spec`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.datatypes import BYTES, config_name
from protocol.status import ServerError, internal, invalid_arg
from repo.model_config import (
    ModelConfig,
    ModelInput,
    ModelOutput,
    datatype,
    model_dims,
    sequence_settings,
)

_LOG = logging.getLogger("troupe.repo")

DATATYPES: Final = frozenset(
    {"BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"}
)
"""What a tensor of a PyTorch model may hold; strings travel as lists instead."""

_MARK: Final = "__"  # stands between a name and its index


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a TorchScript `forward`, without `self`; `kind` as torch calls types."""

    name: str
    kind: str  # TensorType, ListType, DictType, …
    text: str  # the type as torch prints it: Tensor, Dict(str, Tensor), int, …


@dataclass(frozen=True, slots=True)
class Plan:
    """Where configured tensors go and come from.

    `arguments` are input names in the order of the call, or the keys of its only argument where
    `by_key`. `results` are places in the flattened answer.
    """

    arguments: tuple[str, ...]
    results: Mapping[str, int]
    by_key: bool = False


def plan_forward(config: ModelConfig, arguments: Sequence[Argument]) -> Plan:
    """The plan of a TorchScript model. Raises ServerError INTERNAL or INVALID_ARG."""
    by_key = len(arguments) == 1 and arguments[0].kind == "DictType"
    controls = _indexed(_controls_and_states(config)[0], _no_convention)
    if not by_key:
        _check_arguments(arguments)
        check_count(config, len(arguments))
    check_tensors(config)
    if by_key:
        return Plan(tuple(all_inputs(config)), _results(config), by_key=True)
    places = _forward_places(config, [one.name for one in arguments]) | controls
    return Plan(in_order(config, places, len(arguments)), _results(config))


def check_tensors(config: ModelConfig, *, strings: bool = True) -> None:
    """Whether PyTorch has room for the configured tensors. Raises ServerError."""
    for one in config.input:
        if one.optional:
            raise invalid_arg(
                f"'optional' is set to true for input '{one.name}' while the backend model "
                "doesn't support optional input"
            )
    for direction, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            raise internal(
                f"model configuration must contain at least one {direction}, none were specified."
            )
        for tensor in tensors:
            _check_tensor(config, tensor, direction, strings)
    sequence = sequence_settings(config)
    for control in () if sequence is None else sequence.controls:
        if control.datatype not in DATATYPES:
            raise internal(
                f"input '{control.name}' type '{config_name(control.datatype)}' is not supported "
                "by PyTorch."
            )
    for state in () if sequence is None else sequence.states:
        if state.datatype not in DATATYPES:
            raise internal(
                f"unsupported datatype {config_name(state.datatype)} for input state "
                f"'{state.input_name}' for model '{config.name}'"
            )


def _check_tensor(
    config: ModelConfig, tensor: ModelInput | ModelOutput, direction: str, strings: bool
) -> None:
    wire_type = datatype(tensor.data_type)
    if wire_type == BYTES and strings:
        batch = 1 if config.max_batch_size > 0 else 0
        if len(model_dims(tensor)) + batch > 1:
            raise internal(
                f"Triton only supports 1 dimensional List of String as {direction} for "
                f"'{tensor.name}' for model '{config.name}'"
            )
    elif wire_type not in DATATYPES:
        raise internal(
            f"unsupported datatype {config_name(wire_type)} for {direction} '{tensor.name}' for "
            f"model '{config.name}'"
        )


def _batch_targets(config: ModelConfig) -> list[str]:
    return [name for one in config.batch_input for name in one.target_name]


def _controls_and_states(config: ModelConfig) -> tuple[list[str], list[str]]:
    sequence = sequence_settings(config)
    if sequence is None:
        return [], []
    return (
        [control.name for control in sequence.controls],
        [state.input_name for state in sequence.states],
    )


def all_inputs(config: ModelConfig) -> list[str]:
    controls, states = _controls_and_states(config)
    return [*(one.name for one in config.input), *_batch_targets(config), *controls, *states]


def all_outputs(config: ModelConfig) -> list[str]:
    sequence = sequence_settings(config)
    states = () if sequence is None else sequence.states
    names = [*(out.name for out in config.output), *(state.output_name for state in states)]
    return list(dict.fromkeys(names))


def check_count(config: ModelConfig, provided: int) -> None:
    expected = len(all_inputs(config))
    if expected != provided:
        raise invalid_arg(
            f"unable to load model '{config.name}', configuration expects {expected} inputs, "
            f"model provides {provided}"
        )


def _check_arguments(arguments: Sequence[Argument]) -> None:
    if any(one.kind == "DictType" for one in arguments[1:]):
        raise internal(
            "Multiple inputs of kind DictType were detected. Only a single input of type "
            "Dict(str, Tensor) is supported."
        )
    for one in arguments:
        if one.kind not in {"TensorType", "ListType"}:
            raise argument_error(one.text)


def argument_error(type_text: str) -> ServerError:
    """What is said of an argument that is neither a tensor nor a dictionary of tensors."""
    return internal(
        f"An input of type '{type_text}' was detected in the model. Only a single input of type "
        "Dict(str, Tensor) or input(s) of type Tensor are supported."
    )


def _index(name: str) -> int | None:
    """The index in `<name>__<index>`, after the first mark; None for another form."""
    _, mark, digits = name.partition(_MARK)
    if not mark or (digits and not (digits.isascii() and digits.isdecimal())):
        return None
    return int(digits or "0")


def _indexed(names: Iterable[str], refusal: Callable[[str], ServerError]) -> dict[str, int]:
    """Name → index. Raises `refusal(name)` for a name without one."""
    places: dict[str, int] = {}
    for name in names:
        index = _index(name)
        if index is None:
            raise refusal(name)
        places[name] = index
    return places


def _no_convention(name: str) -> ServerError:
    return internal(f"input '{name}' does not follow <name>__<index> naming convention.")


def _forward_places(config: ModelConfig, allowed: Sequence[str]) -> dict[str, int]:
    """Input name → place, for inputs, batch inputs and states."""
    names = [one.name for one in config.input]
    targets = _batch_targets(config)
    states = _controls_and_states(config)[1]
    if not states and all(name in allowed for name in names):
        for name in targets:
            check_allowed(name, allowed, "input")
        return {name: allowed.index(name) for name in names + targets}
    indices = {name: _index(name) for name in names}
    indexed = {name: index for name, index in indices.items() if index is not None}
    if len(indexed) == len(indices):
        batch = _indexed(targets, _no_convention)
        return indexed | batch | _state_places(config, states)
    _refuse_states(config, states)
    if any(_MARK in name for name, index in indices.items() if index is None):
        _LOG.warning(
            "input(s) of model '%s' are neither arguments of its forward function nor follow the "
            "<name>__<index> naming convention; falling back to the order of the configuration",
            config.name,
        )
    return {name: place for place, name in enumerate(names + targets)}


def _results(config: ModelConfig) -> dict[str, int]:
    names = [out.name for out in config.output]
    sequence = sequence_settings(config)
    states = [] if sequence is None else [state.output_name for state in sequence.states]
    indices = {name: _index(name) for name in names}
    indexed = {name: index for name, index in indices.items() if index is not None}
    if len(indexed) == len(indices):
        return indexed | _state_places(config, states)
    _refuse_states(config, states)
    return {name: place for place, name in enumerate(names)}


def _refuse_states(config: ModelConfig, states: Sequence[str]) -> None:
    if states:
        raise invalid_arg(
            f"PyTorch model '{config.name}' is using sequence batching with state but not all "
            "inputs and outputs follow the <name>__<index> naming convention. "
        )


def _state_places(config: ModelConfig, states: Sequence[str]) -> dict[str, int]:
    return _indexed(
        states,
        lambda name: invalid_arg(
            f"PyTorch model '{config.name}' is using sequence batching with state but state "
            f"'{name}' does not follow the <name>__<index> naming convention. "
        ),
    )


def in_order(config: ModelConfig, places: Mapping[str, int], count: int) -> tuple[str, ...]:
    """The names by place. Raises ServerError where the places are not 0 to `count` - 1."""
    by_place = {place: name for name, place in places.items()}
    if set(by_place) != set(range(count)) or len(places) != count:
        listed = ", ".join(f"'{name}' is {place}" for name, place in places.items())
        raise invalid_arg(
            f"unable to load model '{config.name}', its inputs must take the places 0 to "
            f"{count - 1}, each once: {listed}"
        )
    return tuple(by_place[place] for place in range(count))


def check_allowed(name: str, allowed: Collection[str], direction: str) -> None:
    if name not in allowed:
        raise invalid_arg(
            f"unexpected inference {direction} '{name}', allowed {direction}s are: "
            f"{', '.join(sorted(allowed))}"
        )
