"""What each REST operation does: decode, ask the core, encode. No socket, no connection.

Owns the codecs of the REST port. Inference is split into two synchronous halves, `decode_infer` and
`encode_infer`, because its connection waits in between; every other operation is one `run`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.calls import Calls
from actors.control_plane import ControlPlane
from actors.model_index import ServingVersion
from actors.shared_memory import SharedMemory
from protocol import routes
from protocol.http1 import HttpRequest
from protocol.http1_error import Headers, HttpError
from protocol.http1_response import (
    JSON_HEADERS,
    NO_HEADERS,
    Buffer,
    encode_error,
    encode_response,
    error_body,
)
from protocol.http_compression import compress_response, decode_body
from protocol.inference import InferRequest, InferResponse, ResponsePlan
from protocol.restriction import RestrictedApis
from protocol.status import ServerError, unsupported
from protocol.v2_json import InferDecoder
from protocol.v2_json_response import InferEncoder, decoupled_over_http


@dataclass(frozen=True, slots=True, eq=False)
class InferExchange:
    """An inference between its two halves."""

    serving: ServingVersion
    request: InferRequest
    plan: ResponsePlan
    accept_encoding: str


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A response that is ready to be written."""

    status: int
    headers: Headers = NO_HEADERS
    parts: Sequence[Buffer] = ()


class HttpOperations:
    """The REST protocol's side of every operation."""

    def __init__(
        self,
        *,
        calls: Calls,
        control_plane: ControlPlane,
        regions: SharedMemory,
        decoder: InferDecoder,
        encoder: InferEncoder,
        restricted: RestrictedApis,
        max_input_size: int,
    ) -> None:
        self._calls = calls
        self._control_plane = control_plane
        self._regions = regions
        self._decoder = decoder
        self._encoder = encoder
        self._restricted = restricted
        self._max_input_size = max_input_size

    def dispatch(self, request: HttpRequest) -> routes.Operation:
        """Which operation is asked for. Raises HttpError."""
        return routes.dispatch(request.method, request.path, request.headers, self._restricted)

    def decode_infer(self, operation: routes.Infer, request: HttpRequest) -> InferExchange:
        """Find the model, then read the body, in the order in which Triton complains.

        Raises ServerError.
        """
        serving = self._calls.index.value.find(operation.model, operation.version)
        if serving.decoupled:
            raise decoupled_over_http()
        headers = request.headers
        decoded, plan = self._decoder.decode(
            operation.model,
            operation.version,
            decode_body(request.body, headers.get("content-encoding"), self._max_input_size),
            headers.get("inference-header-content-length"),
            header_lines=request.head.header_lines,
        )
        return InferExchange(serving, decoded, plan, headers.get("accept-encoding", ""))

    def encode_infer(
        self, exchange: InferExchange, response: InferResponse, *, keep_alive: bool
    ) -> list[Buffer]:
        """The whole reply; an output that cannot be rendered as asked makes it an error."""
        serving = exchange.serving
        try:
            headers, parts = self._encoder.encode(
                response,
                exchange.plan,
                labels=serving.labels.get,
                has_batch_dim=serving.has_batch_dimension,
            )
        except ServerError as error:
            return self.error(error, keep_alive=keep_alive)
        if exchange.accept_encoding:
            headers, parts = compress_response(headers, parts, exchange.accept_encoding)
        return encode_response(200, headers, parts, keep_alive=keep_alive)

    def error(self, error: ServerError, *, keep_alive: bool) -> list[Buffer]:
        """The reply to a request that failed."""
        return encode_error(HttpError.of(error), keep_alive=keep_alive)

    async def run(self, operation: routes.Operation, request: HttpRequest) -> Answer:
        """Any operation but inference; never raises for what a client can cause."""
        try:
            return await self._run(operation, request)
        except HttpError as error:
            return Answer(
                error.status, (*JSON_HEADERS, *error.headers), [error_body(error.message)]
            )
        except ServerError as error:
            return Answer(error.http_status, JSON_HEADERS, [error_body(error.message)])

    async def _run(self, operation: routes.Operation, request: HttpRequest) -> Answer:
        control = self._control_plane
        match operation:
            case routes.ServerLive():
                return _probe(control.is_live())
            case routes.ServerReady():
                return _probe(control.is_ready())
            case routes.ModelReady(model, version):
                if await control.is_model_ready(model, version):
                    return Answer(200)
                return Answer(400, JSON_HEADERS, [error_body("Model version not ready")])
            case routes.ServerMetadata():
                return _json(control.server_metadata())
            case routes.ModelMetadata(model, version):
                return _json(control.model_metadata(model, version))
            case routes.ModelConfig(model, version):
                serving = control.model_config(model, version)
                return Answer(200, JSON_HEADERS, [serving.config_json.encode()])
            case routes.ModelStatistics(model, version):
                return _json(await control.model_statistics(model, version))
            case _:
                raise unsupported(f"{type(operation).__name__} is not supported")


def _probe(healthy: bool) -> Answer:
    """Health probes have no body, whatever they say."""
    return Answer(200 if healthy else 400)


def _json(value: Mapping[str, object] | Sequence[object]) -> Answer:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Answer(200, JSON_HEADERS, [text.encode("utf-8", "surrogateescape")])
