"""gRPC server reflection, v1 and v1alpha: descriptors for tools such as grpcurl.

Owns the answers; they come from the descriptor pool alone and say nothing about this server but
which services it has. Triton offers no reflection, and no client of its needs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import betterproto
from google.protobuf.descriptor import FileDescriptor
from grpclib.const import Status

from protocol.proto.generated.grpc.reflection import v1, v1alpha
from protocol.proto.messages import POOL


class Reflection(v1.ServerReflectionBase):
    """The v1 service. `services` are the full names that it lists."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)

    async def server_reflection_info(
        self, server_reflection_request_iterator: AsyncIterator[v1.ServerReflectionRequest]
    ) -> AsyncIterator[v1.ServerReflectionResponse]:
        async for request in server_reflection_request_iterator:
            yield self.answer(request)

    def answer(self, request: v1.ServerReflectionRequest) -> v1.ServerReflectionResponse:
        """What one question gets; a question about something unknown gets an error response."""
        response = v1.ServerReflectionResponse(request.host, request)
        kind, name = betterproto.which_one_of(request, "message_request")
        try:
            match kind:
                case "list_services":
                    names = [v1.ServiceResponse(each) for each in self._services]
                    response.list_services_response = v1.ListServiceResponse(names)
                case "file_by_filename":
                    response.file_descriptor_response = _files(POOL.FindFileByName(name))
                case "file_containing_symbol":
                    response.file_descriptor_response = _files(_file_of(name))
                case "all_extension_numbers_of_type":
                    POOL.FindMessageTypeByName(name)
                    # proto3 has no extensions, so every type we know has none.
                    response.all_extension_numbers_response = v1.ExtensionNumberResponse(name)
                case "file_containing_extension":
                    raise KeyError(name)
                case _:
                    response.error_response = _error(Status.INVALID_ARGUMENT, "nothing asked for")
        except KeyError:
            response.error_response = _error(Status.NOT_FOUND, "not found")
        return response


class ReflectionAlpha(v1alpha.ServerReflectionBase):
    """The v1alpha service, which older tools ask: the same messages under other names."""

    def __init__(self, services: Iterable[str]) -> None:
        self._reflection = Reflection(services)

    async def server_reflection_info(
        self, server_reflection_request_iterator: AsyncIterator[v1alpha.ServerReflectionRequest]
    ) -> AsyncIterator[v1alpha.ServerReflectionResponse]:
        async for request in server_reflection_request_iterator:
            question = v1.ServerReflectionRequest().parse(bytes(request))
            answer = self._reflection.answer(question)
            yield v1alpha.ServerReflectionResponse().parse(bytes(answer))


def _file_of(symbol: str) -> FileDescriptor:
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # a method is a symbol to clients, but not to protobuf
        return POOL.FindMethodByName(symbol).containing_service.file


def _files(file: FileDescriptor) -> v1.FileDescriptorResponse:
    """A file and, after it, every file that it imports, each once."""
    files = {file.name: file}
    pending = [file]
    while pending:
        for imported in pending.pop().dependencies:
            if imported.name not in files:
                files[imported.name] = imported
                pending.append(imported)
    return v1.FileDescriptorResponse([each.serialized_pb for each in files.values()])


def _error(status: Status, message: str) -> v1.ErrorResponse:
    return v1.ErrorResponse(status.value, message)
