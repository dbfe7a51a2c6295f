"""Every mistake that a REST client can make, with the status and the words that it gets.

The numbers are those of the catalogue that the whole project uses; what `test_http_cases` shows by
example is not repeated.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.http_rest import MAX_INPUT, Rest, pair, tensor, wait_for

pytest_plugins = ("tests.conformance.http_fixtures",)

P = "[request id: q] "
SIMPLE = "/v2/models/simple/infer"
HINT = "Use --http-max-input-size to increase the limit."
NOTE = (
    ". NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to "
    "be prepended to each input shape. If you want to specify the full shape including the batch "
    "dim in your input dims config, try setting max_batch_size to zero. See the model "
    "configuration docs for more info on max_batch_size."
)
OF = "input 'INPUT0' for model"
JSON = "failed to parse the request JSON buffer: "
LOAD = "cannot register shared memory region 'r' "


def one(datatype: str = "INT32", shape: Any = (1, 16), **more: Any) -> dict[str, Any]:
    """An infer body whose first input is as said; the second is as it should be."""
    size = max(1, abs(int(shape[-1]))) if shape else 1
    first = tensor("INPUT0", datatype, list(shape), [1] * size)
    return {"id": "q", "inputs": [first, pair()[1]], **more}


INFERENCES: list[tuple[str, str, Any, int, str]] = [
    ("E1", "/v2/models/nope/infer", one(), 404, "Request for unknown model: 'nope' is not found"),
    ("E1", "/v2/models/a%20b/infer", one(), 404, "Request for unknown model: 'a b' is not found"),
    ("E2", "/v2/models/simple/versions/9/infer", one(), 404,
     "Request for unknown model: 'simple' version 9 is not found"),
    ("E2", "/v2/models/simple/versions/9223372036854775807/infer", one(), 404,
     "Request for unknown model: 'simple' version 9223372036854775807 is not found"),
    ("E6", "/v2/models/speaker/infer", b"{", 501,
     "HTTP end point doesn't support models with decoupled transaction policy"),
    ("E7", SIMPLE, b"{", 500, f"{JSON}Missing a name for object member. at 1"),
    ("E7", SIMPLE, b" ", 500, f"{JSON}The document is empty. at 1"),
    ("E7", SIMPLE, b"{} x", 500,
     f"{JSON}The document root must not be followed by other values. at 3"),
    ("E7", SIMPLE, b'{"a" 1}', 500, f"{JSON}Missing a colon after a name of object member. at 5"),
    ("E7", SIMPLE, b'{"a":1 "b"}', 500,
     f"{JSON}Missing a comma or '}}' after an object member. at 7"),
    ("E7", SIMPLE, b'{"a":[1 2]}', 500,
     f"{JSON}Missing a comma or ']' after an array element. at 8"),
    ("E7", SIMPLE, b'{"a":"x', 500, f"{JSON}Missing a closing quotation mark in string. at 7"),
    ("E7", SIMPLE, b'{"a":"\\x"}', 500, f"{JSON}Invalid escape character in string. at 6"),
    ("E7", SIMPLE, b'{"a":nope}', 500, f"{JSON}Invalid value. at 6"),
    ("E8", SIMPLE, {}, 500,
     "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
    ("E8", SIMPLE, {"inputs": {}}, 500,
     "Unable to parse 'inputs': attempt to access JSON non-array as array"),
    ("E8", SIMPLE, {"inputs": [{}]}, 500,
     "Unable to parse 'name': attempt to access non-existing object member 'name'"),
    ("E8", SIMPLE, {"inputs": [{"name": "a"}]}, 500,
     "Unable to parse 'datatype': attempt to access non-existing object member 'datatype'"),
    ("E8", SIMPLE, {"inputs": [{"name": "a", "datatype": "INT32"}]}, 500,
     "Unable to parse 'shape': attempt to access non-existing object member 'shape'"),
    ("E8", SIMPLE, {"id": 7, "inputs": []}, 500,
     "Unable to parse 'id': attempt to access JSON non-string as string"),
    ("E10", SIMPLE, one(shape=[1, 1.0]), 500,
     "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ("E14", SIMPLE, b'{"inputs":[{"name":"a","datatype":"INT32","shape":[1],"data":'
     + b"[" * 100 + b"1" + b"]" * 100 + b"}]}", 400,
     "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)"),
    ("E20", SIMPLE, {"id": "q", "inputs": pair()[:1]}, 400,
     (f"{P}expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but "
     "missing required input(s) ['INPUT1']. Please provide all required input(s).")),
    ("E20", SIMPLE, {"id": "q", "inputs": []}, 400,
     (f"{P}expected 2 inputs but got 0 inputs for model 'simple'. Got input(s) [], but missing "
     "required input(s) ['INPUT0','INPUT1']. Please provide all required input(s).")),
    ("E21", SIMPLE, {"inputs": [pair()[0], tensor("X", "INT32", [1, 16], [1] * 16)]}, 400,
     "unexpected inference input 'X' for model 'simple'"),
    ("E22", SIMPLE, one(outputs=[{"name": "X"}]), 400,
     "unexpected inference output 'X' for model 'simple'"),
    ("E23", SIMPLE, {"id": "q", "inputs": [pair()[0]] * 2}, 400,
     f"{P}input 'INPUT0' already exists in request"),
    ("E24", SIMPLE, one(outputs=[{"name": "OUTPUT0"}] * 2), 400,
     f"{P}output 'OUTPUT0' already exists in request"),
    ("E25", SIMPLE, one("FP32"), 400,
     f"{P}inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"),
    ("E25", SIMPLE, one("NOPE"), 400, "invalid datatype for input INPUT0"),
    ("E26", SIMPLE, one(shape=[1, 8]), 400,
     f"{P}unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,8]{NOTE}"
    ),
    ("E28", SIMPLE, {"id": "q", "inputs": [tensor(name, "INT32", [9, 16], [1] * 144)
                                           for name in ("INPUT0", "INPUT1")]}, 400,
     f"{P}inference request batch-size must be <= 8 for 'simple'"),
    ("E29", SIMPLE, {"id": "q", "inputs": [
        tensor("INPUT0", "INT32", [2, 16], [1] * 32), pair()[1]]}, 400,
     f"{P}input 'INPUT1' batch size does not match other inputs for 'simple'"),
    ("E41", SIMPLE, {"inputs": [tensor("INPUT0", "INT32", [1, 16], shared_memory_region="nope",
                                       shared_memory_byte_size=64), pair()[1]]}, 404,
     "Unable to find shared memory region: 'nope'"),
    ("E41", SIMPLE, {"inputs": pair(), "outputs": [
        tensor("OUTPUT0", "", [], shared_memory_region="nope", shared_memory_byte_size=64)]}, 404,
     "Unable to find shared memory region: 'nope'"),
    ("E18", SIMPLE, {"inputs": pair(), "outputs": [
        tensor("OUTPUT0", "", [], shared_memory_region="r", shared_memory_byte_size=64,
               binary_data=True)]}, 400,
     "Output can't set both 'shared_memory_region' and 'binary_data'"),
    ("E49", SIMPLE, one(parameters={"priority": "x"}), 500,
     "Unable to parse 'priority': attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ("E49", SIMPLE, one(parameters={"sequence_start": 1}), 500,
     "Unable to parse 'sequence_start': attempt to access JSON non-boolean as boolean"),
    ("E50", "/v2/models/ident_FP64/infer",
     {"inputs": [tensor("INPUT0", "FP64", [1, 262144], [0])]}, 400,
     (f"JSON input 'INPUT0' has a byte_size (2097152 bytes) that exceeds the maximum allowed value "
     f"of {MAX_INPUT} bytes. {HINT}")),
    ("E60", "/v2/models/simple/versions/x/infer", one(), 404, "Not Found"),
    ("E60 large", f"/v2/models/simple/versions/{5000 * '9'}/infer", one(), 400,
     (f"failed to get model version from specified version string '{5000 * '9'}' (details: stol), "
      "version should be an integral value > 0")),
]  # fmt: skip


def numbers(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    return [f"{case[0]}-{place}" for place, case in enumerate(cases)]


@pytest.mark.parametrize("case", INFERENCES, ids=numbers(INFERENCES))
def test_a_mistake_in_an_inference(case: tuple[str, str, Any, int, str], rest: Rest) -> None:
    number, path, body, status, text = case
    response = rest.post(path, body)
    assert (response.status, response.error) == (status, text), number
    assert response.headers["content-type"] == "application/json"


def strings(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


BINARY: list[tuple[str, str, int, bytes, str]] = [
    ("E11", "INT32", 64, bytes(60),
     "unexpected size for input 'INPUT0', expecting 4 additional bytes for model 'ident_INT32'"),
    ("E12", "INT32", 64, bytes(65),
     "unexpected additional input data for model 'ident_INT32'"),
    ("E30", "INT32", 60, bytes(60),
     f"{P}input byte size mismatch for {OF} 'ident_INT32'. Expected 64, got 60"),
    ("E31", "BYTES", 60, strings(*[b""] * 15),
     f"{P}expected 16 string elements for inference {OF} 'ident_BYTES', got 15"),
    ("E31", "BYTES", 68, strings(*[b""] * 17),
     f"{P}unexpected number of string elements 17 for inference {OF} 'ident_BYTES', expecting 16"),
    ("E32", "BYTES", 63, strings(*[b""] * 15) + bytes(3),
     (f"{P}incomplete string length indicator for inference {OF} 'ident_BYTES', expecting 4 bytes "
      "but only 3 bytes available. Please make sure the string length indicator is in one "
      "buffer.")),
]  # fmt: skip


@pytest.mark.parametrize("case", BINARY, ids=numbers(BINARY))
def test_a_mistake_in_binary_data(case: tuple[str, str, int, bytes, str], rest: Rest) -> None:
    number, datatype, claimed, raw, text = case
    given = tensor("INPUT0", datatype, [1, 16], binary_data_size=claimed)
    response = rest.infer(f"ident_{datatype}", {"id": "q", "inputs": [given]}, raw)
    assert (response.status, response.error) == (400, text), number


REGIONS: list[tuple[str, str, int, int, int, str]] = [
    ("E37", "/nope", 64, 0, 500, "Unable to open shared memory region: '/nope'"),
    ("E37", "/../etc/passwd", 64, 0, 500, "Unable to open shared memory region: '/../etc/passwd'"),
    ("E38", "", 64, 0, 400, f"{LOAD}- invalid shm key ''"),
    ("E38", "///", 64, 0, 400, f"{LOAD}- invalid shm key '///'"),
    ("E39", "///triton_python_backend_shm_region_x", 64, 0, 400,
     (f"{LOAD}with key '///triton_python_backend_shm_region_x' as the key contains the reserved "
     "prefix 'triton_python_backend_shm_region_'")),
    ("E40", "{memory}", 8193, 0, 400,
     "failed to register shared memory region 'r': invalid args"),
    ("E40", "{memory}", 4097, 4096, 400,
     "failed to register shared memory region 'r': invalid args"),
    ("E40", "{memory}", 2**64 - 1, 4096, 400,
     "failed to register shared memory region 'r': invalid args"),
    ("E40", "{memory}", 64, 1, 400,
     "failed to register shared memory region 'r': unable to process address spaceInvalid argument"
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", REGIONS, ids=numbers(REGIONS))
def test_a_mistake_in_registering(
    case: tuple[str, str, int, int, int, str], rest: Rest, memory: SharedMemory
) -> None:
    number, key, size, offset, status, text = case
    body = {"key": key.replace("{memory}", memory.name), "byte_size": size, "offset": offset}
    response = rest.post("/v2/systemsharedmemory/region/r/register", body)
    assert (response.status, response.error) == (status, text), number
    assert rest.get("/v2/systemsharedmemory/status").json() == []


def test_e3_and_e4_a_model_that_was_unloaded(rest: Rest) -> None:
    assert rest.post("/v2/repository/models/ident_INT64/unload").status == 200
    body = {"inputs": [tensor("INPUT0", "INT64", [1, 1], [1])]}
    response = rest.infer("ident_INT64", body)
    assert (response.status, response.error) == (
        404, "Request for unknown model: 'ident_INT64' has no available versions",
    )  # fmt: skip
    response = rest.post("/v2/models/ident_INT64/versions/1/infer", body)
    assert (response.status, response.error) == (
        503, "Request for unknown model: 'ident_INT64' version 1 is not at ready state",
    )  # fmt: skip
    assert rest.post("/v2/repository/models/ident_INT64/load").status == 200
    assert rest.infer("ident_INT64", body).status == 200


def test_e56_what_no_route_serves(rest: Rest) -> None:
    response = rest.get("/nope")
    assert (response.status, response.error) == (404, "Not Found")
    response = rest.get(SIMPLE)
    assert (response.status, response.error) == (405, "Method Not Allowed")
    assert response.headers["allow"] == "POST"


def test_e57_and_e58_a_queue_that_is_full(http_server: Any, http_notes: Path) -> None:
    answers: dict[str, tuple[int, str]] = {}

    def ask(name: str, seconds: float, timeout_us: int = 0) -> None:
        rest = Rest(http_server.http)
        parameters = {"timeout": timeout_us} if timeout_us else {}
        body = {"id": name, "inputs": [tensor("IN", "FP32", [1, 1], [seconds])],
                "parameters": parameters}  # fmt: skip
        response = rest.infer("busy", body)
        answers[name] = response.status, "" if response.status == 200 else response.error
        rest.close()

    executing = threading.Thread(target=ask, args=("executing", 0.5))
    executing.start()
    wait_for((http_notes / "began executing").exists)
    queued = threading.Thread(target=ask, args=("queued", 0.0, 250_000))
    queued.start()
    metrics = Rest(http_server.metrics)
    gauge = 'nv_inference_pending_request_count{model="busy",version="1"} 1'
    wait_for(lambda: gauge in metrics.get("/metrics").body.decode())
    ask("refused", 0.0)
    queued.join()
    executing.join()
    metrics.close()
    assert answers == {
        "executing": (200, ""),
        "queued": (503, "Request timeout expired"),
        "refused": (503, "[request id: refused] Exceeds maximum queue size"),
    }


def test_e59_loading(rest: Rest, sample_server: Any) -> None:
    response = rest.post("/v2/repository/models/nope/load")
    assert response.status == 500
    assert response.error.startswith("failed to load 'nope', failed to poll from model repository")
    assert rest.post("/v2/repository/models/nope/unload").status == 200
    default = Rest(sample_server.http)
    for verb in ("load", "unload"):
        response = default.post(f"/v2/repository/models/simple/{verb}")
        assert (response.status, response.error) == (
            503, "explicit model load / unload is not allowed if polling is enabled",
        )  # fmt: skip
    default.close()


def test_a_body_that_is_not_there_is_not_waited_for(rest: Rest) -> None:
    response = rest.ask("GET", "/v2", b"x" * 1000)
    assert (response.status, json.loads(response.body)["name"]) == (200, "x")
    assert rest.post("/v2/repository/index").status == 200


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_e15_an_output_that_json_cannot_spell(datatype: str, rest: Rest) -> None:
    given = tensor("INPUT0", datatype, [1, 2], binary_data_size=4)
    response = rest.infer(f"ident_{datatype}", {"inputs": [given]}, bytes(4))
    text = f"sending {datatype} data via JSON is not supported. "
    text += "Please use the binary data format for output"
    assert (response.status, response.error) == (400, text)


def test_a_compressed_body_that_is_empty(rest: Rest) -> None:
    response = rest.post(SIMPLE, b"", {"Content-Encoding": "gzip"})
    assert (response.status, response.error) == (400, "nothing to be decompressed")


def test_generate_takes_no_more_than_its_limit(rest: Rest) -> None:
    count = MAX_INPUT // 8 + 1
    response = rest.post("/v2/models/ident_FP64/generate", {"INPUT0": [0] * count})
    size = f"of size {8 * count} bytes"
    text = f"request size of {8 * count} bytes with input 'INPUT0' {size} exceeds the maximum "
    assert (response.status, response.error) == (
        400, f"{text}allowed input size of {MAX_INPUT}. {HINT}",
    )  # fmt: skip
