"""What an ONNX model declares, and whether a configuration agrees with it.

Owns the reading of a session's inputs and outputs and the wording with which a configuration that
does not fit its model is refused at load. It runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from protocol.datatypes import config_name
from protocol.status import unsupported
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
from repo.refusals import ConfigRefusal, DrawnShape, raise_first

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
    place: str  # in the configuration
    ragged: bool = False


def check_graph(config: ModelConfig, graph: Graph) -> None:
    """Whether the model has what the configuration says. Raises ServerError INVALID_ARG."""
    raise_first(graph_refusals(config, graph))


def graph_refusals(config: ModelConfig, graph: Graph) -> Iterator[ConfigRefusal]:
    """Everything in which the configuration and its model do not agree."""
    sequence = sequence_settings(config)
    required = [_input(one, index) for index, one in enumerate(config.input) if not one.optional]
    required += _batch_inputs(config)
    required += _sequence_inputs(sequence)
    if len(required) != len(graph.inputs):
        yield ConfigRefusal(
            f"unable to load model '{config.name}', configuration expects {len(required)} inputs, "
            f"model provides {len(graph.inputs)}",
            "input",
        )
    for expected in required:
        found = graph.inputs.get(expected.name)
        if found is None:
            yield _unexpected(expected, graph.inputs, "input")
        else:
            yield from _input_refusals(config, expected, found)
    for index, one in enumerate(config.input):
        if one.optional:
            yield from _optional_refusals(config, one, index, graph)
    outputs = [_output(out, index) for index, out in enumerate(config.output)]
    outputs += _sequence_outputs(sequence)
    scattered = {name for out in config.batch_output for name in out.target_name}
    for expected in outputs:
        found = graph.outputs.get(expected.name)
        if found is None:
            yield _unexpected(expected, graph.outputs, "output")
            continue
        yield from _datatype_refusals(config, expected, found, "output")
        if expected.name not in scattered and not _is_scalar(config, expected, found):
            yield from _shape_refusals(config, expected, found, exact=True)


def _input(one: ModelInput, index: int) -> _Expected:
    return _Expected(
        one.name,
        datatype(one.data_type),
        model_dims(one),
        f"input[{index}]",
        ragged=one.allow_ragged_batch,
    )


def _output(out: ModelOutput, index: int) -> _Expected:
    return _Expected(out.name, datatype(out.data_type), model_dims(out), f"output[{index}]")


def _batch_inputs(config: ModelConfig) -> list[_Expected]:
    # Their shape follows from the batch, not from the configuration.
    return [
        _Expected(name, datatype(one.data_type), (), f"batch_input[{index}]", ragged=True)
        for index, one in enumerate(config.batch_input)
        for name in one.target_name
    ]


def _sequence_inputs(sequence: SequenceSettings | None) -> list[_Expected]:
    if sequence is None:
        return []
    here = "sequence_batching"
    controls = [
        _Expected(one.name, one.datatype, (1,), f"{here}.control_input")
        for one in sequence.controls
    ]
    return controls + [
        _Expected(state.input_name, state.datatype, state.dims, f"{here}.state[{index}]")
        for index, state in enumerate(sequence.states)
    ]


def _sequence_outputs(sequence: SequenceSettings | None) -> list[_Expected]:
    states = () if sequence is None else sequence.states
    return [
        _Expected(
            state.output_name, state.datatype, state.dims, f"sequence_batching.state[{index}]"
        )
        for index, state in enumerate(states)
    ]


def _unexpected(
    expected: _Expected, allowed: dict[str, GraphTensor], direction: str
) -> ConfigRefusal:
    return ConfigRefusal(
        f"unexpected inference {direction} '{expected.name}', allowed {direction}s are: "
        f"{', '.join(sorted(allowed))}",
        f"{expected.place}.name",
    )


def _input_refusals(
    config: ModelConfig, expected: _Expected, found: GraphTensor
) -> Iterator[ConfigRefusal]:
    yield from _datatype_refusals(config, expected, found, "input")
    if expected.ragged:
        if expected.dims and found.shape != (-1,):
            yield ConfigRefusal(
                f"unable to load model '{config.name}', configuration expects model to have "
                f"shape [-1] for ragged input '{expected.name}', model provides "
                f"{_shape(found.shape)}",
                f"{expected.place}.allow_ragged_batch",
                expected=DrawnShape(found.shape),
                found=DrawnShape((-1,)),
            )
    elif not _is_scalar(config, expected, found):
        yield from _shape_refusals(config, expected, found, exact=False)


def _optional_refusals(
    config: ModelConfig, one: ModelInput, index: int, graph: Graph
) -> Iterator[ConfigRefusal]:
    expected = _input(one, index)
    found = graph.optional.get(one.name)
    if config.max_batch_size > 0:
        yield ConfigRefusal(
            f"unable to load model '{config.name}', optional input '{one.name}' is not supported "
            "for models that support batching",
            f"{expected.place}.optional",
        )
    elif found is None:
        yield _unexpected(expected, graph.optional, "input")
    else:
        yield from _input_refusals(config, expected, found)


def _datatype_refusals(
    config: ModelConfig, expected: _Expected, found: GraphTensor, direction: str
) -> Iterator[ConfigRefusal]:
    if expected.datatype != found.datatype:
        provided = found.datatype
        yield ConfigRefusal(
            f"unable to load model '{config.name}', configuration expects datatype "
            f"{config_name(expected.datatype)} for {direction} '{expected.name}', model provides "
            f"{provided if provided == '<invalid>' else config_name(provided)}",
            f"{expected.place}.data_type",
        )


def _is_scalar(config: ModelConfig, expected: _Expected, found: GraphTensor) -> bool:
    """A tensor without dims in the model; the configuration cannot say that, and says [1]."""
    return config.max_batch_size == 0 and not found.shape and set(expected.dims) <= {1}


def _shape_refusals(
    config: ModelConfig, expected: _Expected, found: GraphTensor, *, exact: bool
) -> Iterator[ConfigRefusal]:
    """An open size in the model takes any configured one, except where `exact`."""
    subject = f"model '{config.name}', tensor '{expected.name}':"
    dims, batched = expected.dims, config.max_batch_size > 0
    if batched:
        if found.shape[:1] != (-1,):
            yield ConfigRefusal(
                f"{subject} for the model to support batching the shape should have at least 1 "
                "dimension and the first dimension must be -1; but shape expected by the model is "
                f"{_shape(found.shape)}",
                "max_batch_size",
                expected=DrawnShape(found.shape),
                found=DrawnShape(dims, batched=True),
            )
            return
        dims = (-1, *dims)
    if len(dims) == len(found.shape) and all(
        size == dim or (size == -1 and not exact)
        for size, dim in zip(found.shape, dims, strict=True)
    ):
        return
    explained = (
        "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor "
        f"shape, making complete shape {_shape(dims)}"
        if batched
        else f"shape {_shape(dims)}"
    )
    yield ConfigRefusal(
        f"{subject} the model expects {len(found.shape)} dimensions (shape "
        f"{_shape(found.shape)}) but the model configuration specifies {len(dims)} dimensions "
        f"({explained})",
        f"{expected.place}.dims",
        expected=DrawnShape(found.shape[1:] if batched else found.shape, batched),
        found=DrawnShape(expected.dims, batched),
    )


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
