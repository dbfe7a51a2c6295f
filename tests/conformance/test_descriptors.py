"""Our .proto files against the descriptors inside the clients that people use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from protocol.proto.generated import inference
from protocol.proto.generated.grpc.health import v1 as health
from protocol.proto.generated.grpc.reflection import v1 as reflection_v1
from protocol.proto.generated.grpc.reflection import v1alpha as reflection_v1alpha
from protocol.proto.messages import POOL, ModelInferRequest, message_class

ROOT = Path(__file__).resolve().parents[2]

Facts = set[tuple[object, ...]]

PAIRS = {
    "grpc_service.proto": service_pb2.DESCRIPTOR,
    "model_config.proto": model_config_pb2.DESCRIPTOR,
    "health.proto": health_pb2.DESCRIPTOR,
}


def _field(field: FieldDescriptor) -> tuple[object, ...]:
    oneof = field.containing_oneof
    target = field.message_type or field.enum_type
    return (
        field.full_name,
        field.number,
        field.type,
        field.is_repeated,
        field.json_name,
        field.has_presence,
        oneof.name if oneof is not None else None,
        target.full_name if target is not None else None,
        getattr(field, "is_packed", None),
    )


def _message(message: Descriptor) -> Iterator[tuple[object, ...]]:
    yield ("message", message.full_name, message.GetOptions().map_entry)
    yield from (_field(field) for field in message.fields)
    for oneof in message.oneofs:
        yield ("oneof", oneof.full_name, tuple(field.name for field in oneof.fields))
    for enum in message.enum_types:
        yield from _enum(enum)
    for nested in message.nested_types:
        yield from _message(nested)


def _enum(enum: EnumDescriptor) -> Iterator[tuple[object, ...]]:
    yield ("enum", enum.full_name)
    yield from ((enum.full_name, value.name, value.number) for value in enum.values)


def _service(service: ServiceDescriptor) -> Iterator[tuple[object, ...]]:
    yield ("service", service.full_name)
    for method in service.methods:
        yield (
            method.full_name,
            method.input_type.full_name,
            method.output_type.full_name,
            method.client_streaming,
            method.server_streaming,
        )


def facts(file: FileDescriptor) -> Facts:
    """Everything that the wire, JSON and generated code could tell apart."""
    found: Facts = {("package", file.package)}
    for message in file.message_types_by_name.values():
        found.update(_message(message))
    for enum in file.enum_types_by_name.values():
        found.update(_enum(enum))
    for service in file.services_by_name.values():
        found.update(_service(service))
    return found


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_descriptors_equal_those_of_the_client(name: str) -> None:
    ours, theirs = facts(POOL.FindFileByName(name)), facts(PAIRS[name])
    assert ours == theirs
    assert len(ours) > 5  # both were really walked


def test_the_specified_size_of_the_protocol() -> None:
    """The field tables that the files were written from count 311 fields, map entries apart."""

    def count(message: Descriptor) -> int:
        own = 0 if message.GetOptions().map_entry else len(message.fields)
        return own + sum(map(count, message.nested_types))

    files = [POOL.FindFileByName(name) for name in ("grpc_service.proto", "model_config.proto")]
    total = sum(count(m) for file in files for m in file.message_types_by_name.values())
    assert total == 311


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_has_its_published_numbers(version: str) -> None:
    request = POOL.FindMessageTypeByName(f"grpc.reflection.{version}.ServerReflectionRequest")
    response = POOL.FindMessageTypeByName(f"grpc.reflection.{version}.ServerReflectionResponse")
    assert {field.name: field.number for field in request.fields} == {
        "host": 1,
        "file_by_filename": 3,
        "file_containing_symbol": 4,
        "file_containing_extension": 5,
        "all_extension_numbers_of_type": 6,
        "list_services": 7,
    }
    assert {field.name: field.number for field in response.fields} == {
        "valid_host": 1,
        "original_request": 2,
        "file_descriptor_response": 4,
        "all_extension_numbers_response": 5,
        "list_services_response": 6,
        "error_response": 7,
    }


def test_messages_are_upb_and_share_a_process_with_the_client() -> None:
    assert api_implementation.Type() == "upb"
    ours, theirs = ModelInferRequest, service_pb2.ModelInferRequest
    assert ours.DESCRIPTOR is not theirs.DESCRIPTOR
    data = theirs(model_name="simple", raw_input_contents=[b"x"]).SerializeToString()
    assert ours.FromString(data).SerializeToString() == data


def test_message_class_refuses_unknown_names() -> None:
    assert message_class("inference.ModelReadyRequest").DESCRIPTOR.name == "ModelReadyRequest"
    with pytest.raises(KeyError):
        message_class("inference.NoSuchMessage")


def test_committed_code_matches_the_proto_files(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    pytest.importorskip("black", reason="betterproto[compiler] is not installed")
    from tools import generate_protos

    fresh = tmp_path / "generated"
    fresh.mkdir()
    generate_protos.generate(fresh)
    assert generate_protos.stale(fresh) == []

    # And the comparison can tell: a file that differs, and one that is missing.
    (fresh / "inference" / "__init__.py").write_text("different = True\n", "utf-8")
    (fresh / "descriptors.binpb").unlink()
    assert generate_protos.stale(fresh) == ["descriptors.binpb", "inference/__init__.py"]


def test_the_descriptor_set_holds_no_source_text() -> None:
    """Comments in a .proto file must not change what is generated."""
    path = ROOT / "protocol" / "proto" / "generated" / "descriptors.binpb"
    files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    assert len(files) == len(list((ROOT / "protocol" / "proto").glob("*.proto")))
    assert not any(file.HasField("source_code_info") for file in files)


def test_generated_services_import_without_warnings() -> None:
    names = ("inference", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha")
    code = "; ".join(f"import protocol.proto.generated.{name}" for name in names)
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_generated_services_map_every_method() -> None:
    assert len(inference.GrpcInferenceServiceBase().__mapping__()) == 20
    assert len(health.HealthBase().__mapping__()) == 2
    assert len(reflection_v1.ServerReflectionBase().__mapping__()) == 1
    assert len(reflection_v1alpha.ServerReflectionBase().__mapping__()) == 1
