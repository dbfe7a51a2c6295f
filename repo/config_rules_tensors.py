"""What a model configuration must say about inputs, outputs, batch inputs and batch outputs.

Owns the wording of those refusals; all are INVALID_ARG and end with ` for <model>`. It knows the
configuration alone: whether the model file agrees is each backend's own check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from repo.model_config import (
    BatchInput,
    BatchInputKind,
    BatchOutput,
    BatchOutputKind,
    DataType,
    ModelConfig,
    ModelInput,
    ModelInputFormat,
    ModelOutput,
    is_set,
)
from repo.refusals import ConfigRefusal, DrawnShape, raise_first

_TENSORRT = "tensorrt_plan"


def check_tensors(config: ModelConfig) -> None:
    """Judge every input and output. Raises ServerError."""
    raise_first(tensor_refusals(config))


def tensor_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    """Everything that there is against inputs and outputs, in their order."""
    for index, one in enumerate(config.input):
        yield from _input_refusals(one, config, f"input[{index}]")
    for index, out in enumerate(config.output):
        yield from _tensor_refusals(out, config, "output", f"output[{index}]")
    input_names = {one.name for one in config.input}
    for index, batch_input in enumerate(config.batch_input):
        yield from _batch_input_refusals(
            batch_input, config.name, input_names, f"batch_input[{index}]"
        )
    yield from _batch_outputs_refusals(config, input_names)


def _input_refusals(one: ModelInput, config: ModelConfig, place: str) -> Iterator[ConfigRefusal]:
    before = list(_shape_refusals(one, config, "input", place))
    yield from before
    if before:
        return
    if one.format != ModelInputFormat.FORMAT_NONE and len(one.dims) != 3:
        yield ConfigRefusal(
            f"model input NHWC/NCHW require 3 dims for {config.name}", f"{place}.format"
        )
    yield from _tensorrt_refusals(one, config, "input", place)


def _tensor_refusals(
    tensor: ModelOutput, config: ModelConfig, direction: str, place: str
) -> Iterator[ConfigRefusal]:
    before = list(_shape_refusals(tensor, config, direction, place))
    yield from before
    if not before:
        yield from _tensorrt_refusals(tensor, config, direction, place)


def _tensorrt_refusals(
    tensor: ModelInput | ModelOutput, config: ModelConfig, direction: str, place: str
) -> Iterator[ConfigRefusal]:
    is_tensorrt = config.platform == _TENSORRT
    if tensor.is_shape_tensor and not is_tensorrt:
        yield ConfigRefusal(
            f"shape tensors are only supported for TensorRT platform for {config.name}",
            f"{place}.is_shape_tensor",
        )
    if tensor.is_non_linear_format_io:
        field = f"{place}.is_non_linear_format_io"
        if not is_tensorrt:
            yield ConfigRefusal(
                f"Non-linear IO format is only supported for the TensorRT platform "
                f"for {config.name}",
                field,
            )
        elif len(tensor.dims) != 3:
            yield ConfigRefusal(
                f"Non-linear IO format {direction} requires 3 dims for {config.name}", field
            )


def _shape_refusals(
    tensor: ModelInput | ModelOutput, config: ModelConfig, direction: str, place: str
) -> Iterator[ConfigRefusal]:
    prefix, model = f"model {direction} ", config.name
    if not tensor.name:
        yield ConfigRefusal(f"{prefix}must specify 'name' for {model}", f"{place}.name")
    else:
        prefix = f"{prefix}'{tensor.name}' "
    if tensor.data_type == DataType.TYPE_INVALID:
        yield ConfigRefusal(f"{prefix}must specify 'data_type' for {model}", f"{place}.data_type")
    if not tensor.dims:
        yield ConfigRefusal(f"{prefix}must specify 'dims' for {model}", f"{place}.dims")
        return
    if is_set(tensor.reshape) and not tensor.reshape.shape and config.max_batch_size == 0:
        yield ConfigRefusal(
            f"{prefix}cannot have empty reshape for non-batching model "
            f"as scalar tensors are not supported for {model}",
            f"{place}.reshape",
        )
        return
    wrong = _first_wrong(tensor.dims)
    if wrong is not None:
        yield ConfigRefusal(
            f"{prefix}dimension must be integer >= 1, or -1 to indicate a variable-size dimension "
            f"for {model}",
            f"{place}.dims[{wrong}]",
        )
    elif is_set(tensor.reshape):
        yield from _reshape_refusals(tensor, config, prefix, f"{place}.reshape")


def _first_wrong(dims: Sequence[int]) -> int | None:
    return next((index for index, dim in enumerate(dims) if not (dim >= 1 or dim == -1)), None)


def _reshape_refusals(
    tensor: ModelInput | ModelOutput, config: ModelConfig, prefix: str, place: str
) -> Iterator[ConfigRefusal]:
    model, shape = config.name, tensor.reshape.shape
    wrong = _first_wrong(shape)
    if wrong is not None:
        yield ConfigRefusal(
            f"{prefix}reshape dimensions must be integer >= 1, "
            f"or -1 to indicate a variable-size dimension for {model}",
            f"{place}.shape[{wrong}]",
        )
        return
    # Every run of fixed dims between variable ones must keep its number of elements.
    dims_runs, reshape_runs = _runs(tensor.dims), _runs(shape)
    if dims_runs == reshape_runs:
        return
    counts = {len(dims_runs), len(reshape_runs)}
    same_count = len(counts) == 1 or 1 in counts
    difference = "size" if same_count else "number of variable-size dimensions"
    batched = config.max_batch_size > 0
    yield ConfigRefusal(
        f"{prefix}has different {difference} for dims and reshape for {model}",
        f"{place}.shape",
        expected=DrawnShape(tuple(tensor.dims), batched),
        found=DrawnShape(tuple(shape), batched),
    )


def _runs(dims: Sequence[int]) -> list[int]:
    """The element count of each run of fixed dims: `[2, 4, -1, 6]` → `[8, 6]`."""
    runs = [1]
    for dim in dims:
        if dim == -1:
            runs.append(1)
        else:
            runs[-1] *= dim
    return runs


def _batch_input_refusals(
    batch_input: BatchInput, model: str, input_names: set[str], place: str
) -> Iterator[ConfigRefusal]:
    kind, count = BatchInputKind(batch_input.kind).name, len(batch_input.source_input)
    if count != 1:
        yield ConfigRefusal(
            f"batch input kind '{kind}' expects 1 source input, got {count} for {model}", place
        )
    if batch_input.data_type not in {DataType.TYPE_INT32, DataType.TYPE_FP32}:
        yield ConfigRefusal(
            f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {model}",
            f"{place}.data_type",
        )
    yield from _source_refusals(batch_input, model, input_names, place)


def _batch_outputs_refusals(config: ModelConfig, input_names: set[str]) -> Iterator[ConfigRefusal]:
    output_names = {out.name for out in config.output}
    seen: set[str] = set()
    for index, batch_output in enumerate(config.batch_output):
        place = f"batch_output[{index}]"
        kind, count = BatchOutputKind(batch_output.kind).name, len(batch_output.source_input)
        if count != 1:
            yield ConfigRefusal(
                f"batch output kind '{kind}' expects 1 source input, got {count} for {config.name}",
                place,
            )
        yield from _source_refusals(batch_output, config.name, input_names, place)
        for number, target in enumerate(batch_output.target_name):
            field = f"{place}.target_name[{number}]"
            if target not in output_names:
                yield ConfigRefusal(
                    f"unknown target output name '{target}' for {config.name}", field
                )
            elif target in seen:
                yield ConfigRefusal(
                    f"target output name '{target}' can only be specified once for {config.name}",
                    field,
                )
            seen.add(target)


def _source_refusals(
    batch_tensor: BatchInput | BatchOutput, model: str, input_names: set[str], place: str
) -> Iterator[ConfigRefusal]:
    for index, source in enumerate(batch_tensor.source_input):
        if source not in input_names:
            yield ConfigRefusal(
                f"unknown source input name '{source}' for {model}",
                f"{place}.source_input[{index}]",
            )
