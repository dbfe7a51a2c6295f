"""Server reflection: what tools learn about this server, in both of the service's versions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from google.protobuf import descriptor_pb2

from protocol.grpc_reflection import Reflection, ReflectionAlpha
from protocol.grpc_service import routes
from protocol.proto.generated.grpc.reflection import v1, v1alpha

SERVICES = ("inference.GRPCInferenceService", "grpc.health.v1.Health")


def answer(request: v1.ServerReflectionRequest) -> v1.ServerReflectionResponse:
    response = Reflection(SERVICES).answer(request)
    assert response.original_request == request
    return response


def file_names(response: v1.ServerReflectionResponse) -> list[str]:
    return [
        descriptor_pb2.FileDescriptorProto.FromString(data).name
        for data in response.file_descriptor_response.file_descriptor_proto
    ]


def test_services_are_listed() -> None:
    response = answer(v1.ServerReflectionRequest(host="h", list_services="*"))
    assert response.valid_host == "h"
    assert [each.name for each in response.list_services_response.service] == sorted(SERVICES)


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
    ],
)
def test_a_symbol_brings_its_file_and_what_that_imports(symbol: str) -> None:
    response = answer(v1.ServerReflectionRequest(file_containing_symbol=symbol))
    assert file_names(response) == ["grpc_service.proto", "model_config.proto"]


def test_a_file_by_name() -> None:
    response = answer(v1.ServerReflectionRequest(file_by_filename="health.proto"))
    assert file_names(response) == ["health.proto"]


def test_no_type_has_extensions() -> None:
    name = "inference.ModelInferRequest"
    response = answer(v1.ServerReflectionRequest(all_extension_numbers_of_type=name))
    assert response.all_extension_numbers_response == v1.ExtensionNumberResponse(name)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (v1.ServerReflectionRequest(file_by_filename="/etc/passwd"), 5),
        (v1.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"), 5),
        (v1.ServerReflectionRequest(all_extension_numbers_of_type="no.such.Type"), 5),
        (v1.ServerReflectionRequest(file_containing_extension=v1.ExtensionRequest("x", 1)), 5),
        (v1.ServerReflectionRequest(), 3),
    ],
)
def test_questions_without_an_answer(request_: v1.ServerReflectionRequest, code: int) -> None:
    assert answer(request_).error_response.error_code == code


def test_both_versions_are_services() -> None:
    table = routes([Reflection(SERVICES), ReflectionAlpha(SERVICES)])
    assert sorted(table) == [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ]


def test_both_versions_answer_a_stream_alike() -> None:
    async def questions() -> AsyncIterator[v1.ServerReflectionRequest]:
        yield v1.ServerReflectionRequest(list_services="*")
        yield v1.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")

    async def old_questions() -> AsyncIterator[v1alpha.ServerReflectionRequest]:
        async for question in questions():
            yield v1alpha.ServerReflectionRequest().parse(bytes(question))

    async def ask() -> None:
        new = [
            bytes(each) async for each in Reflection(SERVICES).server_reflection_info(questions())
        ]
        alpha = ReflectionAlpha(SERVICES)
        old = [bytes(each) async for each in alpha.server_reflection_info(old_questions())]
        assert new == old
        assert len(new) == 2

    trio.run(ask)
