"""What an HTTP/2 connection tells its frontend.

Owns the event types. Message bytes are given away: the codec keeps no reference to them.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.http2_heads import RequestHead

# A small message is `bytes`; a large one that lay whole in one received chunk is a view of it;
# one that came in pieces is a view of the buffer in which it was put together, aligned at its end.
MessageBytes = bytes | bytearray | memoryview

# One to be sent may also be given in pieces.
OutgoingMessage = MessageBytes | list[bytes | memoryview]


class UnaryCall(NamedTuple):
    """A gRPC call that is whole: its head, its only message, and the client has half-closed.

    Stands for CallOpened + MessageReceived + CallHalfClosed. Always used for a path in
    `unary_paths`, and for other paths if everything came in one go.
    """

    stream_id: int
    head: RequestHead
    compressed: bool
    message: MessageBytes


class CallOpened(NamedTuple):
    """A gRPC call began. `end_stream`: the client half-closed at once, no message will follow."""

    stream_id: int
    head: RequestHead
    end_stream: bool


class MessageReceived(NamedTuple):
    """One whole gRPC message. `compressed`: in the call's `grpc-encoding`. To be acknowledged."""

    stream_id: int
    compressed: bool
    message: MessageBytes


class CallHalfClosed(NamedTuple):
    """The client sends no more on this call and awaits the answer."""

    stream_id: int


class CallReset(NamedTuple):
    """A call that was opened is over, and nothing more can be sent on it.

    `by_peer`: the client cancelled it. Otherwise the codec ended it (and told the client why).
    """

    stream_id: int
    error_code: int
    by_peer: bool


class HttpRequest(NamedTuple):
    """A request that is not gRPC; its body, if any, is discarded. To be answered with
    `send_http_response`, e.g. 415."""

    stream_id: int
    head: RequestHead
    end_stream: bool


class GoAwayReceived(NamedTuple):
    """The client will open no more calls; those it has go on."""

    last_stream_id: int
    error_code: int
    debug: bytes


class PingAcked(NamedTuple):
    """The client answered the `ping` with these eight octets."""

    opaque: bytes


class ConnectionClosed(NamedTuple):
    """The connection is over: write what `take_output` holds, then close the socket.

    Every call still open is over, too. `error_code` 0: drained or ended by the client; else
    `reason` says which rule was broken, or which limit was passed.
    """

    error_code: int
    reason: str


Event = (
    UnaryCall
    | CallOpened
    | MessageReceived
    | CallHalfClosed
    | CallReset
    | HttpRequest
    | GoAwayReceived
    | PingAcked
    | ConnectionClosed
)
