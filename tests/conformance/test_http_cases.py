"""The REST port by example: the numbered cases of what Triton does, over real sockets."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import threading
import zlib
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance import grpc_models
from tests.conformance.http_rest import IDENTITY, MAX_INPUT, Rest, converse, pair, tensor, wait_for

pytest_plugins = ("tests.conformance.http_fixtures",)

SIMPLE = "/v2/models/simple"
USE_BINARY = "Please use the binary data format for input INPUT0"
OUT_OF_RANGE = "value is out of range [ -2147483648, 2147483647 ]"
UNKNOWN = "[request id: <id_unknown>] "


def strings(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


# --- 1-4: the server, its health, its routes -----------------------------------------------------


def test_case_01_the_server_has_a_name(rest: Rest) -> None:
    metadata = rest.get("/v2").json()
    assert metadata["name"] == "x"
    assert {"statistics", "binary_tensor_data"} <= set(metadata["extensions"])


def test_case_02_ready_has_no_body(rest: Rest) -> None:
    response = rest.get("/v2/health/ready")
    assert (response.status, response.body) == (200, b"")
    assert "content-type" not in response.headers


@pytest.mark.parametrize(("strict", "ready"), [("true", 400), ("false", 200)])
def test_case_03_a_model_that_failed(
    strict: str, ready: int, tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "config.pbtxt").write_text('backend: "nope"')
    flags = ("--exit-on-error=false", f"--strict-readiness={strict}", "--allow-cpu-metrics=false")
    with run_server(tmp_path, *flags) as running:
        rest = Rest(running.http)
        assert rest.get("/v2/health/live").status == 200
        response = rest.get("/v2/health/ready")
        assert (response.status, response.body) == (ready, b"")
        rest.close()


def test_case_04_wrong_methods_and_routes(rest: Rest) -> None:
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS", "POST"):
        response = rest.ask(method, SIMPLE)
        assert (response.status, response.error) == (405, "Method Not Allowed")
        assert response.headers["content-type"] == "application/json"
        assert response.headers["allow"] == "GET"
    for path in (
        "/v2/nope",
        f"{SIMPLE}/versions/v1",
        f"{SIMPLE}/versions/-1/infer",
        f"{SIMPLE}/",
        "/v2//models/simple",
        "/V2",
        "/",
        "/v2/models/stats/nope",
    ):
        response = rest.get(path)
        assert (response.status, response.error) == (404, "Not Found"), path
    assert rest.ask("HEAD", "/v2/health/live").status == 405
    assert rest.get("/v2?query=ignored").status == 200


# --- 5-15: bodies --------------------------------------------------------------------------------


def test_case_05_all_outputs_in_json(rest: Rest) -> None:
    response = rest.infer("simple", {"inputs": pair()})
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in response.headers
    assert list(response.json()) == ["model_name", "model_version", "outputs"]
    first = response.json()["outputs"][0]
    assert first == {"name": "OUTPUT0", "datatype": "INT32", "shape": [1, 16], "data": [2] * 16}


def test_case_06_all_outputs_in_binary(rest: Rest) -> None:
    body = {"inputs": pair(), "parameters": {"binary_data_output": True}}
    response = rest.infer("simple", body)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    assert len(response.body) == length + 128
    outputs = json.loads(response.body[:length])["outputs"]
    assert [each["parameters"] for each in outputs] == [{"binary_data_size": 64}] * 2
    assert np.frombuffer(response.body[length:], np.int32).tolist() == [2] * 16 + [0] * 16


def test_case_07_listed_outputs_say_for_themselves(rest: Rest) -> None:
    outputs = [tensor("OUTPUT0", "", [], binary_data=True), tensor("OUTPUT1", "", [])]
    parameters = {"binary_data_output": True}
    response = rest.infer(
        "simple", {"inputs": pair(), "outputs": outputs, "parameters": parameters}
    )
    length = int(response.headers["inference-header-content-length"])
    first, second = json.loads(response.body[:length])["outputs"]
    assert first["parameters"] == {"binary_data_size": 64}
    assert second["data"] == [0] * 16
    assert len(response.body) == length + 64


def test_case_08_binary_inputs_come_in_the_order_of_the_json(rest: Rest) -> None:
    inputs = [tensor(name, "INT32", [1, 16], binary_data_size=64) for name in ("INPUT1", "INPUT0")]
    ones, fives = np.full(16, 1, np.int32), np.full(16, 5, np.int32)
    response = rest.infer("simple", {"inputs": inputs}, ones.tobytes() + fives.tobytes())
    assert [each["data"][0] for each in response.json()["outputs"]] == [6, 4]


@pytest.mark.parametrize(("value", "text"), [
    ("{total}", ""),
    ("{more}", "inference header size should be in range (0, {total}), got: {more}"),
    ("-5", "inference header size should be in range (0, {total}), got: -5"),
    ("abc", "Unable to parse Inference-Header-Content-Length, got: abc"),
    ("10abc", "Unable to parse Inference-Header-Content-Length, got: 10abc"),
    ("0x10", "Unable to parse Inference-Header-Content-Length, got: 0x10"),
    ("1e3", "Unable to parse Inference-Header-Content-Length, got: 1e3"),
    ("99999999999",
     f"Unable to parse Inference-Header-Content-Length, {OUT_OF_RANGE}, got: 99999999999"),
])  # fmt: skip
def test_case_09_the_length_of_the_json(value: str, text: str, rest: Rest) -> None:
    body = json.dumps({"inputs": pair()}).encode()
    numbers = {"total": len(body), "more": len(body) + 1}
    headers = {"Inference-Header-Content-Length": value.format(**numbers)}
    response = rest.post(f"{SIMPLE}/infer", body, headers)
    if text:
        assert (response.status, response.error) == (400, text.format(**numbers))
    else:
        assert response.status == 200
    assert rest.get("/v2/health/live").status == 200


def test_case_10_the_whole_body_is_the_tensor(rest: Rest) -> None:
    raw = np.arange(8, dtype=np.float32).tobytes()
    headers = {"Inference-Header-Content-Length": "0"}
    response = rest.post("/v2/models/ident_FP32/infer", raw, headers)
    assert response.status == 200
    length = int(response.headers["inference-header-content-length"])
    assert json.loads(response.body[:length])["outputs"][0]["shape"] == [1, 8]
    assert response.body[length:] == raw

    response = rest.post("/v2/models/two_wild/infer", raw, headers)
    assert (response.status, response.error) == (400, (
        f"{UNKNOWN}The shape of the raw input 'INPUT0' can not be deduced because there are more "
        "than one variable-sized dimension"
    ))  # fmt: skip
    response = rest.post("/v2/models/one_string/infer", b"a string", headers)
    length = int(response.headers["inference-header-content-length"])
    assert response.body[length:] == strings(b"a string")
    response = rest.post("/v2/models/ident_BYTES/infer", b"a string", headers)
    assert (response.status, response.error) == (400, (
        f"{UNKNOWN}For BYTE datatype raw input 'INPUT0', the model must have input shape [1]"
    ))  # fmt: skip


def test_case_11_an_empty_body_is_a_raw_one(rest: Rest) -> None:
    response = rest.post(f"{SIMPLE}/infer")
    assert (response.status, response.error) == (400, (
        f"{UNKNOWN}Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in "
        "'simple' model configuration"
    ))  # fmt: skip


def test_case_12_strings_of_any_kind(rest: Rest) -> None:
    words = ["", "a\0b", "é"]
    given = tensor("INPUT0", "BYTES", [1, 3], words)
    response = rest.infer("ident_BYTES", {"inputs": [given]})
    assert response.json()["outputs"][0]["data"] == words

    raw = strings(*(word.encode() for word in words))
    given = tensor("INPUT0", "BYTES", [1, 3], binary_data_size=len(raw))
    body = {"inputs": [given], "parameters": {"binary_data_output": True}}
    response = rest.infer("ident_BYTES", body, raw)
    assert response.body.endswith(raw)


def test_case_13_bytes_that_are_no_text(rest: Rest) -> None:
    raw = strings(b"\xff\xfe")
    given = tensor("INPUT0", "BYTES", [1, 1], binary_data_size=len(raw))
    response = rest.infer("ident_BYTES", {"inputs": [given]}, raw)
    assert response.status == 200
    assert b'"data":["\xff\xfe"]' in response.body
    parameters = {"binary_data_output": True}
    response = rest.infer("ident_BYTES", {"inputs": [given], "parameters": parameters}, raw)
    assert response.body.endswith(raw)


@pytest.mark.parametrize(("datatype", "data", "status", "text"), [
    ("INT32", [1.5], 500,
     "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"),
    ("UINT8", [-1], 500,
     "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ("FP32", ["1"], 500, "Unable to parse 'data': attempt to access JSON non-number as double"),
    ("BOOL", [0], 500, "Unable to parse 'data': attempt to access JSON non-boolean as boolean"),
    ("BYTES", [1], 500,
     "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
    ("FP16", [1.0], 400, f"receiving FP16 data via JSON is not supported. {USE_BINARY}"),
    ("BF16", [1.0], 400, f"receiving BF16 data via JSON is not supported. {USE_BINARY}"),
])  # fmt: skip
def test_case_14_elements_of_the_wrong_kind(
    datatype: str, data: list[Any], status: int, text: str, rest: Rest
) -> None:
    given = tensor("INPUT0", datatype, [1, 1], data)
    response = rest.infer(f"ident_{datatype}", {"inputs": [given]})
    assert (response.status, response.error) == (status, text)


def test_case_15_elements_are_counted(rest: Rest) -> None:
    second = pair()[1]
    few = tensor("INPUT0", "INT32", [1, 16], [1] * 15)
    response = rest.infer("simple", {"inputs": [few, second]})
    assert (response.status, response.error) == (
        500, "Failed to parse 'data' field: shape does not match true shape",
    )  # fmt: skip
    many = tensor("INPUT0", "INT32", [1, 16], [1] * 17)
    response = rest.infer("simple", {"inputs": [many, second]})
    assert (response.status, response.error) == (
        500, "Unable to parse 'data': Shape does not match true shape of 'data' field",
    )  # fmt: skip
    nested = tensor("INPUT0", "INT32", [1, 16], [[1] * 8, [[1] * 4, [1] * 4]])
    assert rest.infer("simple", {"inputs": [nested, second]}).status == 200


def test_case_16_shapes_that_overflow(rest: Rest) -> None:
    def ask(shape: list[int]) -> tuple[int, str]:
        given = tensor("INPUT0", "INT32", shape, binary_data_size=4)
        response = rest.infer("simple", {"inputs": [given]}, bytes(4))
        return response.status, response.error

    assert ask([16, 2**60 + 2]) == (400, (
        "invalid shape for input 'INPUT0': shape [16,1152921504606846978] causes total element "
        "count to exceed maximum size of 9223372036854775807"
    ))  # fmt: skip
    assert ask([2, 2**63]) == (400, (
        "invalid shape for input 'INPUT0': shape [2,9223372036854775808] contains one or more "
        "invalid dimensions"
    ))  # fmt: skip
    assert ask([4, 2**60 + 2]) == (400, (
        "byte size overflow for input 'INPUT0': element count (4611686018427387912) * data type "
        "size (4) exceeds maximum allowed size (9223372036854775807)"
    ))  # fmt: skip
    assert ask([2, -5]) == (500, (
        "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"
    ))  # fmt: skip


def test_case_17_one_source_of_data(rest: Rest) -> None:
    text = (
        "Input must set only one of the following fields: 'data', 'binary_data_size' in "
        "'parameters', 'shared_memory_region' in 'parameters'. "
    )
    both = tensor("INPUT0", "INT32", [1, 16], [1] * 16, binary_data_size=64)
    response = rest.infer("simple", {"inputs": [both]}, bytes(64))
    assert (response.status, response.error) == (
        400, f"{text}But set 'data' 'binary_data_size'",
    )  # fmt: skip
    response = rest.infer("simple", {"inputs": [tensor("INPUT0", "INT32", [1, 16])]})
    assert (response.status, response.error) == (400, f"{text}But no field is set")


@pytest.mark.parametrize(("id", "prefix"), [
    ("q", "[request id: q] "), ("", UNKNOWN),
])  # fmt: skip
def test_case_18_what_the_model_does_not_take(id: str, prefix: str, rest: Rest) -> None:  # noqa: A002
    def ask(datatype: str, shape: list[int]) -> str:
        count = int(np.prod(shape))
        inputs = [tensor(each, datatype, shape, [1] * count) for each in ("INPUT0", "INPUT1")]
        response = rest.infer("simple", {"id": id, "inputs": inputs})
        assert response.status == 400
        return response.error

    assert ask("FP32", [1, 16]) == (
        f"{prefix}inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"
    )
    assert ask("INT32", [1, 8]).startswith(
        f"{prefix}unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got "
        "[1,8]. NOTE: Setting a non-zero max_batch_size in the model config requires"
    )
    assert ask("INT32", [9, 16]) == (
        f"{prefix}inference request batch-size must be <= 8 for 'simple'"
    )


# --- 19-24: compression, limits, parameters, classes ---------------------------------------------


def test_case_19_compression_both_ways(rest: Rest) -> None:
    inputs = [tensor(name, "INT32", [1, 16], binary_data_size=64) for name in ("INPUT0", "INPUT1")]
    text = json.dumps({"inputs": inputs}).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    for encoding, squeeze in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = {"Content-Encoding": encoding, **length}
        response = rest.post(f"{SIMPLE}/infer", squeeze(text + bytes(128)), headers)
        assert response.status == 200

    body = {"inputs": pair(), "parameters": {"binary_data_output": True}}
    plain = rest.infer("simple", body)
    for accepted, encoding, inflate in (
        ("gzip;q=0.5, deflate", "deflate", zlib.decompress),
        ("gzip", "gzip", gzip.decompress),
        ("deflate;q=0", "", bytes),
        ("br, identity;q=0.5, gzip;q=0.4", "", bytes),
    ):
        response = rest.infer("simple", body, headers={"Accept-Encoding": accepted})
        assert response.headers.get("content-encoding", "") == encoding
        assert inflate(response.body) == plain.body
        # It counts the JSON as it was before compression.
        name = "inference-header-content-length"
        assert response.headers[name] == plain.headers[name]

    response = rest.post(f"{SIMPLE}/infer", b"x", {"Content-Encoding": "br"})
    assert (response.status, response.error) == (501, "Unsupported compression type")
    assert response.headers["accept-encoding"] == "gzip, deflate"


def test_case_20_large_inputs(rest: Rest) -> None:
    hint = "Use --http-max-input-size to increase the limit."
    bomb = gzip.compress(bytes(64 * MAX_INPUT))
    response = rest.post(f"{SIMPLE}/infer", bomb, {"Content-Encoding": "gzip"})
    assert (response.status, response.error) == (400, (
        f"Decompressed data size exceeds the maximum allowed value of {MAX_INPUT} bytes. {hint}"
    ))  # fmt: skip
    raw = {"Inference-Header-Content-Length": "0"}
    response = rest.post("/v2/models/ident_FP32/infer", bytes(MAX_INPUT + 1), raw)
    assert (response.status, response.error) == (400, (
        f"Raw input has a byte_size ({MAX_INPUT + 1} bytes) that exceeds the maximum allowed value "
        f"of {MAX_INPUT} bytes. {hint}"
    ))  # fmt: skip
    response = rest.post("/v2/models/ident_FP32/infer", b" " * (MAX_INPUT + 1))
    assert (response.status, response.error) == (400, (
        f"request JSON size of {MAX_INPUT + 1} bytes exceeds the maximum allowed input size of "
        f"{MAX_INPUT} bytes. {hint}"
    ))  # fmt: skip
    count = 2 * MAX_INPUT
    body = {
        "inputs": [tensor("INPUT0", "FP32", [1, count], binary_data_size=4 * count)],
        "parameters": {"binary_data_output": True},
    }
    sent = bytes(range(256)) * (4 * count // 256)
    response = rest.infer("ident_FP32", body, sent)
    assert response.status == 200
    assert response.body.endswith(sent)


@pytest.mark.parametrize(("chunks", "refused"), [(65_536, False), (65_537, True)])
def test_case_21_many_chunks(chunks: int, refused: bool, http_server: Any) -> None:
    head = (
        f"POST {SIMPLE}/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n"
    )
    answer = converse(http_server.http, head.encode() + b"1\r\n \r\n" * chunks + b"0\r\n\r\n")
    status_line, _, body = answer.partition(b"\r\n\r\n")
    if refused:
        assert status_line.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"] == (
            "Chunked request body exceeds maximum of 65536 non-empty chunks. "
            "Send fewer or larger HTTP chunks."
        )
        assert b"Connection: close" in status_line
    else:
        assert b"The document is empty." in body


def test_case_22_parameters_have_kinds(rest: Rest) -> None:
    def ask(**parameters: Any) -> Any:
        given = tensor("IN", "FP32", [1], [1.0])
        return rest.infer("curious", {"inputs": [given], "parameters": parameters})

    wanted = {"a": 1, "b": True, "c": 1.5, "d": "x"}
    assert json.loads(ask(**wanted).json()["outputs"][0]["data"][0]) == wanted
    response = ask(e=None)
    assert (response.status, response.error) == (400, (
        "parameter 'e' has invalid type. It should be either 'int', 'bool', or 'string'."
    ))  # fmt: skip
    response = ask(triton_x=1)
    assert (response.status, response.error) == (400, (
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be "
        "specified."
    ))  # fmt: skip
    response = ask(priority=-1)
    assert (response.status, response.error) == (500, (
        "Unable to parse 'priority': attempt to access JSON non-unsigned-integer as "
        "unsigned-integer"
    ))  # fmt: skip
    response = ask(sequence_id=1.5)
    assert (response.status, response.error) == (500, (
        "Unable to parse 'sequence_id': attempt to access JSON non-string as string"
    ))  # fmt: skip


def test_case_23_headers_become_parameters(rest: Rest) -> None:
    body = {"inputs": [tensor("IN", "FP32", [1], [1.0])]}
    response = rest.infer("curious", body, headers={"My_H": "v", "other": "w"})
    assert json.loads(response.json()["outputs"][0]["data"][0]) == {"My_H": "v"}
    response = rest.infer("curious", body, headers={"timeout": "1"})
    assert (response.status, response.error) == (400, (
        "Header 'timeout' is reserved for Triton usage and cannot be forwarded."
    ))  # fmt: skip


def test_case_24_classes(rest: Rest) -> None:
    scores = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.1, 0.0]
    given = [tensor("INPUT0", "FP32", [2, 4], scores)]
    outputs = [tensor("OUTPUT0", "", [], classification=2)]
    expected = ["0.900000:3", "0.300000:2", "0.800000:0", "0.700000:1"]
    labels = ["fox", "owl", "cat", "dog"]
    response = rest.infer("classes", {"inputs": given, "outputs": outputs})
    assert response.json()["outputs"] == [{
        "name": "OUTPUT0", "datatype": "BYTES", "shape": [2, 2],
        "data": [f"{each}:{label}" for each, label in zip(expected, labels, strict=True)],
    }]  # fmt: skip
    response = rest.infer("plain_classes", {"inputs": given, "outputs": outputs})
    assert response.json()["outputs"][0]["data"] == expected
    strings_in = [tensor("INPUT0", "BYTES", [1, 2], ["a", "b"])]
    response = rest.infer("ident_BYTES", {"inputs": strings_in, "outputs": outputs})
    assert (response.status, response.error) == (400, (
        "class result not available for output due to unsupported type 'BYTES'"
    ))  # fmt: skip


# --- 31, 32, 35: shared memory and statistics ----------------------------------------------------


def test_case_31_regions(rest: Rest, memory: shared_memory.SharedMemory) -> None:
    root = "/v2/systemsharedmemory"

    def ask(offset: int, size: int) -> tuple[int, str]:
        use = {"shared_memory_region": "r31", "shared_memory_offset": offset}
        given = tensor("INPUT0", "INT32", [1, 16], **use, shared_memory_byte_size=size)
        response = rest.infer("simple", {"inputs": [given, pair()[1]]})
        return response.status, "" if response.status == 200 else response.error

    assert ask(0, 64) == (404, "Unable to find shared memory region: 'r31'")
    body = {"key": f"/{memory.name}", "byte_size": 8192}
    assert rest.post(f"{root}/region/r31/register", body).status == 200
    response = rest.post(f"{root}/region/r31/register", body)
    assert (response.status, response.error) == (
        400, "shared memory region 'r31' already in manager",
    )  # fmt: skip
    assert rest.post(f"{root}/region/unknown/unregister").status == 200
    assert ask(0, 64) == (200, "")
    assert ask(8192, 64) == (400, "Invalid offset for shared memory region: 'r31'")
    assert ask(8129, 64) == (400, "Invalid offset + byte size for shared memory region: 'r31'")
    assert ask(64, 2**64 - 1) == (400, (
        "Integer overflow detected: byte_size (18446744073709551615) + offset (64) exceeds maximum "
        "value (18446744073709551615) for region 'r31'"
    ))  # fmt: skip
    use = {"shared_memory_region": "r31", "shared_memory_byte_size": 32}
    response = rest.infer(
        "simple", {"inputs": pair(), "outputs": [tensor("OUTPUT0", "", [], **use)]}
    )
    assert (response.status, response.error) == (500, (
        "shared memory size specified with the request for output 'OUTPUT0' (32 bytes) should be "
        "at least 64 bytes to hold the results"
    ))  # fmt: skip
    use["classification"] = 1
    response = rest.infer(
        "simple", {"inputs": pair(), "outputs": [tensor("OUTPUT0", "", [], **use)]}
    )
    assert (response.status, response.error) == (400, (
        "Output can't set both 'shared_memory_region' and 'classification'"
    ))  # fmt: skip
    assert rest.post(f"{root}/region/r31/unregister").status == 200
    assert rest.get(f"{root}/status").json() == []


def test_case_32_a_region_in_use_goes_with_its_last_request(
    rest: Rest, memory: shared_memory.SharedMemory, http_server: Any, http_notes: Path
) -> None:
    root = "/v2/systemsharedmemory"
    body = {"key": memory.name, "byte_size": 4096}
    assert rest.post(f"{root}/region/r32/register", body).status == 200
    place = {"shared_memory_region": "r32", "shared_memory_byte_size": 4}
    given = tensor("IN", "FP32", [1], [0.5])
    asked = {"id": "r32", "inputs": [given], "outputs": [tensor("OUT", "", [], **place)]}
    statuses: list[int] = []

    def ask() -> None:
        client = Rest(http_server.http)
        statuses.append(client.infer("patient", asked).status)
        client.close()

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for((http_notes / "began r32").exists)
    assert rest.post(f"{root}/region/r32/unregister").status == 200
    assert [region["name"] for region in rest.get(f"{root}/status").json()] == ["r32"]
    asking.join()
    assert statuses == [200]
    assert memory.buf is not None
    assert struct.unpack_from("<f", memory.buf) == (0.5,)
    wait_for(lambda: rest.get(f"{root}/status").json() == [])
    response = rest.infer("patient", asked)
    assert (response.status, response.error) == (
        404, "Unable to find shared memory region: 'r32'",
    )  # fmt: skip


def test_case_31_regions_are_off_by_default(sample_server: Any) -> None:
    rest = Rest(sample_server.http)
    response = rest.post("/v2/systemsharedmemory/region/r/register", {"key": "/x", "byte_size": 1})
    assert (response.status, response.error) == (501, (
        "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to "
        "enable."
    ))  # fmt: skip
    assert rest.get("/v2/systemsharedmemory/status").json() == []
    rest.close()


BROUGHT = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [self.double(each) for each in requests]
    def double(self, request):
        given = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", given * 2)])
"""


