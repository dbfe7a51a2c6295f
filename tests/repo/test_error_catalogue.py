"""The catalogue of configuration errors, walked from its first row to its last.

Each row is one text that operators know, found by loading a model as the server does. The rules
behind the texts are tried at their edges where they stand (`test_config_rules` and others).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.backends.registry import backend_class
from repo.config_rules import check_config
from repo.ensemble_rules import check_ensemble_members
from repo.instance_groups import NO_GPU, DeviceTable, GpuDevice, check_instance_groups
from repo.model_config import ModelConfig
from repo.pbtxt import parse_config
from repo.preparation import ModelFiles, prepare

M = 'backend: "b" '
B = M + "max_batch_size: 8 "
T = 'name: "T" data_type: TYPE_FP32 '
IO = M + f'input {{ {T} dims: 1 }} output {{ name: "O" data_type: TYPE_FP32 dims: 1 }} '
E = 'name: "E" platform: "ensemble" '
XZ = (
    'input { name: "X" data_type: TYPE_FP32 dims: 4 } '
    'output { name: "Z" data_type: TYPE_FP32 dims: 4 } '
)
DIMENSION = "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
RESHAPE = "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
CACHE = "Response Cache does not currently support model M with"
KINDS = "'int32_false_true', 'fp32_false_true'"
TWO = "must have exactly 2 entries"
START = "CONTROL_SEQUENCE_START for M"
GPUS = DeviceTable((GpuDevice(0, (9, 0)), GpuDevice(1, (9, 0))))


def control(name: str, text: str, kind: str = "START") -> str:
    return f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{kind} {text} }} }} '


def sequence(text: str) -> str:
    return f"{B} sequence_batching {{ {text} }}"


def metric(text: str) -> str:
    return f"{M} model_metrics {{ metric_control {{ {text} }} }}"


def step(model: str, inputs: str, outputs: str) -> str:
    maps = [
        f'{kind} {{ key: "{key}" value: "{value}" }}'
        for kind, pairs in (("input_map", inputs), ("output_map", outputs))
        for key, value in (pair.split("=") for pair in pairs.split())
    ]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }} '


def ensemble(*steps: str, io: str = XZ, more: str = "") -> str:
    return f"{E} {io} {more} ensemble_scheduling {{ {''.join(steps)} }}"


A, B_STEP = step("A", "i=X", "o=Y"), step("B", "i=Y", "o=Z")

PATH = "TRITON_BATCH_STRATEGY_PATH"

TABLE: list[tuple[int, str, str]] = [
    (2, 'platform: "p"', "unexpected platform type 'p' for M"),
    (
        3,
        'platform: "p" backend: "onnxruntime"',
        "unexpected 'platform' and 'backend' pair, got:p, onnxruntime",
    ),
    (
        4,
        "",
        (
            "Invalid model name: Could not determine backend for model 'M' with no backend in "
            "model configuration. Expected model name of the form 'model.<backend_name>'."
        ),
    ),
    (6, M + "max_batch_size: -1", "'max_batch_size' must be non-negative value for M"),
    (7, M + "input { }", "model input must specify 'name' for M"),
    (7, M + "output { }", "model output must specify 'name' for M"),
    (8, M + 'input { name: "T" }', "model input 'T' must specify 'data_type' for M"),
    (8, M + 'output { name: "T" }', "model output 'T' must specify 'data_type' for M"),
    (9, M + f"input {{ {T} }}", "model input 'T' must specify 'dims' for M"),
    (9, M + f"output {{ {T} }}", "model output 'T' must specify 'dims' for M"),
    (10, M + f"input {{ {T} dims: 0 }}", f"model input 'T' {DIMENSION} for M"),
    (
        11,
        M + f"input {{ {T} dims: 1 reshape {{ shape: 0 }} }}",
        f"model input 'T' {RESHAPE} for M",
    ),
    (
        12,
        M + f"input {{ {T} dims: [ 2, 3 ] reshape {{ shape: 5 }} }}",
        "model input 'T' has different size for dims and reshape for M",
    ),
    (
        13,
        M + f"input {{ {T} dims: [ -1, -1 ] reshape {{ shape: -1 }} }}",
        (
            "model input 'T' has different number of variable-size dimensions for dims and reshape "
            "for M"
        ),
    ),
    (
        14,
        M + f"input {{ {T} dims: 1 reshape {{ }} }}",
        (
            "model input 'T' cannot have empty reshape for non-batching model as scalar tensors "
            "are not supported for M"
        ),
    ),
    (
        15,
        M + f"input {{ {T} dims: 1 format: FORMAT_NHWC }}",
        "model input NHWC/NCHW require 3 dims for M",
    ),
    (
        16,
        M + f"input {{ {T} dims: 1 is_shape_tensor: true }}",
        "shape tensors are only supported for TensorRT platform for M",
    ),
    (
        17,
        M + f"input {{ {T} dims: 1 is_non_linear_format_io: true }}",
        "Non-linear IO format is only supported for the TensorRT platform for M",
    ),
    (
        17,
        f'backend: "tensorrt" input {{ {T} dims: 1 is_non_linear_format_io: true }}',
        "Non-linear IO format input requires 3 dims for M",
    ),
    (
        18,
        B + "dynamic_batching { preferred_batch_size: 0 }",
        "dynamic batching preferred size must be positive for M",
    ),
    (
        19,
        B + "dynamic_batching { preferred_batch_size: 9 }",
        "dynamic batching preferred size must be <= max batch size for M",
    ),
    (
        20,
        B + "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
        "default priority level must be in range [1, 2] for M",
    ),
    (
        21,
        B + "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
        "priority_queue_policy { key: 3 value { } } }",
        "priority queue policy must have priority level in range [1, 2] for M",
    ),
    (
        22,
        B + "dynamic_batching { preserve_ordering: true priority_levels: 2 "
        "default_priority_level: 1 }",
        "Only one priority level is allowed when 'preserve_ordering' is true for M",
    ),
    (
        23,
        B + "dynamic_batching { preserve_ordering: true default_queue_policy { "
        "timeout_action: DELAY default_timeout_microseconds: 1 } }",
        "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for M",
    ),
    (
        24,
        B + "response_cache { enable: true } sequence_batching { }",
        f"{CACHE} sequence batching scheduler. Please disable the response cache.",
    ),
    (
        25,
        M + "response_cache { enable: true } model_transaction_policy { decoupled: true }",
        f"{CACHE} 'decoupled' transaction policy. Please disable the response cache.",
    ),
    (26, sequence(control("", "")), "sequence batching control tensor must have a name for M"),
    (
        27,
        sequence(
            control("C", "int32_false_true: [ 0, 1 ]")
            + control("C", "data_type: TYPE_INT32", "CORRID")
        ),
        "sequence batching control tensor 'C' is specified for multiple control kinds for M",
    ),
    (
        28,
        sequence(
            control("C", "int32_false_true: [ 0, 1 ]") + control("D", "int32_false_true: [ 0, 1 ]")
        ),
        "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for M",
    ),
    (
        29,
        sequence(control("C", "")),
        f"sequence batching must specify either {KINDS} or 'bool_false_true' for {START}",
    ),
    (
        30,
        sequence(control("C", "int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ]")),
        f"sequence batching specifies more than one from {KINDS} and 'bool_false_true' for {START}",
    ),
    *(
        (
            31,
            sequence(control("C", f"{kind}_false_true: {value}")),
            f"sequence batching control '{kind}_false_true' {TWO} for {START}",
        )
        for kind, value in (("int32", "1"), ("fp32", "1"), ("bool", "true"))
    ),
    (
        32,
        sequence(control("C", "data_type: TYPE_FP32", "CORRID")),
        (
            "unexpected data type for control CONTROL_SEQUENCE_CORRID for M. Allowed data types "
            "are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
        ),
    ),
    (
        33,
        sequence("oldest { preferred_batch_size: 0 }"),
        "sequence batching preferred batch size must be positive for M",
    ),
    (
        33,
        sequence("oldest { preferred_batch_size: 9 }"),
        "sequence batching preferred batch size must be <= max batch size for M",
    ),
    (
        34,
        sequence("direct { minimum_slot_utilization: 1.5 }"),
        "sequence batching minimum slot utilization must be in range (0.0, 1.0] for M",
    ),
    (
        36,
        IO + 'instance_group { name: "g" kind: KIND_CPU gpus: 0 }',
        "instance group g of model M has kind KIND_CPU but specifies one or more GPUs",
    ),
    (
        36,
        IO + 'instance_group { name: "g" kind: KIND_MODEL gpus: 0 }',
        "instance group g of model M has kind KIND_MODEL but specifies one or more GPUs",
    ),
    (
        37,
        IO + 'instance_group { name: "g" kind: KIND_GPU }',
        "instance group g of model M has kind KIND_GPU but no GPUs are available",
    ),
    (
        39,
        IO + 'instance_group { name: "g" kind: KIND_CPU profile: "1" }',
        (
            "instance group g of model M and platform specifies profile field which is only "
            "supported for TensorRT models"
        ),
    ),
    (
        40,
        IO + 'batch_input { source_input: [ "T", "T" ] }',
        "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 2 for M",
    ),
    (
        40,
        IO + "batch_output { }",
        "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 0 for M",
    ),
    (
        40,
        IO + 'batch_input { source_input: "T" data_type: TYPE_INT64 }',
        "batch input data type must be TYPE_INT32 or TYPE_FP32 for M",
    ),
    (
        40,
        IO + 'batch_input { source_input: "U" data_type: TYPE_FP32 }',
        "unknown source input name 'U' for M",
    ),
    (
        40,
        IO + 'batch_output { source_input: "T" target_name: "U" }',
        "unknown target output name 'U' for M",
    ),
    (
        40,
        IO + 'batch_output { source_input: "T" target_name: [ "O", "O" ] }',
        "target output name 'O' can only be specified once for M",
    ),
    (
        41,
        M + "ensemble_scheduling { }",
        "ensemble scheduling cannot be set for model 'M' whose platform is not ensemble",
    ),
    (42, E + XZ, "ensemble scheduling must be set for ensemble E whose platform is ensemble"),
    (
        43,
        E + 'backend: "b"',
        "Ensemble model 'E' must have platform type 'ensemble' and empty backend type",
    ),
    (
        44,
        ensemble(A, B_STEP, more="instance_group { }"),
        "instance group should not be specified for ensemble 'E'",
    ),
    (
        44,
        ensemble(A, B_STEP, more="optimization { }"),
        "optimization should not be specified for ensemble 'E'",
    ),
    (
        44,
        ensemble(A, B_STEP, more='model_warmup { name: "w" }'),
        "model_warmup can not be specified for ensemble 'E'",
    ),
    (45, ensemble(), "must specify 'step' for ensemble 'E'"),
    (45, ensemble(step("", "i=X", "o=Z")), "must specify 'model_name' in step 0 of ensemble 'E'"),
    (45, ensemble(step("A", "", "o=Z")), "must specify 'input_map' in step 0 of ensemble 'E'"),
    (45, ensemble(step("A", "i=X", "")), "must specify 'output_map' in step 0 of ensemble 'E'"),
    (
        46,
        ensemble(step("A", "i=X", "o=Z"), step("B", "i=X", "o=Z")),
        "ensemble tensor 'Z' can appear in an output map only once for ensemble 'E' step 1",
    ),
    (
        46,
        ensemble(step("A", "i=X", "o=Z"), step("B", "i=X", "o=U")),
        "ensemble tensor 'U' is unused in ensemble 'E'",
    ),
    (
        47,
        ensemble(step("A", "i=V", "o=Z")),
        "ensemble input 'X' for ensemble E' is not used",
    ),
    (
        47,
        ensemble(step("A", "i=X", "o=U")),
        "ensemble output 'Z' for ensemble E' is not used",
    ),
    (52, metric(""), "metric control must specify 'metric_identifier'"),
    (52, metric("metric_identifier { }"), "metric identifier must specify non-empty 'family'"),
    (
        52,
        metric('metric_identifier { family: "f" }'),
        "metric control must specify 'histogram_options'",
    ),
    (
        52,
        metric('metric_identifier { family: "f" } histogram_options { }'),
        "histogram options must specify non-empty 'buckets'",
    ),
    (
        54,
        sequence("") + f'parameters {{ key: "{PATH}" value {{ string_value: "x" }} }}',
        f"{PATH} cannot be specified with sequence batcher, using default batching strategy",
    ),
    (
        47,
        ensemble(step("A", "i=X i2=V", "o=Z")),
        (
            "output 'Z' for ensemble 'E' is not written: at least one of its depending tensors, "
            "'V', is not connected"
        ),
    ),
]


@pytest.mark.parametrize(("number", "text", "message"), TABLE)
def test_row(number: int, text: str, message: str) -> None:
    assert 1 <= number <= 54
    assert refusal(text) == (StatusCode.INVALID_ARG, message)


def refusal(text: str, devices: DeviceTable = DeviceTable()) -> tuple[StatusCode, str]:  # noqa: B008
    """How a model named M (or E, for ensembles) is refused."""
    name = "E" if 'name: "E"' in text else "M"
    with pytest.raises(ServerError) as caught:
        prepare(
            parse_config(text, "config.pbtxt"),
            ModelFiles(Path(name), ("1",)),
            devices=devices,
            complete=None,
        )
    return caught.value.status, caught.value.message


def test_rows_about_gpus() -> None:
    group = IO + 'instance_group { name: "g" kind: KIND_GPU gpus: 99 }'
    assert refusal(group, NO_GPU)[1] == (
        "instance group g of model M has kind KIND_GPU but server does not support GPUs"
    )
    assert refusal(group, GPUS)[1] == (
        "instance group g of model M specifies invalid or unsupported gpu id 99. GPUs with at "
        "least the minimum required CUDA compute compatibility of 7.500000 are: 0, 1"
    )


def test_row_1_nobody_has_given_a_name() -> None:
    with pytest.raises(ServerError) as caught:
        check_config(parse_config(M, "config.pbtxt"))
    assert caught.value.message == "model configuration must specify 'name'"


def test_row_35_instances_are_never_none() -> None:
    """Normalising makes a group where there is none, so the check is only the last resort."""
    with pytest.raises(ServerError) as caught:
        check_instance_groups(parse_config(f'name: "M" {M}', "config.pbtxt"), NO_GPU)
    assert caught.value.message == "must specify one or more 'instance group's for M"


def test_row_5_a_backend_that_nobody_has() -> None:
    with pytest.raises(ServerError) as caught:
        backend_class("nothing")
    assert caught.value.message == (
        "unable to find backend library for backend 'nothing', try specifying runtime on the "
        "model configuration."
    )


# --- ensembles and their members --------------------------------------------------------------


def member(
    name: str, dims: str = "4", *, kind: str = "TYPE_FP32", batch: int = 0, decoupled: bool = False
) -> ModelConfig:
    return parse_config(
        f'name: "{name}" backend: "b" max_batch_size: {batch} '
        f'input {{ name: "i" data_type: TYPE_FP32 dims: [ {dims} ] }} '
        f'output {{ name: "o" data_type: {kind} dims: [ {dims} ] }} '
        f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}",
        name,
    )


MEMBERS: list[tuple[int, str, list[ModelConfig], str]] = [
    (
        48,
        ensemble(A, B_STEP),
        [member("A", kind="TYPE_INT32"), member("B")],
        (
            "in ensemble E, ensemble tensor Y: inconsistent data type: TYPE_INT32 is inferred from "
            "model A while TYPE_FP32 is inferred from model B"
        ),
    ),
    (
        48,
        ensemble(A, B_STEP),
        [member("A"), member("B", "5")],
        (
            "in ensemble E, ensemble tensor Y: inconsistent shape: [4] is inferred from model A "
            "while [5] is inferred from model B"
        ),
    ),
    (
        49,
        ensemble(step("A", "j=X i=X", "o=Z")),
        [member("A")],
        "in ensemble E, ensemble tensor X is mapping to non-existing input j in model A",
    ),
    (
        49,
        ensemble(step("A", "i=X", "p=Z")),
        [member("A")],
        "in ensemble E, ensemble tensor Z is mapped from non-existing output p in model A",
    ),
    (
        49,
        ensemble(step("A", "i=X", "o=Z")),
        [
            parse_config(
                'name: "A" backend: "b" input { name: "i" data_type: TYPE_FP32 dims: 4 } '
                'input { name: "k" data_type: TYPE_FP32 dims: 4 } '
                'output { name: "o" data_type: TYPE_FP32 dims: 4 }',
                "A",
            )
        ],
        "in ensemble E, input k in model A is not mapped to any ensemble tensors",
    ),
    (
        51,
        ensemble(step("A", "i=X", "o=Y"), step("B", "i=X", "o=W"), step("C", "i=Y j=W", "o=Z")),
        [
            member("A", decoupled=True),
            member("B", decoupled=True),
            parse_config(
                'name: "C" backend: "b" input { name: "i" data_type: TYPE_FP32 dims: 4 } '
                'input { name: "j" data_type: TYPE_FP32 dims: 4 } '
                'output { name: "o" data_type: TYPE_FP32 dims: 4 }',
                "C",
            ),
        ],
        (
            "in ensemble E, step of model 'C' receives inputs originated from different decoupled "
            "models"
        ),
    ),
    (
        50,
        ensemble(A, B_STEP, more="max_batch_size: 4"),
        [member("A", batch=4), member("B", batch=2)],
        (
            "ensemble E allows maximum batch size 4, but it contains model B which only allows "
            "maximum batch size to be 2"
        ),
    ),
]


@pytest.mark.parametrize(("number", "text", "members", "message"), MEMBERS)
def test_row_about_members(
    number: int, text: str, members: list[ModelConfig], message: str
) -> None:
    assert 48 <= number <= 51
    with pytest.raises(ServerError) as caught:
        check_ensemble_members(parse_config(text, "E"), {one.name: one for one in members})
    assert caught.value.message == message
