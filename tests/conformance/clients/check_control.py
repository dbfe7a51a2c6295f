"""Everything but inference: health, metadata, configuration, index, load, statistics, settings."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
from checks import check, expect, refused
from flavours import Flavour

DOUBLING = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            output = pb_utils.Tensor("OUTPUT0", value * 2)
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
"""
EXTENSIONS = {
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
}
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
UNKNOWN = "Request for unknown model: 'nobody' is not found"


def ask_loadable(flavour: Flavour, value: float) -> float:
    tensor = flavour.tensor("INPUT0", np.array([value], np.float32), "FP32")
    return float(flavour.call("infer", "loadable", [tensor]).as_numpy("OUTPUT0").item())


@check("health")
def server_is_live_and_ready(flavour: Flavour) -> None:
    expect(flavour.call("is_server_live"), True, "live")
    expect(flavour.call("is_server_ready"), True, "ready")


@check("health")
def models_are_ready_or_not(flavour: Flavour) -> None:
    expect(flavour.call("is_model_ready", "simple"), True, "simple")
    expect(flavour.call("is_model_ready", "simple", "1"), True, "simple 1")
    expect(flavour.call("is_model_ready", "simple", "7"), False, "simple 7")
    expect(flavour.call("is_model_ready", "nobody"), False, "nobody")


@check("metadata")
def server_metadata(flavour: Flavour) -> None:
    found = flavour.answer("get_server_metadata")
    assert found["name"]
    assert found["version"]
    missing = EXTENSIONS - set(found["extensions"])
    assert not missing, f"missing extensions: {sorted(missing)}"


@check("metadata")
def model_metadata(flavour: Flavour) -> None:
    found = flavour.answer("get_model_metadata", "simple")
    expect(found["name"], "simple", "name")
    expect(found["versions"], ["1"], "versions")
    expect(found["platform"], "python", "platform")
    # JSON made from a message writes 64-bit numbers as strings.
    for kind in ("inputs", "outputs"):
        names = [tensor["name"] for tensor in found[kind]]
        expect(names, ["INPUT0", "INPUT1"] if kind == "inputs" else ["OUTPUT0", "OUTPUT1"], kind)
        for tensor in found[kind]:
            expect(tensor["datatype"], "INT32", "datatype")
            expect([int(size) for size in tensor["shape"]], [-1, 16], "shape")
    expect(flavour.answer("get_model_metadata", "simple", "1")["versions"], ["1"], "versions")


@check("errors")
def metadata_of_an_unknown_model(flavour: Flavour) -> None:
    refused(
        flavour,
        UNKNOWN,
        http=404,
        grpc="NOT_FOUND",
        call=lambda: flavour.answer("get_model_metadata", "nobody"),
    )
    refused(
        flavour,
        "Request for unknown model: 'simple' version 7 is not found",
        http=404,
        grpc="NOT_FOUND",
        call=lambda: flavour.answer("get_model_metadata", "simple", "7"),
    )


@check("config")
def model_configuration(flavour: Flavour) -> None:
    found = flavour.answer("get_model_config", "simple")
    found = found if flavour.http else found["config"]
    expect(found["name"], "simple", "name")
    expect(found["backend"], "python", "backend")
    expect(int(found["max_batch_size"]), 8, "max_batch_size")
    expect(found["input"][1]["name"], "INPUT1", "input")
    expect(found["input"][1]["data_type"], "TYPE_INT32", "data_type")
    expect([int(size) for size in found["output"][0]["dims"]], [16], "dims")
    expect(int(found["instance_group"][0]["count"]), 1, "instance count")


@check("errors")
def configuration_of_an_unknown_model(flavour: Flavour) -> None:
    refused(
        flavour,
        UNKNOWN,
        http=404,
        grpc="NOT_FOUND",
        call=lambda: flavour.answer("get_model_config", "nobody"),
    )


@check("index")
def repository_index(flavour: Flavour) -> None:
    found = flavour.answer("get_model_repository_index")
    entries = {entry["name"]: entry for entry in (found if flavour.http else found["models"])}
    expect(entries["simple"]["version"], "1", "version")
    expect(entries["simple"]["state"], "READY", "state")
    assert "identity_bf16" in entries


@check("load")
def unload_and_load_again(flavour: Flavour) -> None:
    flavour.call("unload_model", "loadable")
    expect(flavour.call("is_model_ready", "loadable"), False, "ready after unload")
    refused(
        flavour,
        "Request for unknown model: 'loadable' has no available versions",
        http=404,
        grpc="NOT_FOUND",
        call=lambda: ask_loadable(flavour, 1.0),
    )
    flavour.call("load_model", "loadable")
    expect(flavour.call("is_model_ready", "loadable"), True, "ready after load")
    expect(ask_loadable(flavour, 3.0), 3.0, "answer")


@check("load")
def load_with_another_configuration(flavour: Flavour) -> None:
    config = {
        "backend": "python",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [1]}},
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [1]}],
        "parameters": {"marker": {"string_value": "overridden"}},
    }

    def marker() -> Any:
        found = flavour.answer("get_model_config", "loadable")
        found = found if flavour.http else found["config"]
        return found.get("parameters", {}).get("marker", {}).get("string_value")

    flavour.call("load_model", "loadable", config=json.dumps(config))
    expect(marker(), "overridden", "the parameter")
    flavour.call("load_model", "loadable")
    expect(marker(), "overridden", "the parameter after a plain load")
    flavour.call("unload_model", "loadable")
    flavour.call("load_model", "loadable")
    expect(marker(), None, "the parameter after unload and load")


