"""The state of one HTTP/1.1 server connection, without its socket.

Owns the bytes of the request that is not whole yet, the limits on them, and the instants by which
they must have come. It is told bytes and the time, and says requests, in order: any number may
arrive in one chunk (pipelining), and the caller must answer them in that order. Replies are made
by `protocol.http1_response`. It never opens, reads, writes or closes anything, and once it has
said an `HttpError` it takes no more bytes: answer, then close.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.http1_chunked import ChunkedBody, body_too_large
from protocol.http1_error import HttpError
from protocol.http1_head import MAX_CONTENT_LENGTH, HeadParser, HttpHead, malformed

# A body up to this size is handed out as `bytes` of its own: the copy costs 2 µs and frees the
# chunk that it came in. Larger ones are views of the buffer that they were collected in.
SMALL_BODY_BYTES: Final = 65536
# What one read from the socket should ask for, at least and at most.
MIN_READ_BYTES: Final = 65536
MAX_READ_BYTES: Final = 1 << 20
# Arrays must start at a multiple of their element size to be used in place; 16 serves all.
_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost. Bytes and seconds."""

    max_head_bytes: int = 32768  # room for large tokens and cookies, as in most servers
    max_header_lines: int = 128
    max_body_bytes: int = MAX_CONTENT_LENGTH  # tensors may be large; the JSON has its own limit
    max_requests_in_flight: int = 128  # pipelined and not answered yet
    head_timeout_seconds: float = 30.0  # from a head's first byte to its last
    body_timeout_seconds: float = 60.0  # for a body, plus its size at the slowest rate allowed
    min_body_bytes_per_second: float = 1024.0
    idle_timeout_seconds: float = 600.0  # between a reply and the next request


class HttpRequest:
    """One complete request. `body` is read-only; a memoryview if larger than SMALL_BODY_BYTES.

    `began_at` is when its head was there; its body may have come later.
    """

    __slots__ = ("began_at", "body", "head")

    def __init__(self, head: HttpHead, body: bytes | memoryview, began_at: float) -> None:
        self.head = head
        self.body = body
        self.began_at = began_at

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def headers(self) -> Mapping[str, str]:
        return self.head.headers

    @property
    def keep_alive(self) -> bool:
        return self.head.keep_alive

    def __repr__(self) -> str:
        return f"HttpRequest({self.head.method} {self.head.path}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class ContinueExpected:
    """The peer waits for `100 Continue` before it sends its body: write `CONTINUE` in turn."""


@dataclass(frozen=True, slots=True)
class IdleTimedOut:
    """Nothing was asked for too long: close without a word."""


HttpEvent = HttpRequest | ContinueExpected | HttpError

_CONTINUE_EXPECTED: Final = ContinueExpected()


class _Phase(enum.Enum):
    HEAD = enum.auto()
    SIZED_BODY = enum.auto()
    CHUNKED_BODY = enum.auto()
    CLOSED = enum.auto()


