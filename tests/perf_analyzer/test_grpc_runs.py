"""gRPC in virtual time: unary calls, streams, decoupled models, compression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.perf_analyzer.fake_grpc import FakeGrpcServer
from tests.perf_analyzer.runs import WALL_NS, run

DECOUPLED = {"name": "m", "model_transaction_policy": {"decoupled": True}}


def test_unary_calls_are_measured_to_the_microsecond() -> None:
    server = FakeGrpcServer()

    seen = run(server, "-i grpc -p 300 --concurrency-range 4")

    assert seen.status == 0
    assert server.busiest == 4
    assert seen.value("Throughput") == pytest.approx(400, rel=0.01)
    assert seen.value("Avg latency") == pytest.approx(10_000, abs=1)
    assert "Avg gRPC time: 10000 usec ((un)marshal request/response 0 usec" in seen.text
    assert "Avg request latency: 1000 usec" in seen.text


def test_a_request_carries_its_tensors_and_asks_for_outputs() -> None:
    server = FakeGrpcServer()

    run(server, "-i grpc --request-count 1 --input-data zero -x 7 -H X-Key:secret "
                "--request-parameter a:5:int --request-parameter b:true:bool "
                "--request-parameter c:x:string")  # fmt: skip

    request = server.infers[0]
    assert (request.model_name, request.model_version, request.id) == ("m", "7", "")
    assert [each.name for each in request.inputs] == ["IN"]
    assert list(request.inputs[0].shape) == [4]
    assert request.raw_input_contents[0] == bytes(16)
    assert [each.name for each in request.outputs] == ["OUT"]
    assert request.parameters["a"].int64_param == 5
    assert request.parameters["b"].bool_param
    assert request.parameters["c"].string_param == "x"
    assert all(head["x-key"] == "secret" for head in server.heads)


def test_asynchronous_calls_have_ids() -> None:
    server = FakeGrpcServer()

    run(server, "-i grpc --async --request-count 6 --concurrency-range 2")

    ids = [int(request.id) for request in server.infers]
    assert len(set(ids)) == 6
    assert {number >> 48 for number in ids} == {0, 1}


def test_many_calls_share_few_connections() -> None:
    server = FakeGrpcServer()

    run(server, "-i grpc --request-count 32 --concurrency-range 32")

    assert server.busiest == 32
    assert server.connections == 1 + 6  # one asks questions


def test_connections_that_the_server_goes_away_from_are_replaced() -> None:
    server = FakeGrpcServer(connection_seconds=0.25)

    seen = run(server, "-i grpc -p 500 --concurrency-range 4")

    assert seen.errors == []
    assert seen.value("Throughput") == pytest.approx(400, rel=0.02)
    assert server.connections > 5


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_mean_the_same(algorithm: str) -> None:
    server = FakeGrpcServer()

    seen = run(server, f"-i grpc --request-count 3 --grpc-compression-algorithm {algorithm}")

    assert seen.status == 0
    assert len(server.infers[0].raw_input_contents[0]) == 16
    assert [head.get("grpc-encoding") for head in server.heads].count(algorithm) == 3


def test_an_error_has_the_server_s_text() -> None:
    seen = run(FakeGrpcServer(error="no such tensor"), "-i grpc -p 300")

    assert seen.status == 99
    assert seen.errors[-1].endswith("Thread [0] had error: no such tensor")


def test_a_server_without_configurations_is_a_plain_one() -> None:
    server = FakeGrpcServer()
    known = server.control
    server.control = lambda method: None if method == "ModelConfig" else known(method)  # type: ignore[method-assign]  # a server that lacks one question

    assert run(server, "-i grpc --request-count 2").status == 0


def test_a_stream_per_worker_carries_the_requests() -> None:
    server = FakeGrpcServer()

    seen = run(server, "-i grpc --streaming -p 300 --concurrency-range 4 --max-threads 2")

    assert seen.status == 0
    assert server.streams == 2
    assert server.busiest == 4
    assert seen.value("Throughput") == pytest.approx(400, rel=0.01)
    assert "  Using asynchronous calls for inference" in seen.lines
    parameter = server.infers[0].parameters["triton_enable_empty_final_response"]
    assert parameter.bool_param


def test_a_decoupled_request_lasts_until_its_last_full_response(tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    server = FakeGrpcServer(
        config=DECOUPLED, responses=10, empty_final=True, gap=0.001, latency=lambda _: 0.005
    )

    seen = run(server, f"-i grpc --streaming -p 300 --profile-export-file {export}")

    assert seen.status == 0
    assert seen.value("Avg latency") == pytest.approx(14_000, abs=1)
    assert seen.value("Throughput") == pytest.approx(1 / 0.015, rel=0.02)
    assert seen.value("Response Throughput") == pytest.approx(10 / 0.015, rel=0.02)
    assert "First response: avg 5000 usec" in seen.text
    requests = json.loads(export.read_text())["experiments"][0]["requests"]
    assert all(len(each["response_timestamps"]) == 11 for each in requests)
    assert all(each["response_outputs"][10] == {"OUT": ""} for each in requests)


def test_a_request_without_a_full_response_has_no_latency(tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    server = FakeGrpcServer(config=DECOUPLED, responses=0, empty_final=True)

    seen = run(server, f"-i grpc --streaming -p 100 -r 3 --profile-export-file {export}")

    assert seen.status == 3
    assert len(json.loads(export.read_text())["experiments"][0]["requests"]) > 10


def test_an_error_on_a_stream_ends_the_run() -> None:
    seen = run(FakeGrpcServer(error="gone fishing"), "-i grpc --streaming -p 300")

    assert seen.status == 99
    assert seen.errors[-1].endswith("had error: gone fishing")


def test_periodic_concurrency_launches_group_after_group(tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    server = FakeGrpcServer(
        config=DECOUPLED, responses=10, empty_final=True, gap=0.001, latency=lambda _: 0.001
    )

    seen = run(
        server,
        "-i grpc --streaming --periodic-concurrency-range 5:9:2 --request-period 3 "
        f"--profile-export-file {export}",
    )

    assert seen.status == 0
    assert len(server.infers) == 9  # the original launches 5 + 2 + 2 + 2 here
    begun = [round(at, 4) for at in server.at]
    assert begun == [0.0] * 5 + [0.003] * 2 + [0.006] * 2
    document = json.loads(export.read_text())["experiments"][0]
    assert document["experiment"] == {"mode": "concurrency", "value": 1}
    assert document["window_boundaries"] == [0, 2**64 - 1]
    assert not any("Concurrency:" in line for line in seen.lines)


def test_periodic_requests_must_reach_their_period(tmp_path: Path) -> None:
    server = FakeGrpcServer(config=DECOUPLED, responses=2, empty_final=True)

    seen = run(
        server,
        "-i grpc --streaming --periodic-concurrency-range 1:2:1 --request-period 3 "
        f"--profile-export-file {tmp_path / 'export.json'}",
    )

    assert seen.status == 99
    assert "final response before request period was reached" in seen.errors[0]


def test_the_export_has_every_request_in_the_system_s_time(tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    server = FakeGrpcServer()

    seen = run(server, f"-i grpc -p 100 --concurrency-range 1:2 --profile-export-file {export}")

    document = json.loads(export.read_text())
    first, second = document["experiments"]
    assert seen.status == 0
    assert document["service_kind"] == "triton"
    assert set(document) == {"experiments", "version", "service_kind", "endpoint"}
    assert first["experiment"] == {"mode": "concurrency", "value": 1}
    assert second["experiment"] == {"mode": "concurrency", "value": 2}
    edges = first["window_boundaries"]
    assert len(edges) == 6
    assert edges == sorted(edges)
    for request in first["requests"]:
        assert request["timestamp"] >= WALL_NS
        assert request["response_timestamps"][0] - request["timestamp"] == pytest.approx(1e7, abs=2)
        assert request["request_inputs"].keys() == {"IN"}
        assert request["response_outputs"][0]["OUT"] == request["request_inputs"]["IN"]
