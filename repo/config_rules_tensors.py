"""What a model configuration must say about inputs, outputs, batch inputs and batch outputs.

Owns the wording of those refusals; all are INVALID_ARG and end with ` for <model>`. It knows the
configuration alone: whether the model file agrees is each backend's own check.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.status import invalid_arg
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

_TENSORRT = "tensorrt_plan"


def check_tensors(config: ModelConfig) -> None:
    """Judge every input and output. Raises ServerError."""
    for one in config.input:
        refusal = _input_refusal(one, config)
        if refusal:
            raise invalid_arg(f"{refusal} for {config.name}")
    for out in config.output:
        refusal = _tensor_refusal(out, config, "output")
        if refusal:
            raise invalid_arg(f"{refusal} for {config.name}")
    input_names = {one.name for one in config.input}
    for batch_input in config.batch_input:
        refusal = _batch_input_refusal(batch_input, input_names)
        if refusal:
            raise invalid_arg(f"{refusal} for {config.name}")
    refusal = _batch_outputs_refusal(config, input_names)
    if refusal:
        raise invalid_arg(f"{refusal} for {config.name}")


def _input_refusal(one: ModelInput, config: ModelConfig) -> str:
    refusal = _shape_refusal(one, config.max_batch_size, "model input ")
    if refusal:
        return refusal
    if one.format != ModelInputFormat.FORMAT_NONE and len(one.dims) != 3:
        return "model input NHWC/NCHW require 3 dims"
    return _tensorrt_refusal(one, config.platform, "input")


def _tensor_refusal(tensor: ModelOutput, config: ModelConfig, direction: str) -> str:
    refusal = _shape_refusal(tensor, config.max_batch_size, f"model {direction} ")
    return refusal or _tensorrt_refusal(tensor, config.platform, direction)


def _tensorrt_refusal(tensor: ModelInput | ModelOutput, platform: str, direction: str) -> str:
    if tensor.is_shape_tensor and platform != _TENSORRT:
        return "shape tensors are only supported for TensorRT platform"
    if tensor.is_non_linear_format_io:
        if platform != _TENSORRT:
            return "Non-linear IO format is only supported for the TensorRT platform"
        if len(tensor.dims) != 3:
            return f"Non-linear IO format {direction} requires 3 dims"
    return ""


def _shape_refusal(tensor: ModelInput | ModelOutput, max_batch_size: int, prefix: str) -> str:
    if not tensor.name:
        return f"{prefix}must specify 'name'"
    prefix = f"{prefix}'{tensor.name}' "
    if tensor.data_type == DataType.TYPE_INVALID:
        return f"{prefix}must specify 'data_type'"
    if not tensor.dims:
        return f"{prefix}must specify 'dims'"
    if is_set(tensor.reshape) and not tensor.reshape.shape and max_batch_size == 0:
        return (
            f"{prefix}cannot have empty reshape for non-batching model "
            "as scalar tensors are not supported"
        )
    if not _are_dims(tensor.dims):
        return (
            f"{prefix}dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
        )
    if is_set(tensor.reshape):
        return _reshape_refusal(tensor.dims, tensor.reshape.shape, prefix)
    return ""


def _are_dims(dims: Sequence[int]) -> bool:
    return all(dim >= 1 or dim == -1 for dim in dims)


def _reshape_refusal(dims: Sequence[int], reshape: Sequence[int], prefix: str) -> str:
    if not _are_dims(reshape):
        return (
            f"{prefix}reshape dimensions must be integer >= 1, "
            "or -1 to indicate a variable-size dimension"
        )
    # Every run of fixed dims between variable ones must keep its number of elements.
    dims_runs, reshape_runs = _runs(dims), _runs(reshape)
    if len(dims_runs) != len(reshape_runs):
        if 1 in {len(dims_runs), len(reshape_runs)}:
            return f"{prefix}has different size for dims and reshape"
        return f"{prefix}has different number of variable-size dimensions for dims and reshape"
    if dims_runs != reshape_runs:
        return f"{prefix}has different size for dims and reshape"
    return ""


def _runs(dims: Sequence[int]) -> list[int]:
    """The element count of each run of fixed dims: `[2, 4, -1, 6]` → `[8, 6]`."""
    runs = [1]
    for dim in dims:
        if dim == -1:
            runs.append(1)
        else:
            runs[-1] *= dim
    return runs


def _batch_input_refusal(batch_input: BatchInput, input_names: set[str]) -> str:
    kind, count = BatchInputKind(batch_input.kind).name, len(batch_input.source_input)
    if count != 1:
        return f"batch input kind '{kind}' expects 1 source input, got {count}"
    if batch_input.data_type not in {DataType.TYPE_INT32, DataType.TYPE_FP32}:
        return "batch input data type must be TYPE_INT32 or TYPE_FP32"
    return _source_refusal(batch_input, input_names)


def _batch_outputs_refusal(config: ModelConfig, input_names: set[str]) -> str:
    output_names = {out.name for out in config.output}
    seen: set[str] = set()
    for batch_output in config.batch_output:
        kind, count = BatchOutputKind(batch_output.kind).name, len(batch_output.source_input)
        if count != 1:
            return f"batch output kind '{kind}' expects 1 source input, got {count}"
        refusal = _source_refusal(batch_output, input_names)
        if refusal:
            return refusal
        for target in batch_output.target_name:
            if target not in output_names:
                return f"unknown target output name '{target}'"
            if target in seen:
                return f"target output name '{target}' can only be specified once"
            seen.add(target)
    return ""


def _source_refusal(batch_tensor: BatchInput | BatchOutput, input_names: set[str]) -> str:
    for source in batch_tensor.source_input:
        if source not in input_names:
            return f"unknown source input name '{source}'"
    return ""
