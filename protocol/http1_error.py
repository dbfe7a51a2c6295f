"""The one HTTP-level failure: a status that Triton's status codes cannot spell.

A restricted, unknown or mistyped route, a malformed head, a body over its limit. What goes wrong
inside a request that was understood is a `protocol.status.ServerError` instead.
"""

from __future__ import annotations

from protocol.status import ServerError

Headers = tuple[tuple[str, str], ...]
"""Header lines of a response, in order."""


class HttpError(Exception):
    """Answer `status` with `{"error": message}` and these extra header lines."""

    __slots__ = ("headers", "message", "status")

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    @classmethod
    def of(cls, error: ServerError) -> HttpError:
        """A `ServerError` as HTTP spells it."""
        return cls(error.http_status, error.message)
