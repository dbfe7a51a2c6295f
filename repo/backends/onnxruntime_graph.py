"""What an ONNX model declares, and whether a configuration agrees with it.

Owns the reading of a session's inputs and outputs and the wording with which a configuration that
does not fit its model is refused at load. It runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from protocol.datatypes import config_name
from protocol.status import invalid_arg, unsupported
from repo.autocomplete import GraphTensor
from repo.model_config import (
    ModelConfig,
    ModelInput,
    ModelOutput,
    SequenceSettings,
    datatype,
    model_dims,
    sequence_settings,
)

# ONNX Runtime's name of an element type → the name on the wire.
_DATATYPES: Final = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16",
    "float": "FP32", "double": "FP64", "string": "BYTES", "bfloat16": "BF16",
}  # fmt: skip

_KINDS: Final = {
    "seq": "ONNX_TYPE_SEQUENCE", "map": "ONNX_TYPE_MAP", "optional": "ONNX_TYPE_OPTIONAL",
    "sparse_tensor": "ONNX_TYPE_SPARSETENSOR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Graph:
    """The tensors of a model by name; `optional` ones are initialisers that may be overridden."""

    inputs: dict[str, GraphTensor]
    optional: dict[str, GraphTensor]
    outputs: dict[str, GraphTensor]

    @classmethod
    def of(cls, session: Any) -> Graph:
        """Raises ServerError UNSUPPORTED for what is no tensor."""
        return cls(
            _tensors(session.get_inputs()),
            _tensors(session.get_overridable_initializers()),
            _tensors(session.get_outputs()),
        )


def _tensors(arguments: Iterable[Any]) -> dict[str, GraphTensor]:
    return {one.name: _tensor(one.name, one.type, one.shape) for one in arguments}


def _tensor(name: str, type_text: str, shape: Sequence[int | str | None]) -> GraphTensor:
    kind, _, element = type_text.partition("(")
    if kind != "tensor":
        raise unsupported(
            f"Unsupported ONNX Type '{_KINDS.get(kind, 'ONNX_TYPE_UNKNOWN')}' for I/O '{name}', "
            "expected 'ONNX_TYPE_TENSOR'."
        )
    # A size with a name, or none at all, is open.
    sizes = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in shape)
    return GraphTensor(name, _DATATYPES.get(element.rstrip(")"), "<invalid>"), sizes)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A tensor that the configuration counts on."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    ragged: bool = False


def check_graph(config: ModelConfig, graph: Graph) -> None:
    """Whether the model has what the configuration says. Raises ServerError INVALID_ARG."""
    sequence = sequence_settings(config)
    required = [_input(one) for one in config.input if not one.optional]
    required += _batch_inputs(config)
    required += _sequence_inputs(sequence)
    if len(required) != len(graph.inputs):
        raise invalid_arg(
            f"unable to load model '{config.name}', configuration expects {len(required)} inputs, "
            f"model provides {len(graph.inputs)}"
        )
    for expected in required:
        _check_name(expected.name, graph.inputs, "input")
        _check_input(config, expected, graph.inputs[expected.name])
    for one in config.input:
        if one.optional:
            _check_optional(config, one, graph)
    outputs = [_output(out) for out in config.output]
    outputs += _sequence_outputs(sequence)
    scattered = {name for out in config.batch_output for name in out.target_name}
    for expected in outputs:
        _check_name(expected.name, graph.outputs, "output")
        found = graph.outputs[expected.name]
        _check_datatype(config, expected, found, "output")
        if expected.name not in scattered and not _is_scalar(config, expected, found):
            _check_shape(config, expected, found, exact=True)


def _input(one: ModelInput) -> _Expected:
    return _Expected(
        one.name, datatype(one.data_type), model_dims(one), ragged=one.allow_ragged_batch
    )


def _output(out: ModelOutput) -> _Expected:
    return _Expected(out.name, datatype(out.data_type), model_dims(out))


def _batch_inputs(config: ModelConfig) -> list[_Expected]:
    # Their shape follows from the batch, not from the configuration.
    return [
        _Expected(name, datatype(one.data_type), (), ragged=True)
        for one in config.batch_input
        for name in one.target_name
    ]


def _sequence_inputs(sequence: SequenceSettings | None) -> list[_Expected]:
    if sequence is None:
        return []
    controls = [_Expected(one.name, one.datatype, (1,)) for one in sequence.controls]
    return controls + [
        _Expected(state.input_name, state.datatype, state.dims) for state in sequence.states
    ]


def _sequence_outputs(sequence: SequenceSettings | None) -> list[_Expected]:
    states = () if sequence is None else sequence.states
    return [_Expected(state.output_name, state.datatype, state.dims) for state in states]


def _check_name(name: str, allowed: dict[str, GraphTensor], direction: str) -> None:
    if name not in allowed:
        raise invalid_arg(
            f"unexpected inference {direction} '{name}', allowed {direction}s are: "
            f"{', '.join(sorted(allowed))}"
        )


def _check_input(config: ModelConfig, expected: _Expected, found: GraphTensor) -> None:
    _check_datatype(config, expected, found, "input")
    if expected.ragged:
        if expected.dims and found.shape != (-1,):
            raise invalid_arg(
                f"unable to load model '{config.name}', configuration expects model to have "
                f"shape [-1] for ragged input '{expected.name}', model provides "
                f"{_shape(found.shape)}"
            )
    elif not _is_scalar(config, expected, found):
        _check_shape(config, expected, found, exact=False)


def _check_optional(config: ModelConfig, one: ModelInput, graph: Graph) -> None:
    if config.max_batch_size > 0:
        raise invalid_arg(
            f"unable to load model '{config.name}', optional input '{one.name}' is not supported "
            "for models that support batching"
        )
    _check_name(one.name, graph.optional, "input")
    _check_input(config, _input(one), graph.optional[one.name])


def _check_datatype(
    config: ModelConfig, expected: _Expected, found: GraphTensor, direction: str
) -> None:
    if expected.datatype != found.datatype:
        provided = found.datatype
        raise invalid_arg(
            f"unable to load model '{config.name}', configuration expects datatype "
            f"{config_name(expected.datatype)} for {direction} '{expected.name}', model provides "
            f"{provided if provided == '<invalid>' else config_name(provided)}"
        )


def _is_scalar(config: ModelConfig, expected: _Expected, found: GraphTensor) -> bool:
    """A tensor without dims in the model; the configuration cannot say that, and says [1]."""
    return config.max_batch_size == 0 and not found.shape and set(expected.dims) <= {1}


def _check_shape(
    config: ModelConfig, expected: _Expected, found: GraphTensor, *, exact: bool
) -> None:
    """An open size in the model takes any configured one, except where `exact`."""
    subject = f"model '{config.name}', tensor '{expected.name}':"
    dims = expected.dims
    if config.max_batch_size > 0:
        if found.shape[:1] != (-1,):
            raise invalid_arg(
                f"{subject} for the model to support batching the shape should have at least 1 "
                "dimension and the first dimension must be -1; but shape expected by the model is "
                f"{_shape(found.shape)}"
            )
        dims = (-1, *dims)
    if len(dims) == len(found.shape) and all(
        size == dim or (size == -1 and not exact)
        for size, dim in zip(found.shape, dims, strict=True)
    ):
        return
    explained = (
        "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor "
        f"shape, making complete shape {_shape(dims)}"
        if config.max_batch_size > 0
        else f"shape {_shape(dims)}"
    )
    raise invalid_arg(
        f"{subject} the model expects {len(found.shape)} dimensions (shape "
        f"{_shape(found.shape)}) but the model configuration specifies {len(dims)} dimensions "
        f"({explained})"
    )


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
