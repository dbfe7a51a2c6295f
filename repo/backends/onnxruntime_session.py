"""How ONNX Runtime opens a model: the file, the session options, the execution providers.

Owns the meaning of a model's `parameters` and accelerators for ONNX Runtime, and the form of its
errors. It never looks at the model's tensors (`onnxruntime_graph`) and runs nothing.
"""

from __future__ import annotations

import re
import threading  # noqa: TID251  # sessions of several instances must not be created at once
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from protocol.status import ServerError, internal, invalid_arg, unavailable
from repo.backends.base import COMPUTE_CAPABILITY, InstanceContext
from repo.backends.settings import boolean_parameter, integer_parameter
from repo.devices.lane import Lane
from repo.model_config import (
    ModelConfig,
    ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
    is_set,
    parameter,
)

Provider = tuple[str, dict[str, str]]

# Session creation is not safe for all providers at once; Triton serialises it as well.
_CREATION = threading.Lock()

_ERROR = re.compile(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", re.DOTALL)

_WARNING: Final = 2  # ONNX Runtime's own severity

_LEVELS: Final = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

_CUDNN_SEARCHES: Final = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_ARENA_STRATEGIES: Final = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}

_TENSORRT_PRECISIONS: Final = {
    "FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}  # fmt: skip

_TENSORRT_RENAMED: Final = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}

_TENSORRT_KEYS: Final = frozenset(
    f"trt_{key}"
    for key in (
        "max_partition_iterations", "min_subgraph_size", "dla_enable", "dla_core",
        "engine_cache_enable", "engine_cache_path", "engine_cache_prefix", "dump_subgraphs",
        "force_sequential_engine_build", "context_memory_sharing_enable",
        "layer_norm_fp32_fallback", "timing_cache_enable", "timing_cache_path",
        "force_timing_cache", "detailed_build_log", "build_heuristics_enable", "sparsity_enable",
        "builder_optimization_level", "auxiliary_streams", "tactic_sources",
        "extra_plugin_lib_paths", "profile_min_shapes", "profile_max_shapes",
        "profile_opt_shapes", "cuda_graph_enable", "dump_ep_context_model",
        "ep_context_file_path", "ep_context_embed_mode",
    )
)  # fmt: skip


def open_session(context: InstanceContext, *, lane: Lane | None = None) -> Any:
    """An `onnxruntime.InferenceSession` for one instance, on its lane. Raises ServerError."""
    path = model_file(context)
    options = session_options(context.config, context.settings)
    chosen = providers(context)
    if lane is not None and shares_stream(context):
        for name, given in chosen:
            if name == "CUDAExecutionProvider":
                given["user_compute_stream"] = str(lane.compute.handle)
    _check_available(chosen, context.model_name)
    with _CREATION:
        try:
            return ort.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:
            raise runtime_error(error) from error


def model_file(context: InstanceContext) -> Path:
    """The model's file. Raises ServerError UNAVAILABLE when it is not there."""
    name = context.config.default_model_filename or "model.onnx"
    if context.kind == "GPU" and context.config.cc_model_filenames:
        capability = context.settings.get(COMPUTE_CAPABILITY, "")
        name = context.config.cc_model_filenames.get(capability, name)
    path = context.version_directory / name
    if path.is_dir():
        path /= "model.onnx"
    if not path.exists():
        raise unavailable(f"unable to find '{path}' for model instance '{context.model_name}'")
    return path


def session_options(config: ModelConfig, settings: Mapping[str, str]) -> Any:
    """The session options that the configuration asks for. Raises ServerError INVALID_ARG."""
    options = ort.SessionOptions()
    options.log_severity_level = _WARNING
    graph = config.optimization.graph
    level = graph.level if is_set(graph) else 0
    options.graph_optimization_level = _LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    mode = integer_parameter(config, "execution_mode", 0)
    if mode not in {0, 1}:
        raise invalid_arg(
            "Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 "
            f"but got {mode} ."
        )
    if mode == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    _set_threads(options, config, settings)
    arena = boolean_parameter(config, "enable_mem_arena")
    if arena is not None:
        options.enable_cpu_mem_arena = arena
    pattern = boolean_parameter(config, "enable_mem_pattern")
    if pattern is not None:
        options.enable_mem_pattern = pattern
    for key, value in config.parameters.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value.string_value)
    for library in config.model_operations.op_library_filename:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise runtime_error(error) from error
    return options


