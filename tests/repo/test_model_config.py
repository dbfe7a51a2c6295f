"""The typed configuration: presence, names, and microseconds that become seconds once."""

from __future__ import annotations

import pytest

from repo.model_config import (
    BatchingSettings,
    ControlSettings,
    DataType,
    EnsembleSettings,
    InitialStateSettings,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelResponseCache,
    ModelTensorReshape,
    QueuePolicySettings,
    SequenceSettings,
    StateSettings,
    StepSettings,
    batching_settings,
    copy_config,
    data_type_of,
    datatype,
    dynamic_batching,
    ensemble_scheduling,
    ensemble_settings,
    is_decoupled,
    is_set,
    mark_set,
    model_dims,
    parameter,
    scheduling_choice,
    sequence_batching,
    sequence_settings,
    type_name,
)
from repo.pbtxt import parse_config


def test_no_scheduler_is_chosen_by_default() -> None:
    config = ModelConfig()

    assert scheduling_choice(config) == ""
    assert dynamic_batching(config) is None
    assert sequence_batching(config) is None
    assert ensemble_scheduling(config) is None
    assert not is_decoupled(config)


def test_an_empty_message_counts_once_it_is_marked() -> None:
    cache = ModelResponseCache()
    assert not is_set(cache)

    mark_set(cache)

    assert is_set(cache)
    assert is_set(copy_config(ModelConfig(response_cache=cache)).response_cache)


def test_a_copy_shares_nothing() -> None:
    config = ModelConfig(name="m", input=[ModelInput(name="a", dims=[1])])

    copied = copy_config(config)
    copied.input[0].dims.append(2)

    assert list(config.input[0].dims) == [1]


def test_datatypes_have_two_names() -> None:
    assert type_name(DataType.TYPE_STRING) == "TYPE_STRING"
    assert datatype(DataType.TYPE_STRING) == "BYTES"
    assert datatype(DataType.TYPE_FP32) == "FP32"
    assert datatype(DataType.TYPE_INVALID) == "<invalid>"
    assert data_type_of("BYTES") == DataType.TYPE_STRING
    assert data_type_of("BF16") == DataType.TYPE_BF16


def test_the_model_sees_the_reshaped_dims() -> None:
    assert model_dims(ModelInput(dims=[2, 3])) == (2, 3)
    assert model_dims(ModelInput(dims=[2, 3], reshape=ModelTensorReshape(shape=[6]))) == (6,)
    assert model_dims(parse_config("input { dims: 1 reshape { } }", "x").input[0]) == ()


def test_a_parameter_may_be_absent() -> None:
    config = parse_config('parameters { key: "a" value { string_value: "1" } }', "x")

    assert parameter(config, "a") == "1"
    assert parameter(config, "b") is None


def test_batching_settings_count_in_seconds() -> None:
    config = parse_config(
        """
        max_batch_size: 8
        dynamic_batching {
          preferred_batch_size: [ 8, 4, 4 ]
          max_queue_delay_microseconds: 1500
          preserve_ordering: true
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 250000 }
          priority_queue_policy {
            key: 1 value { allow_timeout_override: true max_queue_size: 9 }
          }
        }
        """,
        "x",
    )

    settings = batching_settings(config)

    assert settings == BatchingSettings(
        max_batch_size=8,
        preferred_batch_sizes=(4, 8),
        max_queue_delay_seconds=0.0015,
        preserve_ordering=True,
        priority_levels=3,
        default_priority_level=2,
        default_policy=QueuePolicySettings("DELAY", 0.25),
        level_policies={
            1: QueuePolicySettings("REJECT", 0.0, allow_timeout_override=True, max_queue_size=9)
        },
    )
    assert settings.policy_of(1).max_queue_size == 9
    assert settings.policy_of(2) is settings.default_policy


@pytest.mark.parametrize(
    ("max_batch_size", "expected"),
    [
        (0, BatchingSettings(max_batch_size=1)),
        (8, BatchingSettings(max_batch_size=8, preferred_batch_sizes=(8,))),
    ],
)
def test_an_empty_batcher_prefers_the_largest_batch(
    max_batch_size: int, expected: BatchingSettings
) -> None:
    config = ModelConfig(max_batch_size=max_batch_size, dynamic_batching=ModelDynamicBatching())

    assert batching_settings(config) == expected


