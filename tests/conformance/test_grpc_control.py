"""The control plane over gRPC, by Triton's client: repository, logging, tracing, health."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from protocol.proto.generated.grpc.reflection import v1 as reflection
from tests.conformance import grpc_models

RESTRICTED = {"triton-grpc-protocol-k": "v"}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("control")
    grpc_models.write_curious(repository)
    grpc_models.write_identities(repository)
    with run_server(
        repository,
        "--model-control-mode=explicit",
        "--load-model=curious",
        "--load-model=ident_FP32",
        "--grpc-restricted-protocol=model-repository,logging:k=v",
        "--grpc-header-forward-pattern=my_.*",
        "--grpc-infer-response-compression-level=high",
    ) as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        yield client


def tensor(array: np.ndarray[Any, Any], name: str = "IN") -> Any:
    given = grpcclient.InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return given


ONE = np.ones(1, np.float32)


def test_models_come_and_go(client: Any) -> None:
    name = "ident_INT8"
    assert not client.is_model_ready(name)
    client.load_model(name, headers=RESTRICTED)
    assert client.is_model_ready(name)
    index = client.get_model_repository_index(headers=RESTRICTED).models
    assert [(each.version, each.state, each.reason) for each in index if each.name == name] == [
        ("1", "READY", "")
    ]
    assert [each.version for each in index if each.name == "ident_BYTES"] == [""]

    client.unload_model(name, headers=RESTRICTED)
    deadline = time.monotonic() + 10
    states = {("READY", "")}
    while states != {("UNAVAILABLE", "unloaded")}:
        assert time.monotonic() < deadline, states
        index = client.get_model_repository_index(headers=RESTRICTED).models
        states = {(each.state, each.reason) for each in index if each.name == name}
    assert not client.is_model_ready(name)
    client.unload_model("never heard of", headers=RESTRICTED)


def test_restricted_calls_need_their_metadata(client: Any) -> None:
    for call in (
        client.get_model_repository_index,
        client.get_log_settings,
        lambda **how: client.load_model("ident_FP32", **how),
        lambda **how: client.unload_model("nope", **how),
    ):
        for headers in ({}, {"triton-grpc-protocol-k": "w"}):
            with pytest.raises(InferenceServerException) as caught:
                call(headers=headers)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            assert caught.value.message() == (
                "This protocol is restricted, expecting header 'triton-grpc-protocol-k'"
            )
        call(headers=RESTRICTED)
    assert client.infer("curious", [tensor(ONE)]).as_numpy("SEEN") is not None


def test_metadata_are_forwarded_and_parameters_reach_the_model(client: Any) -> None:
    answer = client.infer(
        "curious",
        [tensor(ONE)],
        headers={"my_key": "v", "other": "w"},
        parameters={"a": 1, "b": True, "c": 1.5, "d": "x"},
    )
    seen = json.loads(answer.as_numpy("SEEN")[0])
    assert seen == {"a": 1, "b": True, "c": 1.5, "d": "x", "my_key": "v"}


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_replies_may_be_compressed(client: Any, algorithm: str | None) -> None:
    array = np.zeros((1, 100_000), np.float32)
    answer = client.infer("ident_FP32", [tensor(array, "INPUT0")], compression_algorithm=algorithm)
    assert np.array_equal(answer.as_numpy("OUTPUT0"), array)


def test_log_settings_change_what_is_logged(client: Any, server: Any) -> None:
    def settings(**changes: object) -> dict[str, object]:
        reply = client.update_log_settings(changes, headers=RESTRICTED, as_json=True)
        return {name: next(iter(value.values())) for name, value in reply["settings"].items()}

    assert settings() == {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True,
        "log_verbose_level": 0, "log_format": "default",
    }  # fmt: skip
    changed = settings(log_format="ISO8601", log_verbose_level=1)
    assert (changed["log_format"], changed["log_verbose_level"]) == ("ISO8601", 1)
    client.load_model("ident_INT16", headers=RESTRICTED)
    assert any("ident_INT16" in line and line[4] == "-" for line in server.lines)

    settings(log_info=False, log_format="default", log_verbose_level=0)
    client.load_model("ident_INT32", headers=RESTRICTED)
    assert settings(log_info=True)["log_info"] is True
    assert not any("loaded 'ident_INT32'" in line for line in server.lines)


def test_tracing_is_off_and_may_be_told_so(client: Any) -> None:
    expected = {
        "trace_level": ["OFF"], "trace_rate": ["1000"], "trace_count": ["-1"],
        "log_frequency": ["0"], "trace_file": [""], "trace_mode": ["triton"],
    }  # fmt: skip
    for reply in (
        client.get_trace_settings(),
        client.get_trace_settings(model_name="curious"),
        client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_rate": None}),
    ):
        assert {name: list(each.value) for name, each in reply.settings.items()} == expected


def test_the_standard_health_service(server: Any) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "anything"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(stub.Watch(health_pb2.HealthCheckRequest())))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_what_there_is(server: Any, version: str) -> None:
    asked = [
        reflection.ServerReflectionRequest(list_services=""),
        reflection.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        reflection.ServerReflectionRequest(file_containing_symbol="no.such.thing"),
    ]
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        )
        listed, found, missing = (
            reflection.ServerReflectionResponse().parse(each)
            for each in call(iter([bytes(each) for each in asked]))
        )
    names = {each.name for each in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    assert b"HealthCheckRequest" in found.file_descriptor_response.file_descriptor_proto[0]
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_what_no_service_has_is_unimplemented(server: Any) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        for path, text in (
            ("/inference.GRPCInferenceService/Nope",
             "unknown method Nope for service inference.GRPCInferenceService"),
            ("/no.Such/Thing", "unknown service no.Such"),
        ):  # fmt: skip
            answers = channel.stream_stream(path)(iter([b""]))
            for call in (partial(channel.unary_unary(path), b""), partial(next, answers)):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                assert caught.value.details() == text