def _set_threads(options: Any, config: ModelConfig, settings: Mapping[str, str]) -> None:
    if settings.get("enable-global-threadpool") == "1":
        # One pool for the whole process; ONNX Runtime takes its size before the first session.
        intra = int(settings.get("intra_op_thread_count", "0"))
        inter = int(settings.get("inter_op_thread_count", "0"))
        ort.set_global_thread_pool_sizes(intra, inter)
        options.use_per_session_threads = False
        return
    intra = integer_parameter(config, "intra_op_thread_count", 0)
    if intra > 0:
        options.intra_op_num_threads = intra
    inter = integer_parameter(config, "inter_op_thread_count", 0)
    if inter > 0:
        options.inter_op_num_threads = inter


def run_options(config: ModelConfig) -> Any:
    """The options of every run."""
    options = ort.RunOptions()
    shrinkage = parameter(config, "memory.enable_memory_arena_shrinkage")
    if shrinkage:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)
    return options


def providers(context: InstanceContext) -> list[Provider]:
    """The execution providers in order of preference. Raises ServerError INVALID_ARG."""
    accelerators = context.config.optimization.execution_accelerators
    chosen: list[Provider] = []
    if context.kind == "GPU":
        cuda = _cuda_options(context)
        for one in accelerators.gpu_execution_accelerator:
            match one.name:
                case "tensorrt":
                    options = {"device_id": str(context.device_id)} | _tensorrt_options(one)
                    chosen.append(("TensorrtExecutionProvider", options))
                case "cuda":
                    cuda |= one.parameters
                case _:
                    raise _unknown_accelerator(one.name)
        chosen.append(("CUDAExecutionProvider", cuda))
    for one in accelerators.cpu_execution_accelerator:
        if one.name != "openvino":
            raise _unknown_accelerator(one.name)
        chosen.append(("OpenVINOExecutionProvider", {"device_type": "CPU"}))
    chosen.append(("CPUExecutionProvider", {}))
    return chosen


def shares_stream(context: InstanceContext) -> bool:
    """Whether all of a run is on one stream of ours: TensorRT would bring streams of its own."""
    accelerators = context.config.optimization.execution_accelerators.gpu_execution_accelerator
    return all(one.name == "cuda" for one in accelerators)


def _unknown_accelerator(name: str) -> ServerError:
    return invalid_arg(f"unknown Execution Accelerator '{name}' is requested")


def _cuda_options(context: InstanceContext) -> dict[str, str]:
    """The deprecated parameters; a `cuda` accelerator's own entries win over them."""
    config = context.config
    options = {"device_id": str(context.device_id)}
    limit = parameter(config, "gpu_mem_limit")
    if limit is not None:
        options["gpu_mem_limit"] = limit
    search = parameter(config, "cudnn_conv_algo_search") or "0"
    if search not in _CUDNN_SEARCHES:
        raise invalid_arg(f"unsupported cudnn_conv_algo_search value '{search}' is requested")
    options["cudnn_conv_algo_search"] = _CUDNN_SEARCHES[search]
    strategy = parameter(config, "arena_extend_strategy") or "0"
    if strategy not in _ARENA_STRATEGIES:
        raise invalid_arg(f"unsupported arena_extend_strategy value '{strategy}' is requested")
    options["arena_extend_strategy"] = _ARENA_STRATEGIES[strategy]
    options["do_copy_in_default_stream"] = parameter(config, "do_copy_in_default_stream") or "1"
    return options


def _tensorrt_options(
    accelerator: ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in accelerator.parameters.items():
        if key == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise invalid_arg(f"unsupported precision mode '{value}' is requested")
            options |= _TENSORRT_PRECISIONS[value]
        elif key in _TENSORRT_RENAMED:
            options[_TENSORRT_RENAMED[key]] = value
        elif key in _TENSORRT_KEYS:
            options[key] = value
        else:
            raise invalid_arg(
                f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator"
            )
    return options


def _check_available(chosen: Sequence[Provider], model_name: str) -> None:
    # ONNX Runtime itself would only warn, and run a GPU model on the CPU.
    available = ort.get_available_providers()
    for name, _ in chosen:
        if name not in available:
            raise unavailable(
                f"unable to load model '{model_name}', the installed onnxruntime has no {name}. "
                f"It has: {', '.join(available)}"
            )


def runtime_error(error: Exception) -> ServerError:
    """What ONNX Runtime raised, in Triton's form: `onnx runtime error <code>: <message>`."""
    found = _ERROR.fullmatch(str(error))
    if found is None:
        return internal(f"onnx runtime error 1: {error}")
    return internal(f"onnx runtime error {found[1]}: {found[2]}")