def test_case_33_a_model_that_its_client_brings(rest: Rest) -> None:
    config = {
        "backend": "python",
        "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}],
    }
    code = base64.b64encode(BROUGHT.encode()).decode()
    parameters = {"config": json.dumps(config), "file:1/model.py": code}
    path = "/v2/repository/models/brought/load"
    assert rest.post(path, {"parameters": parameters}).status == 200
    assert rest.get("/v2/models/brought/ready").status == 200
    index = rest.post("/v2/repository/index", {"ready": True}).json()
    assert "brought" not in {row["name"] for row in index}  # it stands in no repository
    response = rest.infer("brought", {"inputs": [tensor("IN", "FP32", [1], [21.0])]})
    assert response.json()["outputs"][0]["data"] == [42.0]
    assert rest.post("/v2/repository/models/brought/unload").status == 200

    only_config = {"config": json.dumps({**config, "max_batch_size": 3})}
    assert rest.post("/v2/repository/models/ident_FP16/load", {
        "parameters": {"config": json.dumps({
            "backend": "identity", "max_batch_size": 3,
            "input": [{"name": "INPUT0", "data_type": "TYPE_FP16", "dims": [-1]}],
            "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP16", "dims": [-1]}],
        })},
    }).status == 200  # fmt: skip
    assert rest.get("/v2/models/ident_FP16/config").json()["max_batch_size"] == 3
    assert rest.post("/v2/repository/models/nobody/load", {"parameters": only_config}).status == 500
    assert rest.post("/v2/repository/models/ident_FP16/unload").status == 200
    assert rest.post("/v2/repository/models/ident_FP16/load").status == 200
    assert rest.get("/v2/models/ident_FP16/config").json()["max_batch_size"] == 8


