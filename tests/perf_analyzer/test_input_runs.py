"""What requests carry: generated data, files, shapes, batches, shared memory, validation."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.datatypes import numpy_dtype
from tests.perf_analyzer.fake_server import FakeServer, metadata
from tests.perf_analyzer.runs import Run, run


def server_for(datatype: str, shape: list[int], **config: Any) -> FakeServer:
    one = [{"name": "IN", "datatype": datatype, "shape": shape}]
    return FakeServer(metadata=metadata(inputs=one), config={"name": "m", **config}, extensions=())


def run_json(tmp_path: Path, server: FakeServer, document: object, more: str = "") -> Run:
    data = tmp_path / "data.json"
    data.write_text(json.dumps(document))
    return run(server, f"--request-count 6 --input-data {data} {more}")


def test_random_data_fills_the_shape_and_is_the_same_again() -> None:
    servers = [server_for("FP32", [4, 3]) for _ in range(2)]
    for server in servers:
        assert run(server, "--request-count 3").status == 0

    first = servers[0].infers[0]
    assert first.document["inputs"] == [
        {
            "name": "IN",
            "shape": [4, 3],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 48},
        }
    ]
    assert first.document["outputs"] == [{"name": "OUT", "parameters": {"binary_data": True}}]
    assert first.headers["content-type"] == "application/octet-stream"
    assert len(set(first.binary)) > 5
    assert first.binary == servers[1].infers[0].binary


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_random_floats_are_numbers(datatype: str) -> None:
    server = server_for(datatype, [1000])

    run(server, "--request-count 1 --seed 3")

    values = np.frombuffer(server.infers[0].binary, dtype=numpy_dtype(datatype))
    assert len(values) == 1000
    assert np.all((values >= 0) & (values <= 1))
    assert len(np.unique(values)) > 500


def test_random_bits_of_the_other_types() -> None:
    for datatype, size in (("BOOL", 1), ("BF16", 2), ("UINT8", 1), ("INT64", 8)):
        server = server_for(datatype, [100])

        run(server, "--request-count 1")

        assert len(server.infers[0].binary) == 100 * size
        if datatype == "BOOL":
            assert set(server.infers[0].binary) == {0, 1}


def test_zero_data_is_zero_but_strings_are_not() -> None:
    numbers, strings = server_for("INT64", [2]), server_for("BYTES", [2])

    run(numbers, "--request-count 1 --input-data zero")
    run(strings, "--request-count 1 --input-data zero --string-length 5")

    assert numbers.infers[0].binary == bytes(16)
    text = strings.infers[0].binary
    assert len(text) == 2 * (4 + 5)
    assert text[:4] == struct.pack("<I", 5)


def test_string_data_is_sent_in_every_element() -> None:
    server = server_for("BYTES", [3])

    run(server, "--request-count 1 --string-data hey")

    assert server.infers[0].binary == (b"\x03\0\0\0hey") * 3


def test_a_dynamic_dimension_needs_a_shape() -> None:
    server = server_for("FP32", [-1, -1, 4], max_batch_size=8)

    refused = run(server, "--request-count 1")
    assert run(server, "--request-count 1 -b 2 --shape IN:3,4").status == 0

    assert refused.status == 99
    assert refused.errors == [
        (
            "error: Failed to init manager inputs: input IN contains dynamic shape, provide "
            "shapes to send along with the request"
        )
    ]
    assert server.infers[0].document["inputs"][0]["shape"] == [2, 3, 4]


def test_a_batch_counts_as_many_inferences() -> None:
    server = server_for("FP32", [-1, 4], max_batch_size=8)

    seen = run(server, "-p 300 -b 4")

    assert server.infers[0].document["inputs"][0]["shape"] == [4, 4]
    assert seen.value("Throughput") == pytest.approx(400, rel=0.01)
    assert "  Batch size: 4" in seen.lines


def test_a_batch_must_fit_the_model() -> None:
    assert run(server_for("FP32", [4]), "-b 4").errors == [
        "error: can not specify batch size > 1 as the model 'm' does not support batching"
    ]
    assert (
        "greater than the maximum (2)"
        in (run(server_for("FP32", [-1, 4], max_batch_size=2), "-b 4").errors[0])
    )


def test_rows_of_batches_follow_one_another(tmp_path: Path) -> None:
    server = server_for("INT8", [-1, 1], max_batch_size=2)
    steps = [{"IN": [ord(letter)]} for letter in "ABC"]

    run_json(tmp_path, server, {"data": steps}, "-b 2")

    assert [each.binary for each in server.infers[:4]] == [b"AB", b"CA", b"BC", b"AB"]


def test_one_stream_tells_its_steps(tmp_path: Path) -> None:
    seen = run_json(tmp_path, server_for("INT8", [1]), {"data": [{"IN": [1]}, {"IN": [2]}]})

    assert " Successfully read data for 1 stream/streams with 2 step/steps." in seen.lines


@pytest.mark.parametrize(
    ("datatype", "shape", "value", "octets"),
    [
        ("FP32", [2], [1, 2.5], struct.pack("<2f", 1, 2.5)),
        ("FP64", [1], [float("inf")], struct.pack("<d", float("inf"))),
        ("INT32", [2], {"content": [1, -2], "shape": [2]}, struct.pack("<2i", 1, -2)),
        ("INT8", [-1], {"content": [1, 2, 3], "shape": [3]}, b"\1\2\3"),
        ("BOOL", [2], [True, False], b"\1\0"),
        ("BYTES", [2], ["a", "bc"], b"\1\0\0\0a\2\0\0\0bc"),
        ("BYTES", [1], {"b64": base64.b64encode(b"\2\0\0\0xy").decode()}, b"\2\0\0\0xy"),
        ("FP16", [1], {"content": {"b64": "AAA="}, "shape": [1]}, b"\0\0"),
    ],
)
def test_json_becomes_wire_bytes(
    tmp_path: Path, datatype: str, shape: list[int], value: object, octets: bytes
) -> None:
    server = server_for(datatype, shape)

    assert run_json(tmp_path, server, {"data": [{"IN": value}]}).status == 0
    assert server.infers[0].binary == octets


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "The json file doesn't contain data field"),
        ({"data": [{"X": [1.0]}]}, "The input or output 'X' is not found in the model"),
        ({"data": [{}]}, "missing tensor IN ( Location stream id: 0, step id: 0)"),
        ({"data": [{"IN": [1.0]}]}, "for IN. Expected: 8 bytes, Got: 4"),
        ({"data": [{"IN": ["x", "y"]}]}, "unable to find float data in json"),
        ({"data": [{"IN": [[1.0], [2.0]]}]}, "unable to find float data in json"),
        ({"data": [{"IN": {"b64": "***"}}]}, "unable to decode the b64 data of IN"),
        ({"data": [{"IN": {"content": [1.0], "shape": [1]}}]}, "mismatch in the shape"),
        ({"data": [{"IN": [1.0, 2.0]}, [{"IN": [1.0, 2.0]}]]}, "combination of objects and arrays"),
        ({"data": []}, "no data was provided"),
        ({"data": [{"IN": [1.0, 2.0]}], "validation_data": []}, "doesn't align with 'data'"),
    ],
)  # fmt: skip
def test_bad_json_is_refused_with_the_reason(
    tmp_path: Path, document: object, problem: str
) -> None:
    seen = run_json(tmp_path, server_for("FP32", [2]), document)

    assert seen.status == 99
    assert seen.errors[0].startswith("error: Failed to init manager inputs: ")
    assert problem in seen.errors[0]


def test_integers_must_fit_their_type(tmp_path: Path) -> None:
    seen = run_json(tmp_path, server_for("INT8", [1]), {"data": [{"IN": [300]}]})

    assert "out of the range of INT8" in seen.errors[0]


def test_an_optional_input_may_be_left_out(tmp_path: Path) -> None:
    two = [
        {"name": "IN", "datatype": "INT8", "shape": [1]},
        {"name": "MORE", "datatype": "INT8", "shape": [1]},
    ]
    server = FakeServer(
        metadata=metadata(inputs=two),
        config={"name": "m", "input": [{"name": "MORE", "optional": True}]},
    )

    seen = run_json(tmp_path, server, {"data": [{"IN": [1]}, {"IN": [2], "MORE": [3]}]})

    assert seen.status == 0
    assert [len(each.document["inputs"]) for each in server.infers[:2]] == [1, 2]


def test_a_directory_has_a_file_per_tensor(tmp_path: Path) -> None:
    (tmp_path / "IN").write_bytes(b"12345678")
    server = server_for("FP32", [2])

    assert run(server, f"--request-count 2 --input-data {tmp_path}").status == 0
    assert server.infers[0].binary == b"12345678"

    (tmp_path / "IN").write_bytes(b"1234")
    assert "Expected: 8 bytes, Got: 4 bytes" in run(server, f"--input-data {tmp_path}").errors[0]
    (tmp_path / "IN").write_bytes(b"12345678")
    (tmp_path / "stray").touch()
    assert "'stray' is not found" in run(server, f"--input-data {tmp_path}").errors[0]


def test_a_directory_of_strings_has_a_line_per_element(tmp_path: Path) -> None:
    (tmp_path / "IN").write_bytes(b"one\nthree\n")
    server = server_for("BYTES", [2])

    assert run(server, f"--request-count 1 --input-data {tmp_path}").status == 0
    assert server.infers[0].binary == b"\3\0\0\0one\5\0\0\0three"
    assert (
        "has 2 elements, expect 3"
        in (run(server_for("BYTES", [3]), f"--input-data {tmp_path}").errors[0])
    )


def test_an_unknown_word_is_no_input_data() -> None:
    assert (
        "unsupported input data provided nonsense"
        in (run(FakeServer(), "--input-data nonsense").errors[0])
    )


def test_responses_are_compared_byte_by_byte(tmp_path: Path) -> None:
    document = {
        "data": [{"IN": [1.0, 2.0]}],
        "validation_data": [{"OUT": [1.0, 2.0]}],
    }
    good, wrong, short = (server_for("FP32", [2]) for _ in range(3))
    wrong.output = lambda infer: infer.binary[:-1] + b"\x41"
    short.output = lambda infer: infer.binary[:-4]

    assert run_json(tmp_path, good, document).status == 0
    for server, text in (
        (wrong, "Output doesn't match expected output"),
        (short, "Output size doesn't match expected size"),
    ):
        seen = run_json(tmp_path, server, document)
        assert seen.status == 99
        assert seen.errors[-1].endswith(f"Thread [0] had error: {text}")


def test_json_tensors_go_out_as_json() -> None:
    server = server_for("INT32", [2])
    server.output = lambda _: b""

    run(server, "--request-count 1 --input-data zero --input-tensor-format json "
                "--output-tensor-format json")  # fmt: skip

    document = server.infers[0].document
    assert document["inputs"][0]["data"] == [0, 0]
    assert document["outputs"][0]["parameters"] == {"binary_data": False}
    assert not server.infers[0].binary
    headers = server.infers[0].headers
    assert headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in headers


def test_shared_memory_is_registered_used_and_removed() -> None:
    server = server_for("FP32", [4])
    server.output = lambda _: b""
    before = set(Path("/dev/shm").iterdir())

    seen = run(server, "--request-count 4 --shared-memory system")

    assert seen.status == 0
    paths = [path for path, _ in server.posts]
    assert paths[0] == "/v2/systemsharedmemory/unregister"
    assert paths[1] == "/v2/cudasharedmemory/unregister"
    assert sum(path.endswith("/register") for path in paths) == 2
    assert sum("/region/" in path and path.endswith("/unregister") for path in paths) == 2
    region = server.infers[0].document["inputs"][0]["parameters"]
    assert region["shared_memory_byte_size"] == 16
    assert f"/v2/systemsharedmemory/region/{region['shared_memory_region']}/register" in paths
    assert "shared_memory_region" in server.infers[0].document["outputs"][0]["parameters"]
    assert set(Path("/dev/shm").iterdir()) == before


def test_headers_go_out_with_every_request() -> None:
    server = server_for("FP32", [4])

    run(server, "--request-count 1 -H X-Key:secret")

    assert server.infers[0].headers["x-key"] == "secret"


def test_a_server_without_configurations_is_a_plain_one() -> None:
    seen = run(FakeServer(config=None), "--request-count 3")

    assert seen.status == 0
    assert seen.value("Request count") == 3


def test_a_shape_tensor_is_not_generated() -> None:
    server = server_for("INT32", [2], input=[{"name": "IN", "is_shape_tensor": True}])

    assert "can not generate data for shape tensor 'IN'" in run(server, "").errors[0]


def test_a_decoupled_model_must_be_streamed() -> None:
    server = FakeServer(config={"name": "m", "model_transaction_policy": {"decoupled": True}})

    assert run(server, "").errors == [
        "error: Decoupled models must be run with asynchronous mode and streaming"
    ]
