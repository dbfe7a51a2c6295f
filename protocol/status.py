"""The outcome of a request that failed, and how each protocol spells it.

Owns the one table from Triton's status codes to HTTP statuses, gRPC statuses and the words that
Triton prints before a message. Everything that can go wrong with one request is a `ServerError`;
anything else that is raised is a defect and ends the actor that raised it.
"""

from __future__ import annotations

import enum
from typing import Final


class StatusCode(enum.Enum):
    """Triton's status codes, plus the one that only a gRPC deadline can cause."""

    UNKNOWN = "Unknown"
    INTERNAL = "Internal"
    NOT_FOUND = "Not found"
    INVALID_ARG = "Invalid argument"
    UNAVAILABLE = "Unavailable"
    UNSUPPORTED = "Unsupported"
    ALREADY_EXISTS = "Already exists"
    CANCELLED = "Cancelled"
    DEADLINE_EXCEEDED = "Deadline exceeded"


HTTP_STATUS: Final[dict[StatusCode, int]] = {
    StatusCode.UNKNOWN: 400,
    StatusCode.INTERNAL: 500,
    StatusCode.NOT_FOUND: 404,
    StatusCode.INVALID_ARG: 400,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.UNSUPPORTED: 501,
    StatusCode.ALREADY_EXISTS: 400,
    StatusCode.CANCELLED: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
}

# The numbers are those of google.rpc.Code.
GRPC_STATUS: Final[dict[StatusCode, int]] = {
    StatusCode.UNKNOWN: 2,
    StatusCode.INTERNAL: 13,
    StatusCode.NOT_FOUND: 5,
    StatusCode.INVALID_ARG: 3,
    StatusCode.UNAVAILABLE: 14,
    StatusCode.UNSUPPORTED: 12,
    StatusCode.ALREADY_EXISTS: 6,
    StatusCode.CANCELLED: 1,
    StatusCode.DEADLINE_EXCEEDED: 4,
}


class ServerError(Exception):
    """One request failed; `status` says whose fault it is and `message` is the wire text."""

    __slots__ = ("message", "status")

    def __init__(self, status: StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        """Triton's form of a status in a log line or in another message."""
        return f"{self.status.value}: {self.message}"

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.status]

    @property
    def grpc_status(self) -> int:
        return GRPC_STATUS[self.status]


def unknown(message: str) -> ServerError:
    return ServerError(StatusCode.UNKNOWN, message)


def internal(message: str) -> ServerError:
    return ServerError(StatusCode.INTERNAL, message)


def not_found(message: str) -> ServerError:
    return ServerError(StatusCode.NOT_FOUND, message)


def invalid_arg(message: str) -> ServerError:
    return ServerError(StatusCode.INVALID_ARG, message)


def unavailable(message: str) -> ServerError:
    return ServerError(StatusCode.UNAVAILABLE, message)


def unsupported(message: str) -> ServerError:
    return ServerError(StatusCode.UNSUPPORTED, message)


def already_exists(message: str) -> ServerError:
    return ServerError(StatusCode.ALREADY_EXISTS, message)


def cancelled() -> ServerError:
    """A cancelled request has no message: Triton sends the empty string."""
    return ServerError(StatusCode.CANCELLED, "")


def deadline_exceeded() -> ServerError:
    """The caller's own deadline passed; the text is the one gRPC's C core uses."""
    return ServerError(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def request_prefix(request_id: str) -> str:
    """The `[request id: ID] ` with which many of Triton's messages start."""
    return f"[request id: {request_id or '<id_unknown>'}] "


# Ids come from clients; what a log shows of one is enough to find it.
MAX_LOGGED_ID_CHARACTERS: Final = 128


def logged_prefix(request_id: str) -> str:
    """`request_prefix` for the log, where a client's text may not take all the room."""
    if len(request_id) > MAX_LOGGED_ID_CHARACTERS:
        request_id = request_id[:MAX_LOGGED_ID_CHARACTERS] + "…"
    return request_prefix(request_id)