@check("load")
def load_with_files_of_the_client(flavour: Flavour) -> None:
    if flavour.name == "http.aio" and not hasattr(flavour.module, "base64"):
        # The asyncio client of 2.41 forgets to import what it encodes the files with.
        return
    config = {
        "backend": "python",
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [1]}],
        # Triton keeps the loaded model if the configuration is the same, whatever the files.
        "parameters": {"marker": {"string_value": "doubling"}},
    }
    files = {"file:1/model.py": DOUBLING.encode()}
    flavour.call("load_model", "loadable", config=json.dumps(config), files=files)
    try:
        expect(ask_loadable(flavour, 3.0), 6.0, "answer of the client's model")
    finally:
        flavour.call("load_model", "loadable")
    expect(ask_loadable(flavour, 3.0), 3.0, "answer of the repository's model")


@check("load")
def unload_with_dependents(flavour: Flavour) -> None:
    flavour.call("unload_model", "loadable", unload_dependents=True)
    expect(flavour.call("is_model_ready", "loadable"), False, "ready after unload")
    flavour.call("load_model", "loadable")
    flavour.call("unload_model", "nobody")


@check("load")
def loading_an_unknown_model(flavour: Flavour) -> None:
    refused(
        flavour,
        "failed to load 'nobody', failed to poll from model repository",
        http=500,
        grpc="INTERNAL",
        call=lambda: flavour.call("load_model", "nobody"),
    )


@check("statistics")
def statistics_count_requests(flavour: Flavour) -> None:
    def count() -> tuple[int, int]:
        found = flavour.answer("get_inference_statistics", "simple")["model_stats"][0]
        expect(found["name"], "simple", "name")
        expect(found["version"], "1", "version")
        for word in DURATIONS:
            assert word in found["inference_stats"], f"no {word}"
        success = found["inference_stats"]["success"]
        return int(success.get("count", 0)), int(found.get("inference_count", 0))

    before = count()
    left = np.zeros((3, 16), np.int32)
    tensors = [flavour.tensor(name, left, "INT32") for name in ("INPUT0", "INPUT1")]
    flavour.call("infer", "simple", tensors)
    give_up_at = time.monotonic() + 5
    after = count()
    while flavour.accept_older and after == before and time.monotonic() < give_up_at:
        # Triton answers first and counts afterwards.
        after = count()
    expect(after[0] - before[0], 1, "counted requests")
    expect(after[1] - before[1], 3, "counted inferences")
    every = flavour.answer("get_inference_statistics")["model_stats"]
    assert {"simple", "identity_bool"} <= {entry["name"] for entry in every}


@check("trace")
def trace_settings(flavour: Flavour) -> None:
    found = flavour.answer("get_trace_settings")
    found = found if flavour.http else found["settings"]
    for name in ("trace_level", "trace_rate", "trace_count", "log_frequency"):
        assert name in found, f"no {name}"
    flavour.answer(
        "update_trace_settings",
        model_name="simple",
        settings={"trace_rate": "7", "trace_level": ["OFF"]},
    )
    found = flavour.answer("get_trace_settings", model_name="simple")
    rate = found["trace_rate"] if flavour.http else found["settings"]["trace_rate"]["value"][0]
    expect(rate, "7", "trace_rate of simple")
    flavour.answer("update_trace_settings", model_name="simple", settings={"trace_rate": None})
    found = flavour.answer("get_trace_settings", model_name="simple")
    rate = found["trace_rate"] if flavour.http else found["settings"]["trace_rate"]["value"][0]
    expect(rate, "1000", "trace_rate of simple after clearing it")


@check("log")
def log_settings(flavour: Flavour) -> None:
    def level() -> int:
        found = flavour.answer("get_log_settings")
        if flavour.http:
            return int(found["log_verbose_level"])
        return int(found["settings"]["log_verbose_level"].get("uint32_param", 0))

    before = level()
    flavour.answer("update_log_settings", {"log_verbose_level": 0, "log_format": "ISO8601"})
    expect(level(), 0, "verbose level")
    flavour.answer("update_log_settings", {"log_verbose_level": before, "log_format": "default"})


@check("cuda_shared_memory")
def cuda_regions_without_a_device(flavour: Flavour) -> None:
    found = flavour.answer("get_cuda_shared_memory_status")
    expect(
        found if flavour.http else found.get("regions", {}), [] if flavour.http else {}, "regions"
    )
    handle = base64.b64encode(bytes(64))
    refused(
        flavour,
        "failed to register CUDA shared memory region: 'region', GPUs not supported",
        "failed to register shared memory region: invalid args",
        http=400,
        grpc="INVALID_ARGUMENT",
        call=lambda: flavour.call("register_cuda_shared_memory", "region", handle, 0, 64),
    )
    flavour.call("unregister_cuda_shared_memory", "region")
    flavour.call("unregister_cuda_shared_memory")
