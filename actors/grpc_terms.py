"""What a call's head says about the call, derived once per distinct head.

Owns the operator's settings for the gRPC port, the terms of calls, and the memory of heads seen
before. It never looks at a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.grpc_compression import (
    ACCEPTED,
    CompressionLevel,
    request_encoding,
    response_encoding,
)
from protocol.grpc_service import Headers, decode_metadata, parse_timeout
from protocol.http2 import Http2Limits
from protocol.http2_heads import RequestHead
from protocol.inference import InferRequest
from protocol.restriction import Category, RestrictedApis
from protocol.status import ServerError, StatusCode, unavailable
from protocol.v2_json_parameters import HeaderForwarding

# Responses that a decoupled model may be ahead of the one who reads them.
RESPONSE_WINDOW: Final = 8
# What has been derived from request heads is remembered for as many as the codec remembers.
MAX_KNOWN_HEADS: Final = 64

# Metadata with which a client asks that the first failed request ends its stream.
ERRORS_END_STREAM: Final = ("triton_grpc_error", "true")


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What the operator decides about every connection."""

    limits: Http2Limits
    restricted: RestrictedApis
    compression: CompressionLevel = CompressionLevel.NONE
    response_window: int = RESPONSE_WINDOW
    forwarding: HeaderForwarding = field(default_factory=HeaderForwarding)
    categories: Mapping[str, Category] = field(default_factory=dict)  # by method path


class Refusal(ServerError):
    """A call that is refused for its head; `headers` go out with its status."""

    __slots__ = ("headers",)

    def __init__(self, error: ServerError, headers: Headers = ()) -> None:
        super().__init__(error.status, error.message)
        self.headers = headers


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """One call's terms. A `refusal` is said, never raised: it outlives the call."""

    timeout_seconds: float = math.inf
    encoding: str = ""  # of compressed request messages
    reply_encoding: str = ""
    forwarded: Mapping[str, str] | None = None  # metadata that become parameters, if there are any
    bad_metadata: ServerError | None = None  # why the metadata cannot be forwarded
    errors_end_stream: bool = False
    refusal: Refusal | None = None

    def forward(self, request: InferRequest) -> None:
        """Give a request the metadata that are forwarded. Raises ServerError."""
        if self.bad_metadata is not None:
            raise ServerError(self.bad_metadata.status, self.bad_metadata.message)
        if self.forwarded is not None:
            request.parameters.update(self.forwarded)


class TermsReader:
    """Derives the terms of one connection's calls."""

    def __init__(self, settings: GrpcSettings) -> None:
        self._settings = settings
        self._known: dict[RequestHead, Terms] = {}

    def read(self, head: RequestHead) -> Terms:
        """The terms of a call with this head."""
        terms = self._known.get(head)
        if terms is None:
            if len(self._known) >= MAX_KNOWN_HEADS:
                self._known.clear()
            terms = self._known[head] = self._derive(head)
        return terms

    def _derive(self, head: RequestHead) -> Terms:
        settings = self._settings
        category = settings.categories.get(head.path)
        if category is not None:
            text = settings.restricted.refusal(category, dict(head.headers))
            if text is not None:
                return Terms(refusal=Refusal(unavailable(text)))
        timeout = math.inf
        try:
            for name, value in head.headers:
                if name == "grpc-timeout":
                    timeout = parse_timeout(value)
            encoding = request_encoding(head.headers)
        except ServerError as error:
            # Whoever used an algorithm that we do not know is told which ones we do.
            unknown = error.status is StatusCode.UNSUPPORTED
            headers = (("grpc-accept-encoding", ACCEPTED),) if unknown else ()
            return Terms(refusal=Refusal(error, headers))
        forwarded, bad_metadata = self._forwarded(head)
        return Terms(
            timeout,
            encoding,
            response_encoding(settings.compression, head.headers),
            forwarded,
            bad_metadata,
            ERRORS_END_STREAM in head.headers,
        )

    def _forwarded(self, head: RequestHead) -> tuple[Mapping[str, str] | None, ServerError | None]:
        request = InferRequest("")
        try:
            metadata = decode_metadata(head.headers)
            lines = [(name, value) for name, value in metadata if isinstance(value, str)]
            self._settings.forwarding.apply(request, lines)
        except ServerError as error:
            return None, error
        parameters = {name: str(value) for name, value in request.parameters.items()}
        return parameters or None, None
