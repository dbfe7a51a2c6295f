"""What a call's head says about the call, derived once per distinct head.

Owns the operator's settings for the gRPC port, the terms of calls, and the memory of heads seen
before. It never looks at a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from protocol.api_keys import Guard, Reason, Refused
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
from protocol.restriction import Category
from protocol.status import ServerError, StatusCode, unavailable
from protocol.v2_json_parameters import HeaderForwarding

# Responses that a decoupled model may be ahead of the one who reads them.
RESPONSE_WINDOW: Final = 8
# What has been derived from request heads is remembered for as many as the codec remembers.
MAX_KNOWN_HEADS: Final = 64

# The headers that bear on a call's terms if the operator neither restricts nor forwards anything,
# besides those of binary metadata, which must be base64.
_TELLING: Final = frozenset(
    ("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "triton_grpc_error")
)

# Metadata with which a client asks that the first failed request ends its stream.
ERRORS_END_STREAM: Final = ("triton_grpc_error", "true")


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What the operator decides about every connection."""

    limits: Http2Limits
    guard: Guard
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
    refusal: Refusal | GRPCError | None = None

    def forward(self, request: InferRequest) -> None:
        """Give a request the metadata that are forwarded. Raises ServerError."""
        if self.bad_metadata is not None:
            raise ServerError(self.bad_metadata.status, self.bad_metadata.message)
        if self.forwarded is not None:
            request.parameters.update(self.forwarded)


class TermsReader:
    """Derives the terms of one connection's calls.

    It remembers them by head, for clients that repeat themselves, and by what in a head bears on
    them, for those that send something of their own with each call.
    """

    def __init__(self, settings: GrpcSettings) -> None:
        self._settings = settings
        self._every_header_tells = settings.forwarding.is_on or not settings.guard.is_open
        self._known: dict[RequestHead, Terms] = {}
        self._derived: dict[tuple[Category | None, Headers], Terms] = {}
        self._keyring = settings.guard.keyring
        self._epoch = self._keyring.epoch  # of the keys by which the terms above were derived

    def read(self, head: RequestHead) -> Terms:
        """The terms of a call with this head."""
        if self._epoch != self._keyring.epoch:
            self._epoch = self._keyring.epoch
            self._known.clear()
            self._derived.clear()
        terms = self._known.get(head)
        if terms is None:
            if len(self._known) >= MAX_KNOWN_HEADS:
                self._known.clear()
            terms = self._known[head] = self._by_what_tells(head)
        return terms

    def _by_what_tells(self, head: RequestHead) -> Terms:
        headers = head.headers
        if not self._every_header_tells:
            headers = tuple([each for each in headers if _tells(each[0])])
        key = (self._settings.categories.get(head.path), headers)
        terms = self._derived.get(key)
        if terms is None:
            if len(self._derived) >= MAX_KNOWN_HEADS:
                self._derived.clear()
            terms = self._derived[key] = self._derive(*key)
        return terms

    def _derive(self, category: Category | None, headers: Headers) -> Terms:
        settings = self._settings
        if category is not None:
            refused = settings.guard.refusal(category, dict(headers))
            if refused is not None:
                return Terms(refusal=_refusal(refused))
        timeout = math.inf
        try:
            for name, value in headers:
                if name == "grpc-timeout":
                    timeout = parse_timeout(value)
            encoding = request_encoding(headers)
        except ServerError as error:
            # Whoever used an algorithm that we do not know is told which ones we do.
            unknown = error.status is StatusCode.UNSUPPORTED
            advice = (("grpc-accept-encoding", ACCEPTED),) if unknown else ()
            return Terms(refusal=Refusal(error, advice))
        forwarded, bad_metadata = self._forwarded(headers)
        return Terms(
            timeout,
            encoding,
            response_encoding(settings.compression, headers),
            forwarded,
            bad_metadata,
            ERRORS_END_STREAM in headers,
        )

    def _forwarded(self, headers: Headers) -> tuple[Mapping[str, str] | None, ServerError | None]:
        request = InferRequest("")
        try:
            metadata = decode_metadata(headers)
            lines = [(name, value) for name, value in metadata if isinstance(value, str)]
            self._settings.forwarding.apply(request, lines)
        except ServerError as error:
            return None, error
        parameters = {name: str(value) for name, value in request.parameters.items()}
        return parameters or None, None


def _refusal(refused: Refused) -> Refusal | GRPCError:
    match refused.reason:
        case Reason.RESTRICTED:
            return Refusal(unavailable(refused.message))
        case Reason.NO_KEY:
            return GRPCError(Status.UNAUTHENTICATED, refused.message)
        case Reason.OTHER_KEY:
            return GRPCError(Status.PERMISSION_DENIED, refused.message)


def _tells(name: str) -> bool:
    return name in _TELLING or name.endswith("-bin")
