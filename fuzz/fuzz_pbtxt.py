"""Fuzz model configurations: `python fuzz/fuzz_pbtxt.py --seconds 60`.

Invariants: whatever stands in a configuration file of any form or in a load request, reading it
returns or raises ServerError, nothing else; what is read survives text, bytes, JSON and YAML; and
judging it, up to compiled request rules, raises nothing but ServerError either.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from google.protobuf import text_format
from google.protobuf.message import Message

from fuzz.mutations import Fuzzer, main
from protocol.status import ServerError
from repo.config_files import SUFFIXES, parse_text, write_config
from repo.config_json import from_json, to_json
from repo.config_rules import check_complete_config
from repo.instance_groups import (
    NO_GPU,
    DeviceTable,
    GpuDevice,
    check_instance_groups,
    expand,
    normalise_instance_groups,
)
from repo.model_config import ModelConfig, batching_settings, ensemble_settings, sequence_settings
from repo.normalise import normalise
from repo.output_shapes import OutputShapes
from repo.pbtxt import parse_config, to_proto
from repo.platforms import autofill
from repo.request_rules import RequestRules

DEVICES = (NO_GPU, DeviceTable((GpuDevice(0, (9, 0)),)))

# A count of instances is the operator's to choose; expanding a billion of them proves nothing.
MAX_INSTANCES = 1000

TOKENS = (
    b"{", b"}", b"[", b"]", b":", b",", b";", b'"', b"'", b"#", b"\n", b"<", b">", b"\\377", b"\\",
    b"\\q", b"\\?", b"\\X4", b"\\u12", b"\\777",
    b"-1", b"0", b"1e300", b"nan", b"inf", b"99999999999999999999", b"true", b"null", b"\xff",
    b'name: "m" ', b'backend: "onnxruntime" ', b'platform: "ensemble" ', b"max_batch_size: 8 ",
    b"dims: [ -1, 2 ] ", b"reshape { shape: [ ] } ", b"data_type: TYPE_FP32 ", b"data_type: 77 ",
    b"dynamic_batching { } ", b"sequence_batching { oldest { } } ", b"preserve_ordering: true ",
    b"control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ", b"priority_levels: 2 ",
    b"int32_false_true: [ 0, 1 ] ", b"ensemble_scheduling { step { } } ", b"instance_group { } ",
    b"version_policy { all { } } ", b'parameters { key: "a" value { string_value: "b" } } ',
    b"count: 2 ", b"kind: KIND_GPU ", b"gpus: [ 0 ] ", b"optional: true ", b"label_filename: ",
    b'{"name": "m", "input": [{"dims": ["1"]}]}', b"\n- ", b": ", b"&a ", b"*a", b"|\n", b"~",
    b"!!", b"  ",
    b"input:\n- name: A\n  dims: [1, -1]\n", b"response_cache: {enable: true}\n",
    b'"maxBatchSize": 4', b"type_fp32",
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """Read one input in every form; raises if an invariant does not hold."""
    for read in (_from_text, from_json, _from_json_file, _from_yaml_file):
        try:
            config = read(data)
        except ServerError:
            continue
        _check_forms(config)
        _judge(config)


def _from_text(data: bytes) -> ModelConfig:
    return parse_config(data, "config.pbtxt")


def _from_json_file(data: bytes) -> ModelConfig:
    return parse_text(data, "json", "config.json")


def _from_yaml_file(data: bytes) -> ModelConfig:
    return parse_text(data, "yaml", "config.yaml")


def _check_forms(config: ModelConfig) -> None:
    proto = to_proto(config)
    # Not a number differs from itself, so that bytes are compared.
    again = to_proto(parse_config(text_format.MessageToString(proto), "again"))
    assert _bytes(again) == _bytes(proto), "text and dataclasses disagree"
    for syntax in SUFFIXES.values():
        written = write_config(config, syntax).encode()
        assert _bytes(to_proto(parse_text(written, syntax, "again"))) == _bytes(proto), syntax
    text = to_json(config)
    assert to_json(from_json(text)) == text, "JSON does not come back as it was"


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _judge(config: ModelConfig) -> None:
    try:
        config = normalise(autofill(config, config.name or "m", {"model.onnx": False}))
        assert bytes(normalise(config)) == bytes(config), "normalising twice changes more"
        check_complete_config(config)
    except ServerError:
        return
    batching_settings(config)
    sequence_settings(config)
    ensemble_settings(config)
    RequestRules.compile(config)
    OutputShapes.compile(config)
    for devices in DEVICES:
        grouped = normalise_instance_groups(config, devices)
        try:
            check_instance_groups(grouped, devices)
        except ServerError:
            continue
        if sum(group.count * max(len(group.gpus), 1) for group in grouped.instance_group) <= (
            MAX_INSTANCES
        ):
            expand(grouped)


FUZZER = Fuzzer("pbtxt", fuzz_one, TOKENS)

if __name__ == "__main__":
    warnings.simplefilter("error")  # a server would print it for whatever a client sends
    main(FUZZER, __doc__)
