"""The JSON form: Triton's keys, order and number rules, and what a load request may send."""

from __future__ import annotations

import json

import pytest

from protocol.status import ServerError, StatusCode
from repo.config_json import equal_but_for_instances, from_json, to_dict, to_json
from repo.instance_groups import NO_GPU, normalise_instance_groups
from repo.normalise import normalise
from repo.pbtxt import MAX_CONFIG_BYTES, parse_config

# The configuration that Triton shows for a Python model on a CPU.
EXAMPLE = (
    '{"name":"m","platform":"","backend":"python","runtime":"","version_policy":{"latest":'
    '{"num_versions":1}},"max_batch_size":8,"input":[{"name":"IN","data_type":"TYPE_FP32",'
    '"format":"FORMAT_NONE","dims":[4],"is_shape_tensor":false,"allow_ragged_batch":false,'
    '"optional":false,"is_non_linear_format_io":false}],"output":[{"name":"OUT","data_type":'
    '"TYPE_FP32","dims":[4],"label_filename":"","is_shape_tensor":false,'
    '"is_non_linear_format_io":false}],"batch_input":[],"batch_output":[],"optimization":'
    '{"priority":"PRIORITY_DEFAULT","input_pinned_memory":{"enable":true},'
    '"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,'
    '"eager_batching":false},"instance_group":[{"name":"m","kind":"KIND_CPU","count":1,'
    '"gpus":[],"secondary_devices":[],"profile":[],"passive":false,"host_policy":""}],'
    '"default_model_filename":"model.py","cc_model_filenames":{},"metric_tags":{},'
    '"parameters":{},"model_warmup":[]}'
)

TEXT = """
name: "m" backend: "python" max_batch_size: 8 default_model_filename: "model.py"
input { name: "IN" data_type: TYPE_FP32 dims: 4 }
output { name: "OUT" data_type: TYPE_FP32 dims: 4 }
"""


def test_a_normalised_model_reads_as_in_triton() -> None:
    config = normalise_instance_groups(normalise(parse_config(TEXT, "x")), NO_GPU)

    assert to_json(config) == EXAMPLE


def test_the_json_form_is_read_back() -> None:
    assert to_json(from_json(EXAMPLE)) == EXAMPLE
    assert to_json(from_json(EXAMPLE.encode())) == EXAMPLE


def test_messages_are_present_only_where_set() -> None:
    fields = to_dict(
        parse_config("dynamic_batching { } input { reshape { } } response_cache { }", "x")
    )

    assert fields["dynamic_batching"] == {
        "preferred_batch_size": [],
        "max_queue_delay_microseconds": 0,
        "preserve_ordering": False,
        "priority_levels": 0,
        "default_priority_level": 0,
        "priority_queue_policy": {},
    }
    assert fields["response_cache"] == {"enable": False}
    assert '"reshape":{"shape":[]}' in to_json(from_json(json.dumps(fields)))
    assert "sequence_batching" not in fields
    assert "model_transaction_policy" not in fields


def test_only_two_fields_keep_their_64_bit_numbers_as_strings() -> None:
    text = to_json(
        parse_config(
            """
            version_policy { specific { versions: [ 1, 9007199254740993 ] } }
            input { dims: [ -1, 2 ] reshape { shape: 3 } }
            dynamic_batching {
              max_queue_delay_microseconds: 18446744073709551615
              priority_levels: 4
              priority_queue_policy { key: 2 value { default_timeout_microseconds: 5 } }
            }
            instance_group { secondary_devices { device_id: 6 } }
            optimization { cuda { graph_spec { input { key: "a" value { dim: [ 7, 8 ] } } } } }
            model_warmup { inputs { key: "i" value { dims: 9 zero_data: false } } }
            """,
            "x",
        )
    )

    for part in (
        '"versions":[1,9007199254740993]',
        '"dims":[-1,2],"reshape":{"shape":[3]}',
        '"max_queue_delay_microseconds":18446744073709551615',
        '"priority_levels":4',
        '"2":{"timeout_action":"REJECT","default_timeout_microseconds":5',
        '"secondary_devices":[{"kind":"KIND_NVDLA","device_id":"6"}]',
        '"input":{"a":{"dim":["7","8"]}}',
        '"dims":[9],"zero_data":false',
    ):
        assert part in text


def test_ensemble_versions_are_numbers() -> None:
    text = to_json(parse_config("ensemble_scheduling { step { model_version: -1 } }", "x"))

    assert '"model_version":-1' in text


def test_floats_are_as_short_as_their_precision_allows() -> None:
    text = to_json(
        parse_config(
            """
            sequence_batching { direct { minimum_slot_utilization: 0.1 } }
            model_metrics { metric_control {
              metric_identifier { family: "f" }
              histogram_options { buckets: [ 0.1, 1e300, inf, -inf, nan ] } } }
            """,
            "x",
        )
    )

    assert '"minimum_slot_utilization":0.1}' in text
    assert '"buckets":[0.1,1e+300,"Infinity","-Infinity","NaN"]' in text
    assert to_json(from_json(text)) == text


def test_an_override_may_be_written_loosely() -> None:
    config = from_json(
        """{"name": "m", "maxBatchSize": "8", "input": [{"name": "I", "dims": ["-1", 2],
        "data_type": "type_fp32"}], "output": [{"data_type": 11}],
        "instance_group": [{"kind": "kind-cpu"}],
        "model_warmup": [{"inputs": {"a": {"data_type": "Type_Int8"}}}]}"""
    )

    fields = json.loads(to_json(config))
    assert fields["max_batch_size"] == 8
    assert fields["input"][0]["dims"] == [-1, 2]
    assert fields["input"][0]["data_type"] == "TYPE_FP32"
    assert fields["output"][0]["data_type"] == "TYPE_FP32"
    assert fields["instance_group"][0]["kind"] == "KIND_CPU"
    assert fields["model_warmup"][0]["inputs"]["a"]["data_type"] == "TYPE_INT8"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes"),
        ("[]", "the text is no JSON object"),
        ('{"colour": 1}', 'has no field named "colour"'),
        ('{"input": [{"colour": 1}]}', 'has no field named "colour"'),
        ('{"input": [{"data_type": "TYPE_X"}]}', "Invalid enum value TYPE_X"),
        ('{"input": [{"data_type": 99}]}', "has no value with number 99"),
        ('{"input": {"a": 1}}', "input"),
        ('{"max_batch_size": 1.5}', "Couldn't parse integer: 1.5"),
        ('{"max_batch_size": "99999999999"}', "out of range"),
        ('{"dynamic_batching": {}, "sequence_batching": {}}', "oneof"),
        (b"\xff", "'utf-8' codec can't decode"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (MAX_CONFIG_BYTES + 1), f"exceeds the maximum of {MAX_CONFIG_BYTES} bytes"),
    ],
)
def test_a_bad_override_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ServerError) as failure:
        from_json(text)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message.startswith("Invalid config override: ")
    assert reason in failure.value.message


def test_instances_and_versions_alone_need_no_reload() -> None:
    base = parse_config(TEXT, "x")
    instances = parse_config(TEXT + "instance_group { count: 2 } version_policy { all { } }", "x")
    reshaped = parse_config(TEXT.replace("dims: 4 }\noutput", "dims: 4 reshape { } }\noutput"), "x")

    assert equal_but_for_instances(base, instances)
    assert not equal_but_for_instances(base, reshaped)