def test_case_34_the_index_and_those_who_are_composed(
    tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    plain = IDENTITY % (0, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
    grpc_models.write_model(tmp_path, "member", plain)
    ensemble = plain.replace('backend: "identity"', 'platform: "ensemble"') + (
        'ensemble_scheduling { step { model_name: "member" model_version: -1 '
        'input_map { key: "INPUT0" value: "INPUT0" } '
        'output_map { key: "OUTPUT0" value: "OUTPUT0" } } }'
    )
    grpc_models.write_model(tmp_path, "whole", ensemble)
    flags = ("--model-control-mode=explicit", "--load-model=whole", "--allow-cpu-metrics=false")
    with run_server(tmp_path, *flags) as running:
        rest = Rest(running.http)
        body = {"inputs": [tensor("INPUT0", "FP32", [1], [1.0])]}
        assert rest.infer("whole", body).json()["outputs"][0]["data"] == [1.0]

        def ready() -> set[str]:
            rows = rest.post("/v2/repository/index", {"ready": True}).json()
            return {row["name"] for row in rows}

        assert ready() == {"whole", "member"}
        order = {"parameters": {"unload_dependents": True}}
        assert rest.post("/v2/repository/models/whole/unload", order).status == 200
        wait_for(lambda: not ready())
        response = rest.post("/v2/repository/index", {"ready": "x"})
        assert (response.status, response.error) == (
            400, "Invalid value for 'ready': expected a boolean",
        )  # fmt: skip
        rest.close()


def test_case_35_what_is_counted(rest: Rest) -> None:
    body = {"inputs": [tensor("INPUT0", "INT8", [2, 1], [1, 2])]}
    for _ in range(3):
        assert rest.infer("ident_INT8", body).status == 200
    wrong = {"inputs": [tensor("INPUT0", "INT8", [2, 1, 1], [1, 2])]}
    assert rest.infer("ident_INT8", wrong).status == 400
    (row,) = rest.get("/v2/models/ident_INT8/stats").json()["model_stats"]
    assert (row["name"], row["version"], row["inference_count"]) == ("ident_INT8", "1", 6)
    stats = row["inference_stats"]
    assert list(stats) == [
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
        "cache_hit", "cache_miss",
    ]  # fmt: skip
    assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 0)
    assert all(isinstance(each["ns"], int) for each in stats.values())
    assert [each["batch_size"] for each in row["batch_stats"]] == [2]


# --- 54, 55: records and readiness ---------------------------------------------------------------


def test_case_54_no_request_writes_a_line_of_the_log(rest: Rest, http_server: Any) -> None:
    forged = "I1124 00:00:00.000000 1 x.cc:1] forged"
    name = f"m%0A{forged.replace(' ', '%20').replace(']', '%5D')}"
    assert rest.post(f"/v2/repository/models/{name}/load").status in (400, 500)
    assert rest.post(f"/v2/models/{name}/infer").status == 404
    assert not [line for line in http_server.lines if line.startswith(forged)]


def test_case_55_a_model_that_is_not_there(rest: Rest) -> None:
    response = rest.get("/v2/models/nope/ready")
    assert (response.status, response.error) == (400, "Model version not ready")
    response = rest.get("/v2/models/nope")
    assert (response.status, response.error) == (
        404, "Request for unknown model: 'nope' is not found",
    )  # fmt: skip
