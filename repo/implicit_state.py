"""Implicit state: tensors that a server keeps for a sequence between two of its requests.

Owns the state of every slot of one instance: what it is at the start of a sequence, how it becomes
inputs of a request, how a response or the backend itself replaces it. It knows nothing of time or
of sequences; whoever executes says which slot a request belongs to.

A state begins as zeros where the configuration has no `initial_state`: what another sequence left
behind must not be seen. Input and output belong together as one entry of the configuration says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from protocol.datatypes import BYTES, ELEMENT_SIZE, decode_bytes, numpy_dtype
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, StatusCode, invalid_arg
from repo.model_config import InitialStateSettings, ModelConfig, StateSettings, sequence_settings
from repo.sequence_inputs import zeros_like

DIRECTORY: Final = "initial_state"


@dataclass(frozen=True, slots=True, eq=False)
class StatePlan:
    """The states of one model version, and what each holds at the start of a sequence."""

    states: tuple[StateSettings, ...]
    initial: tuple[Tensor, ...]  # under the names of the inputs
    places: Mapping[str, int]  # output name → which state
    hidden: frozenset[str]  # outputs that clients do not see

    @classmethod
    def load(cls, config: ModelConfig, model_directory: Path) -> StatePlan:
        """Read the initial states. Raises ServerError when a file does not hold enough."""
        settings = sequence_settings(config)
        states = () if settings is None else _without_duplicates(settings.states)
        batch = (1,) if config.max_batch_size > 0 else ()
        return cls(
            states,
            tuple(_initial(state, batch, model_directory) for state in states),
            {state.output_name: place for place, state in enumerate(states)},
            frozenset(state.output_name for state in states) - {out.name for out in config.output},
        )


class StateKeeper:
    """The states of one instance, by slot."""

    def __init__(self, plan: StatePlan) -> None:
        self._plan = plan
        self._slots: dict[int, SequenceState] = {}

    @property
    def has_states(self) -> bool:
        return bool(self._plan.states)

    def of(self, slot: int, flags: SequenceFlag, *, begins: bool) -> SequenceState:
        """The state with which a slot's next request is executed.

        It is a new one where the slot `begins` to belong to the sequence, and with a START. What
        still goes on with the old one does not touch it.
        """
        if begins or SequenceFlag.START in flags:
            self._slots[slot] = SequenceState(self._plan)
        return self._slots[slot]

    def pad(self, padding: InferRequest, beside: InferRequest) -> InferRequest:
        """A padding request with states of the same shapes as those attached to `beside`."""
        if not self._plan.states:
            return padding
        names = {state.input_name for state in self._plan.states}
        states = [zeros_like(tensor) for tensor in beside.inputs if tensor.name in names]
        return replace(padding, inputs=padding.inputs + states)


class SequenceState:
    """What the server remembers of one sequence, from a START on.

    A backend may replace a state itself through `ExecuteRequest.update_state`; its thread then
    calls `update`. Nobody else is here at that time, for the sequence's next request must wait.
    """

    __slots__ = ("_current", "_plan")

    def __init__(self, plan: StatePlan) -> None:
        self._plan = plan
        self._current = [_begun(*pair) for pair in zip(plan.states, plan.initial, strict=True)]

    def attach(self, request: InferRequest) -> InferRequest:
        """The request with the states as further inputs."""
        if not self._current:
            return request
        wanted = request.requested_outputs
        if wanted:
            # A backend that leaves out what nobody asked for must not leave out the states.
            wanted = tuple(dict.fromkeys((*wanted, *self._plan.places)))
        # Made for every request, so not by `replace`, which costs several times as much.
        return InferRequest(
            request.model_name,
            request.model_version,
            request.id,
            request.inputs + self._current,
            wanted,
            request.parameters,
            request.correlation_id,
            request.sequence_flags,
            request.priority,
            request.timeout_us,
            request.raw_input,
        )

    def take(self, response: InferResponse) -> None:
        """Keep the states that a response carries, and hide those that are no outputs.

        A state that it does not carry stays as it is.
        """
        if not self._current:
            return
        for tensor in response.outputs:
            if tensor.name in self._plan.places:
                self.update(tensor)
        hidden = self._plan.hidden
        if hidden:
            response.outputs = [one for one in response.outputs if one.name not in hidden]

    def update(self, tensor: Tensor) -> None:
        """Replace the state whose output has the tensor's name. Raises ServerError INVALID_ARG."""
        place = self._plan.places.get(tensor.name)
        if place is None:
            raise invalid_arg(f"state '{tensor.name}' is not a valid state name.")
        settings = self._plan.states[place]
        current = self._current
        if settings.same_buffer and _fits(current[place], tensor):
            np.copyto(current[place].array, tensor.array)
            return
        current[place] = _own(settings.input_name, tensor, is_shared=settings.same_buffer)


