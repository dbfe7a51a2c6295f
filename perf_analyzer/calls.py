"""One request under way, as codecs and loads see it.

Owns what is known of a request between its start and its last response. It never decides what
comes next: its `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from perf_analyzer.requests import Payload

Buffer = bytes | bytearray | memoryview

# A response as it came: the length of its JSON part (-1 if unknown, or in gRPC), and its bytes.
Body = tuple[int, Buffer]

NOT_SCHEDULED: Final = -1.0


class Stamped(Protocol):
    """Who wants to know when its bytes went out."""

    begun_at: float


class Load(Protocol):
    """Who hears how calls end."""

    def completed(self, call: Call, now: float) -> None:
        """The call has its last response; it may be used for another request at once."""

    def failed(self, call: Call, text: str) -> None:
        """The call got an error instead of a response."""


class Call:
    """A place for one outstanding request; used again for the next when that one has ended.

    Instants are seconds of the run's clock. `begun_at` is stamped when the bytes go out; `due_at`
    is when the schedule wanted that, NOT_SCHEDULED in a closed loop.
    """

    __slots__ = (
        "begun_at",
        "bodies",
        "due_at",
        "ends_sequence",
        "first_at",
        "last_at",
        "load",
        "number",
        "payload",
        "request_id",
        "response_count",
        "response_times",
        "sequence_id",
        "sequence_slot",
        "starts_sequence",
    )

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number  # the place it stands for: 0, 1, 2, …
        self.begun_at = 0.0
        self.due_at = NOT_SCHEDULED
        self.first_at = 0.0  # of the first response that was not empty
        self.last_at = 0.0  # of the last one
        self.response_count = 0  # responses that were not empty
        self.payload: Payload | None = None
        self.request_id = ""
        self.sequence_id = 0
        self.sequence_slot = 0
        self.starts_sequence = False
        self.ends_sequence = False
        # Kept only for an export or a validation: every response's instant and bytes.
        self.response_times: list[float] | None = None
        self.bodies: list[Body] | None = None

    def begin(self, payload: Payload, *, keeps: bool) -> None:
        """Forget the last request; `keeps` says whether responses are wanted afterwards."""
        self.payload = payload
        self.response_count = 0
        if keeps:
            self.response_times = []
            self.bodies = []

    def respond(self, body: Body, now: float, *, empty: bool = False) -> None:
        """One more response. An empty one only says that there are no more."""
        if not empty:
            if not self.response_count:
                self.first_at = now
            self.response_count += 1
            self.last_at = now
        if self.bodies is not None and self.response_times is not None:
            self.bodies.append(body)
            self.response_times.append(now)

    # A unary gRPC call is its own stream: what follows is called by the HTTP/2 codec.

    def on_message(self, message: Buffer, now: float) -> None:
        self.respond((-1, message), now)

    def on_end(self, status: int, text: str, now: float) -> None:
        if status:
            self.load.failed(self, text)
            return
        if not self.response_count:  # its message was not kept
            self.response_count = 1
            self.first_at = self.last_at = now
        self.load.completed(self, now)

    def on_failure(self, text: str) -> None:
        self.load.failed(self, text)