class Http1Connection:
    """Bytes in, events out. `now` is seconds of any steady clock, the same one throughout."""

    def __init__(
        self, limits: HttpLimits, *, now: float = 0.0, heads: HeadParser | None = None
    ) -> None:
        self._limits = limits
        self._heads = heads or HeadParser(max_header_lines=limits.max_header_lines)
        self._phase = _Phase.HEAD
        self._pending = b""  # an unfinished head, or an unfinished line of a chunked body
        self._head: HttpHead | None = None  # of the request whose body is being received
        self._body = bytearray()
        self._body_end = 0
        self._body_start = 0  # bytes of padding before the body
        self._chunked: ChunkedBody | None = None
        self._in_flight = 0
        self._blocked = False  # `_pending` waits for answers to earlier requests, not for the peer
        self._since = now  # when this phase began: an idle wait, a head or a body
        self.is_closed = False
        """Whether no further request will be said: after an error, or `Connection: close`."""

        self.read_size = MIN_READ_BYTES
        """How many bytes the next read from the socket should ask for."""

    @property
    def requests_in_flight(self) -> int:
        return self._in_flight

    @property
    def wants_data(self) -> bool:
        """False while too many requests wait for their answers: read no more from the socket.

        When `reply_sent` has made it true again, first call `receive(b"", now)`.
        """
        return not self.is_closed and self._in_flight < self._limits.max_requests_in_flight

    @property
    def is_idle(self) -> bool:
        """Whether the peer owes nothing and is owed nothing, so that closing loses nothing."""
        return self._phase is _Phase.HEAD and not self._pending and not self._in_flight

    def receive(self, data: bytes, now: float) -> list[HttpEvent]:
        """Take what came from the socket; an HttpError is always the last event there is."""
        request = self._whole_request(data, now)
        if request is not None:
            return [request]
        events: list[HttpEvent] = []
        try:
            self._receive(data, now, events)
        except HttpError as error:
            self._close()
            events.append(error)
        return events

    def reply_sent(self, now: float) -> None:
        """A request has been answered in full."""
        assert self._in_flight > 0, "every reply answers a request"
        self._in_flight -= 1
        if not self._in_flight and self._phase is _Phase.HEAD and not self._pending:
            self._since = now

    @property
    def next_wake(self) -> float:
        """The instant at which to call `tick`, unless bytes come before; may be infinite."""
        limits = self._limits
        match self._phase:
            case _Phase.CLOSED:
                return math.inf
            case _Phase.HEAD if self._blocked:
                return math.inf
            case _Phase.HEAD if self._pending:
                return self._since + limits.head_timeout_seconds
            case _Phase.HEAD:
                return math.inf if self._in_flight else self._since + limits.idle_timeout_seconds
        received = len(self._chunked.buffer if self._chunked else self._body)
        allowance = received / limits.min_body_bytes_per_second
        return self._since + limits.body_timeout_seconds + allowance

    def tick(self, now: float) -> HttpError | IdleTimedOut | None:
        """What time itself has brought about at `now`, if anything."""
        if now < self.next_wake:
            return None
        phase, pending = self._phase, self._pending
        self._close()
        if phase is _Phase.HEAD and not pending:
            return IdleTimedOut()
        part = "head" if phase is _Phase.HEAD else "body"
        return HttpError(408, f"timed out waiting for the request {part}")

    def _close(self) -> None:
        self._end()
        self._pending = b""
        self._head = self._chunked = None
        self._body = bytearray()

    def _whole_request(self, data: bytes, now: float) -> HttpRequest | None:
        """The one request that `data` is, if its head is a remembered one; else nothing is done.

        That is what most reads bring. `_receive` would say the same.
        """
        if self._phase is not _Phase.HEAD or self._pending or self._blocked or not self.wants_data:
            return None
        start = data.find(b"\r\n\r\n", 0, self._limits.max_head_bytes) + 4
        head = self._heads.remembered(data[:start])
        if head is None or len(data) - start != (head.content_length or 0) or head.chunked:
            return None
        if len(data) - start > min(SMALL_BODY_BYTES, self._limits.max_body_bytes):
            return None
        self._in_flight += 1
        if not head.keep_alive:
            self._end()
        return HttpRequest(head, data[start:], now)

    def _receive(self, data: bytes, now: float, events: list[HttpEvent]) -> None:
        head_begun = bool(self._pending) and not self._blocked
        self._blocked = False
        if self._pending:
            if head_begun and self._is_still_unfinished(data):
                self._pending += data
                return
            data = self._pending + data
            self._pending = b""
        position, end = 0, len(data)
        while self._phase is not _Phase.CLOSED:
            if self._phase is _Phase.HEAD:
                if self._in_flight >= self._limits.max_requests_in_flight:
                    self._pending = data[position:]
                    self._blocked = True
                    return
                if position < end and data[position] in b"\r\n":
                    position = _skip_blank_lines(data, position)
                if position == end:
                    return
                block = self._take_head(data, position)
                if block is None:
                    if not head_begun or position:
                        self._since = now
                    self._pending = data[position:]
                    return
                position = self._begin_request(block, data, position + len(block), now, events)
            elif self._phase is _Phase.SIZED_BODY:
                if position == end:
                    return
                position = self._take_sized_body(data, position, now, events)
            else:
                assert self._chunked is not None, "set with the phase"
                position, whole = self._chunked.receive(data, position)
                if not whole:
                    self._pending = data[position:]
                    return
                self._finish_body(self._chunked.buffer, now, events)

    def _is_still_unfinished(self, data: bytes) -> bool:
        """Whether a head that was unfinished cannot have ended, nor outgrown its limit, yet.

        Without this test a head that comes byte by byte would be searched as many times.
        """
        return (
            self._phase is _Phase.HEAD
            and b"\n" not in data
            and len(self._pending) + len(data) < self._limits.max_head_bytes
        )

    def _take_head(self, data: bytes, position: int) -> bytes | None:
        """The head that starts at `position`, or None while it is unfinished but may be right."""
        if not 0x41 <= data[position] <= 0x5A:  # a TLS hello, for one, will never end in a head
            raise malformed("invalid method")
        limit = position + self._limits.max_head_bytes
        end = data.find(b"\r\n\r\n", position, limit)
        if end >= 0:
            return data[position : end + 4]
        begun = data[position:limit]
        if begun.count(b"\n") != begun.count(b"\r\n"):
            raise malformed("a line ends without carriage return")
        if limit <= len(data):
            raise HttpError(431, f"request head exceeds {self._limits.max_head_bytes} bytes")
        return None

    def _begin_request(
        self, block: bytes, data: bytes, position: int, now: float, events: list[HttpEvent]
    ) -> int:
        """Act on a whole head; its body may be whole as well. Returns the next position."""
        head = self._heads.parse(block)
        length = head.content_length or 0
        if not length and not head.chunked:
            self._deliver(head, b"", now, events)
            return position
        if length > self._limits.max_body_bytes:
            raise body_too_large(self._limits.max_body_bytes)
        end = position + length
        if length and end <= len(data):
            small = length <= SMALL_BODY_BYTES
            body = data[position:end] if small else memoryview(data)[position:end]
            self._deliver(head, body, now, events)
            return end
        self._head = head
        self._since = now
        self._body_start = _padding(head)
        if head.chunked:
            self._phase = _Phase.CHUNKED_BODY
            limit = self._limits.max_body_bytes
            self._chunked = ChunkedBody(max_body_bytes=limit, padding=self._body_start)
        else:
            self._phase = _Phase.SIZED_BODY
            self._body = bytearray(self._body_start)
            self._body_end = self._body_start + length
            self.read_size = min(max(length, MIN_READ_BYTES), MAX_READ_BYTES)
        if head.expects_continue and position == len(data):
            events.append(_CONTINUE_EXPECTED)
        return position

    def _take_sized_body(
        self, data: bytes, position: int, now: float, events: list[HttpEvent]
    ) -> int:
        """Collect what has come of a body, which is how much its buffer grows: never by claim."""
        before = len(self._body)
        self._body += memoryview(data)[position : position + self._body_end - before]
        if len(self._body) == self._body_end:
            body, self._body = self._body, bytearray()
            self._finish_body(body, now, events)
            return position + self._body_end - before
        missing = self._body_end - len(self._body)
        self.read_size = min(max(missing, MIN_READ_BYTES), MAX_READ_BYTES)
        return len(data)

    def _finish_body(self, buffer: bytearray, now: float, events: list[HttpEvent]) -> None:
        """`buffer` holds padding up to `_body_start`, then the body."""
        assert self._head is not None, "a body belongs to a head"
        head, self._head, self._chunked = self._head, None, None
        self._phase = _Phase.HEAD
        self.read_size = MIN_READ_BYTES
        began_at, self._since = self._since, now
        body = memoryview(buffer)[self._body_start :]
        small = len(body) <= SMALL_BODY_BYTES
        self._deliver(head, bytes(body) if small else body.toreadonly(), began_at, events)

    def _deliver(
        self, head: HttpHead, body: bytes | memoryview, began_at: float, events: list[HttpEvent]
    ) -> None:
        self._in_flight += 1
        events.append(HttpRequest(head, body, began_at))
        if not head.keep_alive:
            self._end()

    def _end(self) -> None:
        self._phase = _Phase.CLOSED
        self.is_closed = True


def _skip_blank_lines(data: bytes, position: int) -> int:
    """Empty lines before a request are ignored, as RFC 9112, section 2.2, asks."""
    end = len(data)
    while position < end and data[position] in b"\r\n":
        position += 1
    return position


def _padding(head: HttpHead) -> int:
    """Bytes to put before a body so that the first tensor after its JSON header is aligned."""
    header_length = head.headers.get("inference-header-content-length", "")
    if len(header_length) <= 10 and header_length.isascii() and header_length.isdigit():
        return -int(header_length) % _ALIGNMENT
    return 0
