"""Responses that do not come from `execute`'s return: late ones and those of decoupled models.

A `Reply` is what is left of a request once `execute` has returned: which responses may still
follow, and how many the server has room for. The model holds it through its request and its
senders; when the last of these is dropped without a final response the server is told so, or the
client would wait for ever.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import objects, wire
from .arena import ArenaFullError
from .errors import TritonModelException, expect
from .extras import pack_error
from .host import Host
from .layout import WireError
from .objects import InferenceResponse
from .records import FAILED, LATE, Record

if TYPE_CHECKING:
    from .tensor import Tensor

COMPLETE_FINAL = 1


def record_of(response: InferenceResponse | None, requested: tuple[str, ...]) -> Record:
    """A response as a record; outputs that the client did not ask for are left out."""
    if response is None:
        return None, (), LATE, b""
    error = response.error()
    if error is not None:
        return None, (), FAILED, pack_error(error.code(), error.message())
    tensors: list[Tensor] = response._tensors
    if requested:
        tensors = [tensor for tensor in tensors if tensor.name() in requested]
    parameters = response._parameters
    return (
        ((), tuple([(t._name, t._datatype, t._shape) for t in tensors])),
        [t._raw() for t in tensors],
        0,
        b"" if parameters == "{}" else parameters.encode(),
    )


class Reply:
    """The responses that one request may still get."""

    def __init__(self, host: Host, number: int, requested: tuple[str, ...]) -> None:
        self._host = host
        self._number = number
        self._requested = requested
        self._room = threading.Condition()
        self._window = wire.RESPONSE_WINDOW
        self.sent = 0
        self.closed = False
        host.replies[number] = self

    def __del__(self) -> None:
        if not self.closed:
            self._host.send_soon(wire.Dropped(self._number))
        self._host.cancelled.discard(self._number)

    def close(self) -> None:
        """The request is answered, or has failed, by way of `execute`."""
        self.closed = True

    def check(self, response: InferenceResponse | None, flags: int) -> None:
        """Raise TritonModelException when `send` may not be called like this, or not now."""
        if not self._host.decoupled:
            if response is not None and self.sent > 0:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than "
                    "one response."
                )
            if response is None and flags == COMPLETE_FINAL and self.sent == 0:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete "
                    "final before sending a response."
                )
        if self.closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")

    def send(self, response: InferenceResponse | None, flags: int) -> None:
        """Send a response, waiting until the server has room for it."""
        if flags not in {0, COMPLETE_FINAL}:
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if flags == 0 and response is None:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        with self._room:
            self.check(response, flags)
            while self._window <= 0 and not self.is_cancelled():
                self._room.wait()
                # Another thread may have sent the final response meanwhile.
                self.check(response, flags)
            final = flags == COMPLETE_FINAL
            if final or not self.is_cancelled():  # else nobody would read it
                record = record_of(response, self._requested)
                prefix = wire.FINAL.pack(final)
                try:
                    self._host.send_records(wire.RESPONSE, self._number, lambda: prefix, [record])
                except (WireError, ArenaFullError) as error:
                    raise TritonModelException(f"Unable to send response. {error}") from error
            self._window -= 1
            self.sent += 1
            self.closed = final

    def grant(self, count: int) -> None:
        """The server has passed `count` responses on."""
        with self._room:
            self._window += count
            self._room.notify_all()

    def wake(self) -> None:
        """The request was cancelled: nobody needs to wait for room."""
        with self._room:
            self._room.notify_all()

    def is_cancelled(self) -> bool:
        return self._number in self._host.cancelled


class InferenceResponseSender:
    """`pb_utils`' sender: gives responses to one request from any thread, at any time."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response; with TRITONSERVER_RESPONSE_COMPLETE_FINAL none may follow."""
        if response is not None:
            expect(response, objects.InferenceResponse, "response")
        expect(flags, int, "flags")
        self._reply.send(response, flags)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for this request any longer; a live query."""
        return self._reply.is_cancelled()
