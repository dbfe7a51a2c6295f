"""grpclib's service contract without its transport: what a gRPC call is, apart from its bytes.

Owns the route table of the services that betterproto generated, the `Stream` that a transport
implements so that those services run on it unchanged, and the text forms of timeouts, metadata
and status messages. It reads no clock: a timeout stays a number of seconds until the edge turns
it into an instant.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast
from urllib.parse import quote, unquote

import betterproto
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from protocol.proto.messages import POOL, message_class
from protocol.status import ServerError, internal

MODEL_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER: Final = "/inference.GRPCInferenceService/ModelStreamInfer"

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, values as latin-1 text, as the HTTP/2 codec takes and gives them."""

Metadata = tuple[tuple[str, str | bytes], ...]
"""What the caller wrote beside its messages; a `-bin` name has bytes. Names may repeat."""

Request_co = TypeVar("Request_co", covariant=True)
Reply_contra = TypeVar("Reply_contra", contravariant=True)
Reply = TypeVar("Reply", bound=betterproto.Message)


class Stream(Protocol[Request_co, Reply_contra]):
    """The messages of one call, as much of grpclib's `Stream` as generated services use."""

    async def recv_message(self) -> Request_co | None:
        """The next request, or None once the client has half-closed."""

    async def send_message(self, message: Reply_contra) -> None:
        """Send one reply; waits while the client cannot take it."""

    def __aiter__(self) -> AsyncIterator[Request_co]:
        """Every request until the client half-closes."""


class Servable(Protocol):
    """What every service base that betterproto or grpclib generates has."""

    def __mapping__(self) -> Mapping[str, Handler]:
        """Path → the method that serves it."""


@dataclass(frozen=True, slots=True)
class JsonReply:
    """A reply told by the JSON that REST answers with, for protobuf to write.

    The statistics of one model cost it 0.09 ms, where betterproto takes 1.35: long enough for
    everybody else to notice, since clients ask for them in the middle of their load.
    """

    body: Mapping[str, object]


def json_reply(reply_type: type[Reply], body: Mapping[str, object]) -> Reply:  # noqa: ARG001
    """What a service that promises `reply_type` replies with; only `Route.encode` looks into it."""
    return cast("Reply", JsonReply(body))


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one service. `func` serves a whole call, reading and writing its stream."""

    path: str
    cardinality: Cardinality
    request_type: type[betterproto.Message]
    reply_type: type[betterproto.Message]
    func: Callable[[Stream[betterproto.Message, betterproto.Message]], Awaitable[None]]
    wire_request: type[Message]  # what `request_type` is to protobuf
    wire_reply: type[Message]  # and `reply_type`

    def decode(self, data: bytes | bytearray | memoryview) -> betterproto.Message:
        """A request off the wire. Raises INTERNAL when the bytes are no such message."""
        try:
            message = self.wire_request.FromString(bytes(data))
        except DecodeError:
            raise internal("Exception deserializing request!") from None
        # betterproto takes a message that was cut short for a whole one, and trips over groups;
        # of what protobuf has read and written again it gets to see neither.
        message.DiscardUnknownFields()
        return self.request_type().parse(message.SerializeToString())

    def encode(self, reply: betterproto.Message | JsonReply) -> bytes:
        if isinstance(reply, JsonReply):
            message = json_format.ParseDict(
                dict(reply.body), self.wire_reply(), ignore_unknown_fields=True
            )
            return message.SerializeToString()
        assert isinstance(reply, self.reply_type), "a method replies with its own reply type"
        return bytes(reply)


def routes(services: Iterable[Servable]) -> dict[str, Route]:
    """Path → route for every method of every service.

    Raises ValueError if two services claim one path, KeyError for a method that no .proto file of
    ours describes.
    """
    table: dict[str, Route] = {}
    for service in services:
        for path, handler in service.__mapping__().items():
            if path in table:
                raise ValueError(f"two services claim the path {path}")
            method = POOL.FindMethodByName(path[1:].replace("/", "."))
            table[path] = Route(
                path,
                handler.cardinality,
                handler.request_type,
                handler.reply_type,
                handler.func,
                message_class(method.input_type.full_name),
                message_class(method.output_type.full_name),
            )
    return table


# ---- timeouts ----------------------------------------------------------------------------------

_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNIT_SECONDS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def parse_timeout(value: str) -> float:
    """A `grpc-timeout` in seconds. Raises INTERNAL, as gRPC servers do, when it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise internal(f"malformed grpc-timeout '{value}'")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


# ---- metadata ----------------------------------------------------------------------------------

# What belongs to the transport and is no business of a service.
_TRANSPORT: Final = frozenset({"te", "content-type", "content-length"})
_KEY: Final = re.compile(r"[0-9a-z_.\-]+", re.ASCII)
_VALUE: Final = re.compile(r"[ -~]*")


def decode_metadata(headers: Iterable[tuple[str, str]]) -> Metadata:
    """The metadata among a call's headers, in order. Raises INTERNAL for a `-bin` value that is
    not base64; several such values may share a header, separated by commas."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name in _TRANSPORT or name.startswith("grpc-"):
            continue
        if name.endswith("-bin"):
            metadata.extend((name, _decode_binary(name, each)) for each in value.split(","))
        else:
            metadata.append((name, value))
    return tuple(metadata)


def _decode_binary(name: str, value: str) -> bytes:
    stripped = value.strip().rstrip("=")
    try:
        return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise internal(f"metadata '{name}' is not base64") from None


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """Metadata as headers. Raises ValueError for a name or value that gRPC does not allow, and
    for text under a `-bin` name or bytes under another."""
    headers: list[tuple[str, str]] = []
    for name, value in metadata:
        if name in _TRANSPORT or name.startswith("grpc-") or not _KEY.fullmatch(name):
            raise ValueError(f"metadata name {name!r} is not allowed")
        if name.endswith("-bin") != isinstance(value, bytes):
            raise ValueError(f"metadata {name!r} has the wrong kind of value")
        if isinstance(value, bytes):
            headers.append((name, base64.b64encode(value).rstrip(b"=").decode("ascii")))
        elif _VALUE.fullmatch(value):
            headers.append((name, value))
        else:
            raise ValueError(f"metadata {name!r} has a value that is not printable ASCII")
    return tuple(headers)


# ---- status ------------------------------------------------------------------------------------

# Printable ASCII but the percent sign, which introduces every other octet.
_UNESCAPED: Final = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))


def encode_message(message: str) -> str:
    """A status message as the value of `grpc-message`: UTF-8, percent-encoded."""
    if message.isascii() and message.isprintable() and "%" not in message:
        return message
    return quote(message, safe=_UNESCAPED, errors="replace")


def decode_message(value: str) -> str:
    return unquote(value, errors="replace")


def status_of(error: ServerError | GRPCError) -> tuple[int, str]:
    """The `grpc-status` and the encoded `grpc-message` with which an error ends its call."""
    if isinstance(error, ServerError):
        return error.grpc_status, encode_message(error.message)
    return error.status.value, encode_message(error.message or "")


def trailers(error: ServerError | GRPCError | None = None) -> Headers:
    """The trailers of a call that ended with `error`, or well."""
    status, message = status_of(error) if error is not None else (Status.OK.value, "")
    pairs = (("grpc-status", str(status)), ("grpc-message", message))
    return pairs if message else pairs[:1]