def test_without_a_batcher_only_the_batch_size_counts() -> None:
    assert batching_settings(ModelConfig(max_batch_size=4)) == BatchingSettings(max_batch_size=4)
    assert sequence_settings(ModelConfig()) is None
    assert ensemble_settings(ModelConfig()) is None


def test_sequences_are_direct_by_default() -> None:
    assert sequence_settings(parse_config("sequence_batching { }", "x")) == SequenceSettings(1)
    assert sequence_settings(
        parse_config(
            """
            max_batch_size: 4
            sequence_batching {
              max_sequence_idle_microseconds: 5000000
              direct { max_queue_delay_microseconds: 500000 minimum_slot_utilization: 0.5 }
              iterative_sequence: true
            }
            """,
            "x",
        )
    ) == SequenceSettings(
        max_batch_size=4,
        slots_per_instance=4,
        max_sequence_idle_seconds=5.0,
        max_queue_delay_seconds=0.5,
        minimum_slot_utilization=0.5,
        iterative=True,
    )


def test_oldest_sequences_have_candidates_controls_and_states() -> None:
    settings = sequence_settings(
        parse_config(
            """
            max_batch_size: 4
            sequence_batching {
              oldest {
                max_candidate_sequences: 16
                max_queue_delay_microseconds: 100
                preferred_batch_size: 2
                preserve_ordering: true
              }
              control_input {
                name: "START"
                control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 2.5 ] }
              }
              control_input {
                name: "READY"
                control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] }
              }
              control_input {
                name: "END"
                control { kind: CONTROL_SEQUENCE_END int32_false_true: [ 3, 4 ] }
              }
              control_input {
                name: "ID"
                control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING }
              }
              state {
                input_name: "IN" output_name: "OUT" data_type: TYPE_FP32 dims: [ -1, 2 ]
                initial_state { name: "zero" data_type: TYPE_FP32 dims: [ 1, 2 ] zero_data: true }
                use_same_buffer_for_input_output: true
                use_growable_memory: true
              }
              state {
                input_name: "I2" output_name: "O2" data_type: TYPE_STRING dims: 1
                initial_state { name: "file" data_type: TYPE_STRING dims: 1 data_file: "f" }
              }
              state { input_name: "I3" output_name: "O3" data_type: TYPE_INT8 dims: 1 }
            }
            """,
            "x",
        )
    )

    assert settings == SequenceSettings(
        max_batch_size=4,
        strategy="oldest",
        slots_per_instance=16,
        max_queue_delay_seconds=0.0001,
        preferred_batch_sizes=(2,),
        preserve_ordering=True,
        controls=(
            ControlSettings("START", "START", "FP32", 0, 2.5),
            ControlSettings("READY", "READY", "BOOL", False, True),
            ControlSettings("END", "END", "INT32", 3, 4),
            ControlSettings("CORRID", "ID", "BYTES"),
        ),
        states=(
            StateSettings(
                "IN", "OUT", "FP32", (-1, 2), InitialStateSettings("zero", (1, 2)), True, True
            ),
            StateSettings("I2", "O2", "BYTES", (1,), InitialStateSettings("file", (1,), "f")),
            StateSettings("I3", "O3", "INT8", (1,)),
        ),
    )


def test_an_ensemble_is_its_steps() -> None:
    settings = ensemble_settings(
        parse_config(
            """
            ensemble_scheduling {
              max_inflight_requests: 3
              step {
                model_name: "a" model_version: -1 model_namespace: "ns"
                input_map { key: "i" value: "X" } output_map { key: "o" value: "Y" }
              }
            }
            """,
            "x",
        )
    )

    assert settings == EnsembleSettings(
        (StepSettings("a", -1, {"i": "X"}, {"o": "Y"}, "ns"),), max_inflight_requests=3
    )
