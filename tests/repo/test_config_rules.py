"""Every refusal of a configuration, word for word: configuration in, exact text out."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.config_rules import check_complete_config
from repo.normalise import normalise
from repo.pbtxt import parse_config

GOOD = 'name: "m" backend: "custom" '
FP32 = 'name: "T" data_type: TYPE_FP32 '


def _sequence(text: str) -> str:
    return f"{GOOD} max_batch_size: 8 sequence_batching {{ {text} }}"


def _start(name: str, text: str) -> str:
    return f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_START {text} }} }} '


def _corrid(name: str, text: str) -> str:
    return f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_CORRID {text} }} }} '


def _state(text: str) -> str:
    return _sequence(f'state {{ input_name: "S" data_type: TYPE_FP32 dims: [ -1, 2 ] {text} }}')


def _initial(text: str) -> str:
    return _state(f"initial_state {{ {text} }}")


def _metrics(text: str) -> str:
    return f"{GOOD} model_metrics {{ metric_control {{ {text} }} }}"


def _input(text: str, head: str = GOOD) -> str:
    return f"{head} input {{ {text} }}"


def _output(text: str, head: str = GOOD) -> str:
    return f"{head} output {{ {text} }}"


BATCH_IO = (
    GOOD + _input(FP32 + "dims: 1", "") + _output('name: "O" data_type: TYPE_FP32 dims: 1', "")
)

RULES: list[tuple[str, str]] = [
    ("", "model configuration must specify 'name'"),
    ('name: "m"', "unexpected platform type '' for m"),
    ('name: "m" platform: "foo"', "unexpected platform type 'foo' for m"),
    (
        'name: "m" platform: "foo" backend: "onnxruntime"',
        "unexpected 'platform' and 'backend' pair, got:foo, onnxruntime",
    ),
    (
        'name: "m" platform: "libtorch" backend: "pytorch"',
        "unexpected 'platform' and 'backend' pair, got:libtorch, pytorch",
    ),
    (
        'name: "m" platform: "onnxruntime_onnx" backend: "custom"',
        "unexpected 'platform' and 'backend' pair, got:onnxruntime_onnx, custom",
    ),
    (GOOD + "max_batch_size: -1", "'max_batch_size' must be non-negative value for m"),
    # Inputs and outputs.
    (_input(""), "model input must specify 'name' for m"),
    (_output(""), "model output must specify 'name' for m"),
    (_input('name: "T"'), "model input 'T' must specify 'data_type' for m"),
    (_output('name: "T"'), "model output 'T' must specify 'data_type' for m"),
    (_input(FP32), "model input 'T' must specify 'dims' for m"),
    (_output(FP32), "model output 'T' must specify 'dims' for m"),
    *(
        (
            _input(FP32 + f"dims: {dim}"),
            (
                "model input 'T' dimension must be integer >= 1, or -1 to indicate a variable-size "
                "dimension for m"
            ),
        )
        for dim in (0, -2)
    ),
    (
        _output(FP32 + "dims: 1 reshape { shape: 0 }"),
        (
            "model output 'T' reshape dimensions must be integer >= 1, or -1 to indicate a "
            "variable-size dimension for m"
        ),
    ),
    *(
        (
            _input(FP32 + f"dims: {dims} reshape {{ shape: {shape} }}", GOOD + "max_batch_size: 1"),
            "model input 'T' has different size for dims and reshape for m",
        )
        for dims, shape in [
            ("[ 2, 3 ]", "[ 5 ]"),
            ("[ 2 ]", "[ ]"),
            ("[ -1 ]", "[ ]"),
            ("[ -1 ]", "[ 4 ]"),
            ("[ 4 ]", "[ -1 ]"),
            ("[ 2, -1, 3 ]", "[ 3, -1, 2 ]"),
        ]
    ),
    (
        _input(FP32 + "dims: [ -1, -1 ] reshape { shape: [ -1 ] }"),
        (
            "model input 'T' has different number of variable-size dimensions for dims and reshape "
            "for m"
        ),
    ),
    (
        _input(FP32 + "dims: 1 reshape { }"),
        (
            "model input 'T' cannot have empty reshape for non-batching model as scalar tensors "
            "are not supported for m"
        ),
    ),
    (
        _input(FP32 + "dims: 1 format: FORMAT_NHWC"),
        "model input NHWC/NCHW require 3 dims for m",
    ),
    (
        _input(FP32 + "dims: [ 1, 2 ] format: FORMAT_NCHW"),
        "model input NHWC/NCHW require 3 dims for m",
    ),
    (
        _input(FP32 + "dims: 1 is_shape_tensor: true"),
        "shape tensors are only supported for TensorRT platform for m",
    ),
    (
        _output(FP32 + "dims: 1 is_non_linear_format_io: true"),
        "Non-linear IO format is only supported for the TensorRT platform for m",
    ),
    *(
        (
            io(
                FP32 + "dims: 1 is_non_linear_format_io: true",
                'name: "m" platform: "tensorrt_plan" backend: "tensorrt"',
            ),
            f"Non-linear IO format {direction} requires 3 dims for m",
        )
        for io, direction in ((_input, "input"), (_output, "output"))
    ),
    # Batch inputs and outputs.
    *(
        (
            BATCH_IO + f"batch_{direction} {{ kind: {kind} }}",
            f"batch {direction} kind '{kind}' expects 1 source input, got 0 for m",
        )
        for direction, kind in (
            ("input", "BATCH_ITEM_SHAPE"),
            ("output", "BATCH_SCATTER_WITH_INPUT_SHAPE"),
        )
    ),
    (
        BATCH_IO + 'batch_input { source_input: [ "T", "T" ] }',
        "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 2 for m",
    ),
    (
        BATCH_IO + 'batch_input { source_input: "T" data_type: TYPE_INT64 }',
        "batch input data type must be TYPE_INT32 or TYPE_FP32 for m",
    ),
    (
        BATCH_IO + 'batch_input { source_input: "X" data_type: TYPE_INT32 }',
        "unknown source input name 'X' for m",
    ),
    (BATCH_IO + 'batch_output { source_input: "X" }', "unknown source input name 'X' for m"),
    (
        BATCH_IO + 'batch_output { source_input: "T" target_name: "X" }',
        "unknown target output name 'X' for m",
    ),
    (
        BATCH_IO + 'batch_output { source_input: "T" target_name: [ "O", "O" ] }',
        "target output name 'O' can only be specified once for m",
    ),
    # The dynamic batcher.
    (
        GOOD + "dynamic_batching { preferred_batch_size: 0 }",
        "dynamic batching preferred size must be positive for m",
    ),
    (
        GOOD + "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }",
        "dynamic batching preferred size must be <= max batch size for m",
    ),
    *(
        (
            GOOD + f"dynamic_batching {{ priority_levels: 2 default_priority_level: {level} }}",
            "default priority level must be in range [1, 2] for m",
        )
        for level in (0, 3)
    ),
    *(
        (
            GOOD + "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
            f"priority_queue_policy {{ key: {level} value {{ }} }} }}",
            "priority queue policy must have priority level in range [1, 2] for m",
        )
        for level in (0, 3)
    ),
    (
        GOOD + "dynamic_batching { preserve_ordering: true priority_levels: 2 "
        "default_priority_level: 1 }",
        "Only one priority level is allowed when 'preserve_ordering' is true for m",
    ),
    *(
        (
            GOOD + f"dynamic_batching {{ preserve_ordering: true {policy} }}",
            (
                "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is "
                "true for m"
            ),
        )
        for policy in (
            "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }",
            (
                "priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 1 "
                "value { timeout_action: DELAY default_timeout_microseconds: 1 } }"
            ),
        )
    ),
    # The response cache.
    (
        GOOD + "response_cache { enable: true } sequence_batching { }",
        (
            "Response Cache does not currently support model m with sequence batching scheduler. "
            "Please disable the response cache."
        ),
    ),
    (
        GOOD + "response_cache { enable: true } model_transaction_policy { decoupled: true }",
        (
            "Response Cache does not currently support model m with 'decoupled' transaction "
            "policy. Please disable the response cache."
        ),
    ),
    # Sequences.
    (
        _sequence(_start("", "")),
        "sequence batching control tensor must have a name for m",
    ),
    (
        _sequence(
            _start("C", "int32_false_true: [ 0, 1 ]") + _corrid("C", "data_type: TYPE_INT32")
        ),
        "sequence batching control tensor 'C' is specified for multiple control kinds for m",
    ),
    (
        _sequence(
            _start("C", "int32_false_true: [ 0, 1 ]") + _start("D", "int32_false_true: [ 0, 1 ]")
        ),
        "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for m",
    ),
    (
        _sequence(_start("C", "")),
        (
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or "
            "'bool_false_true' for CONTROL_SEQUENCE_START for m"
        ),
    ),
    (
        _sequence(_start("C", "int32_false_true: 0 bool_false_true: true")),
        (
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' "
            "and 'bool_false_true' for CONTROL_SEQUENCE_START for m"
        ),
    ),
    *(
        (
            _sequence(_start("C", f"{field}: [ {values} ]")),
            (
                f"sequence batching control '{field}' must have exactly 2 entries for "
                "CONTROL_SEQUENCE_START for m"
            ),
        )
        for field, values in (
            ("int32_false_true", "0"),
            ("fp32_false_true", "0, 1, 2"),
            ("bool_false_true", "true"),
        )
    ),
    (
        _sequence(_corrid("C", "data_type: TYPE_FP32")),
        (
            "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed data types "
            "are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
        ),
    ),
    (
        _sequence(_corrid("C", "data_type: TYPE_INT32 int32_false_true: 1")),
        (
            "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or "
            "'bool_false_true' for CONTROL_SEQUENCE_CORRID for m"
        ),
    ),
    (
        _sequence("oldest { preferred_batch_size: 0 }"),
        "sequence batching preferred batch size must be positive for m",
    ),
    (
        _sequence("oldest { preferred_batch_size: 9 }"),
        "sequence batching preferred batch size must be <= max batch size for m",
    ),
    *(
        (
            _sequence(f"direct {{ minimum_slot_utilization: {value} }}"),
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        )
        for value in (-0.5, 1.5)
    ),
    (
        GOOD + "sequence_batching { } "
        'parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "x" } }',
        (
            "TRITON_BATCH_STRATEGY_PATH cannot be specified with sequence batcher, using default "
            "batching strategy"
        ),
    ),
    # Implicit state.
    (
        _state("initial_state { } initial_state { }"),
        (
            "initial_state field for state input 'S' must contain exactly one or zero element. "
            "Found '2' elements."
        ),
    ),
    (
        _initial("data_type: TYPE_INT8"),
        (
            "The data type used for 'initial_state' field of state 'S' does not match the state "
            "data type."
        ),
    ),
    (
        _initial("data_type: TYPE_FP32"),
        "Field 'name' must be set when using initial_state for state input 'S'.",
    ),
    (
        _initial('data_type: TYPE_FP32 name: "n" dims: 1'),
        (
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions "
            "for state input 'S'. 1 != 2"
        ),
    ),
    (
        _initial('data_type: TYPE_FP32 name: "n" dims: [ -1, 2 ]'),
        "'initial_state' field for state input name 'S' contains variable dimensions.",
    ),
    (
        _initial('data_type: TYPE_FP32 name: "n" dims: [ 1, 3 ]'),
        "'initial_state' dim for input name 'S' doesn't match 'state' dim description. 3 != 2",
    ),
    (
        _initial('data_type: TYPE_FP32 name: "n" dims: [ 1, 2 ]'),
        "initial_state setting expects state'S' to have state_data set",
    ),
    (
        _sequence(
            2 * "state { data_type: TYPE_FP32 initial_state { "
            'data_type: TYPE_FP32 name: "n" zero_data: true } } '
        ),
        "State input name 'n' specified more than once.",
    ),
    (
        _sequence('state { input_name: "S" output_name: "T" dims: [ 2 ] }'),
        "sequence batching state 'S' must specify 'data_type' for m",
    ),
    (
        _state("use_growable_memory: true"),
        (
            "In order to 'use_growable_memory', you must also enable 'use_single_buffer' for state "
            "input name 'S'."
        ),
    ),
    (
        _state("use_growable_memory: true use_same_buffer_for_input_output: true")
        + "instance_group { kind: KIND_CPU }",
        (
            "'use_growable_memory' can only work with KIND_GPU model instances right now. Please "
            "either change the instance type to KIND_GPU or set 'use_growable_memory' to false for "
            "state input 'S'."
        ),
    ),
    # Metrics.
    (_metrics(""), "metric control must specify 'metric_identifier'"),
    (
        _metrics("metric_identifier { }"),
        "metric identifier must specify non-empty 'family'",
    ),
    (
        _metrics('metric_identifier { family: "f" }'),
        "metric control must specify 'histogram_options'",
    ),
    (
        _metrics('metric_identifier { family: "f" } histogram_options { }'),
        "histogram options must specify non-empty 'buckets'",
    ),
    # Ensembles and platforms.
    (
        GOOD + "ensemble_scheduling { }",
        "ensemble scheduling cannot be set for model 'm' whose platform is not ensemble",
    ),
    (
        'name: "m" platform: "ensemble"',
        "ensemble scheduling must be set for ensemble m whose platform is ensemble",
    ),
    (
        'name: "m" platform: "ensemble" backend: "python"',
        "Ensemble model 'm' must have platform type 'ensemble' and empty backend type",
    ),
]


@pytest.mark.parametrize(("text", "message"), RULES)
def test_a_configuration_is_refused(text: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        check_complete_config(normalise(parse_config(text, "config.pbtxt")))

    assert failure.value.message == message
    assert failure.value.status is StatusCode.INVALID_ARG


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "dynamic_batching { }",
        GOOD + "dynamic_batching { preserve_ordering: true "
        "default_queue_policy { timeout_action: DELAY } }",
        GOOD + "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 1, 4 ] "
        "priority_levels: 2 default_priority_level: 2 priority_queue_policy { key: 1 value { } } }",
        GOOD + "response_cache { enable: true }",
        'name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime"',
        'name: "m" platform: "foo" backend: "custom"',
        'name: "m" backend: "python"',
        _input(FP32 + "dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] }"),
        _input(FP32 + "dims: 1 reshape { }", GOOD + "max_batch_size: 1"),
        _input(FP32 + "dims: [ 1, 1, 3 ] format: FORMAT_NHWC"),
        _input(
            FP32 + "dims: [ 1, 1, 3 ] is_non_linear_format_io: true is_shape_tensor: true",
            'name: "m" platform: "tensorrt_plan" backend: "tensorrt"',
        ),
        BATCH_IO + 'batch_input { source_input: "T" data_type: TYPE_FP32 target_name: "N" } '
        'batch_output { source_input: "T" target_name: "O" }',
        _sequence(
            _start("C", "int32_false_true: [ 0, 1 ]")
            + _corrid("D", "data_type: TYPE_STRING")
            + "direct { minimum_slot_utilization: 1.0 }"
        ),
        _sequence("oldest { }"),
        _initial('data_type: TYPE_FP32 name: "n" dims: [ 1, 2 ] zero_data: false'),
        _state("use_growable_memory: true use_same_buffer_for_input_output: true")
        + "instance_group { kind: KIND_GPU }",
        _metrics('metric_identifier { family: "f" } histogram_options { buckets: 1 }'),
    ],
)
def test_a_configuration_is_accepted(text: str) -> None:
    check_complete_config(normalise(parse_config(text, "config.pbtxt")))
