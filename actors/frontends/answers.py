"""Control calls that come to a frontend process: forwarded as they are, and answered in the core.

`Forwarded` is the frontend's side: what the REST port runs and the routes of the gRPC port, each of
which asks the core. `Answers` is the core's: the same operations and services as without frontend
processes. Owns how a call and its answer travel: an object of a few words, and the body's bytes.
Services that only describe the port itself, such as reflection, are answered where they are asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, cast, get_args

import betterproto
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from actors.frontends.records import Rest
from actors.grpc.services import SERVICES
from actors.grpc.streams import UnaryStream
from actors.http.control import Answer, ControlOperation, HttpControl
from protocol.grpc_reflection import Reflection, ReflectionAlpha
from protocol.grpc_service import Route, Stream, routes
from protocol.http1_response import JSON_HEADERS, error_body
from protocol.proto.generated import inference as pb
from protocol.proto.generated.grpc.health import v1 as health
from protocol.status import ServerError, StatusCode
from repo.backends.python.layout import WireError

Ask = Callable[[Rest, bytes], Awaitable[tuple[Rest, bytes]]]

_OPERATIONS: Final[Mapping[str, type[ControlOperation]]] = {
    kind.__name__: kind for kind in get_args(ControlOperation)
}


class Forwarded:
    """The frontend's side."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def run(self, operation: ControlOperation, body: bytes | memoryview) -> Answer:
        """The core's answer to a REST operation. Raises UNAVAILABLE, as an answer, without it."""
        question = {
            "http": type(operation).__name__,
            "fields": dataclasses.asdict(operation),
        }
        answer, content = await self._ask(question, bytes(body))
        headers = cast("Sequence[tuple[str, str]]", answer["headers"])
        parts = [content] if content else []
        return Answer(
            cast("int", answer["status"]), tuple((name, text) for name, text in headers), parts
        )

    def routes(self) -> Mapping[str, Route]:
        """The gRPC port's, without the two inference methods' doing."""
        own = routes(
            (
                pb.GrpcInferenceServiceBase(),
                health.HealthBase(),
                Reflection(SERVICES),
                ReflectionAlpha(SERVICES),
            )
        )
        return {
            path: dataclasses.replace(route, func=partial(self._forward, route))
            if route.cardinality is Cardinality.UNARY_UNARY
            else route
            for path, route in own.items()
        }

    async def _forward(
        self, route: Route, stream: Stream[betterproto.Message, betterproto.Message]
    ) -> None:
        request = await stream.recv_message()
        answer, content = await self._ask({"grpc": route.path}, bytes(request or b""))
        if "status" in answer:
            raise ServerError(StatusCode(answer["status"]), cast("str", answer["message"]))
        if "grpc_status" in answer:
            raise GRPCError(Status(answer["grpc_status"]), cast("str", answer["message"]))
        await stream.send_message(route.reply_type().parse(content))


class Answers:
    """The core's side."""

    def __init__(self, http: HttpControl, grpc: Mapping[str, Route]) -> None:
        """`grpc` are the routes of the services, by their paths."""
        self._http = http
        self._grpc = grpc

    async def answer(self, question: Rest, blob: bytes) -> tuple[Rest, bytes]:
        """What a frontend sends its client. Raises WireError for a question that makes no sense."""
        if "http" in question:
            return await self._answer_http(question, blob)
        route = self._grpc.get(str(question.get("grpc")))
        if route is None or route.cardinality is not Cardinality.UNARY_UNARY:
            raise WireError(f"a frontend asks for {question.get('grpc')}")
        return await self._answer_grpc(route, blob)

    def failure(self, question: Rest) -> tuple[Rest, bytes]:
        """What a client is told of a defect of ours."""
        if "http" in question:
            headers = [list(header) for header in JSON_HEADERS]
            return {"status": 500, "headers": headers}, error_body("internal server error")
        return {"grpc_status": Status.UNKNOWN.value, "message": "internal server error"}, b""

    async def _answer_http(self, question: Rest, blob: bytes) -> tuple[Rest, bytes]:
        try:
            kind = _OPERATIONS[str(question["http"])]
            operation = kind(**cast("dict[str, str]", question["fields"]))  # type: ignore[arg-type]  # a wrong one is a TypeError
        except (KeyError, TypeError) as error:
            raise WireError(f"a frontend asks for {question['http']}") from error
        answer = await self._http.run(operation, blob)
        headers = [list(header) for header in answer.headers]
        return {"status": answer.status, "headers": headers}, b"".join(answer.parts)

    async def _answer_grpc(self, route: Route, blob: bytes) -> tuple[Rest, bytes]:
        try:
            stream = UnaryStream(route.decode(blob))
            await route.func(stream)
        except ServerError as error:
            return {"status": error.status.value, "message": error.message}, b""
        except GRPCError as error:
            return {"grpc_status": error.status.value, "message": error.message or ""}, b""
        assert stream.reply is not None, "a unary method replies"
        return {}, route.encode(stream.reply)