def _begun(settings: StateSettings, initial: Tensor) -> Tensor:
    """A sequence's own buffer where the model may write into it, else the common beginning."""
    if not settings.same_buffer:
        return initial
    return _own(initial.name, initial, is_shared=True)


def _own(name: str, tensor: Tensor, *, is_shared: bool) -> Tensor:
    """A copy that lives as long as it is needed: a tensor may lie in its whole batch's memory.

    Model code can write into it only if `is_shared`.
    """
    array = np.array(tensor.array)
    array.flags.writeable = is_shared
    return Tensor(name, tensor.datatype, tensor.shape, array=array)


def _fits(buffer: Tensor, tensor: Tensor) -> bool:
    """Whether a buffer can take the new content; strings have none to write into."""
    return buffer.datatype == tensor.datatype != BYTES and buffer.shape == tensor.shape


def _without_duplicates(states: Sequence[StateSettings]) -> tuple[StateSettings, ...]:
    """As in Triton, a name that comes again is ignored; its first entry counts."""
    kept: list[StateSettings] = []
    inputs: set[str] = set()
    outputs: set[str] = set()
    for state in states:
        if state.input_name not in inputs and state.output_name not in outputs:
            kept.append(state)
            inputs.add(state.input_name)
            outputs.add(state.output_name)
    return tuple(kept)


def _initial(state: StateSettings, batch: tuple[int, ...], model_directory: Path) -> Tensor:
    initial = state.initial
    dims = state.dims if initial is None else initial.dims
    shape = batch + tuple(1 if dim == -1 else dim for dim in dims)
    if initial is not None and initial.data_file:
        tensor = _from_file(state, initial, shape, model_directory)
    else:
        fill = b"" if state.datatype == BYTES else 0
        array = np.full(shape, fill, numpy_dtype(state.datatype))
        tensor = Tensor(state.input_name, state.datatype, shape, array=array)
    tensor.array.flags.writeable = False  # every sequence begins with it
    return tensor


def _from_file(
    state: StateSettings,
    initial: InitialStateSettings,
    shape: tuple[int, ...],
    model_directory: Path,
) -> Tensor:
    directory = model_directory / DIRECTORY
    path = directory / initial.data_file
    if not path.resolve().is_relative_to(directory.resolve()):
        raise invalid_arg(
            f"initial_state data file '{initial.data_file}' of state '{state.input_name}' is "
            f"outside {directory}"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ServerError(
            StatusCode.INTERNAL, f"failed to open text file for read {path}: {error.strerror}"
        ) from error
    if state.datatype == BYTES:
        try:
            array = decode_bytes(raw, shape)
        except ValueError as error:
            raise invalid_arg(
                f"initial_state data file '{initial.data_file}' of state '{state.input_name}' "
                f"does not hold {math.prod(shape)} string elements: {error}"
            ) from error
        return Tensor(state.input_name, BYTES, shape, array=array)
    expected = math.prod(shape) * ELEMENT_SIZE[state.datatype]
    if len(raw) < expected:
        raise invalid_arg(
            f"initial_state setting expects {expected} bytes, but the data provided from "
            f"{initial.data_file}only has {len(raw)} bytes."
        )
    flat = np.frombuffer(raw[:expected], numpy_dtype(state.datatype))
    return Tensor(state.input_name, state.datatype, shape, array=flat.reshape(shape))
