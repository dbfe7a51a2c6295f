"""The client's side of HTTP/1.1: response bytes in, one callback per answer out.

Owns one connection and the one request on it. Sans-IO: it never sees a socket or a clock;
`receive` is told the instant. Servers answer a load with ever the same few heads: a head that was
seen before is not parsed again.
"""

from __future__ import annotations

from typing import Final, Protocol

from perf_analyzer.calls import Buffer, Stamped
from protocol.http1_chunked import ChunkedBody
from protocol.http1_error import HttpError

# A head longer than this is not an inference server's.
MAX_HEAD_BYTES: Final = 64 * 1024
# The largest answer that is read; gRPC has the same ceiling.
MAX_BODY_BYTES: Final = 2**31 - 1
# Distinct heads: a `date` header makes one per second, and an hour of them is kept at most.
MAX_REMEMBERED_HEADS: Final = 4096

UNTIL_CLOSE: Final = -1
CHUNKED: Final = -2


class BadResponse(Exception):
    """What the server sent is not HTTP; the text says why."""


class Head:
    """Status line and header fields of a response; names are lower case."""

    __slots__ = ("body_bytes", "fields", "json_bytes", "keeps_alive", "status")

    def __init__(self, octets: bytes) -> None:
        lines = octets.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not code.isdecimal():
            raise BadResponse(f"not an HTTP status line: {lines[0][:80]!r}")
        self.status = int(code)
        self.fields: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.fields[name.strip().lower()] = value.strip()
        self.keeps_alive = self.fields.get("connection", "").lower() != "close" and (
            version != "HTTP/1.0"
        )
        self.json_bytes = self._number("inference-header-content-length", -1)
        if self.fields.get("transfer-encoding", "").lower().endswith("chunked"):
            self.body_bytes = CHUNKED
        elif self.status in {204, 304} or self.status < 200:
            self.body_bytes = 0
        else:
            self.body_bytes = self._number("content-length", UNTIL_CLOSE)

    def _number(self, name: str, default: int) -> int:
        text = self.fields.get(name)
        if text is None:
            return default
        if not text.isdecimal():
            raise BadResponse(f"{name} is not a number: {text[:80]!r}")
        return int(text)


class HttpCall(Protocol):
    """Who hears of the answer."""

    def on_answer(self, head: Head, body: Buffer, now: float) -> None: ...

    def on_failure(self, text: str) -> None: ...


class Http1Client:
    """One client connection: `start` a request, `receive` until its call has been answered."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._call: HttpCall | None = None
        self._head: Head | None = None
        self._tail = b""
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None
        self._first_at = 0.0
        self.receive_seconds = 0.0  # from the first byte of answers to their last, summed up
        self.usable = True
        self.unsent: list[Stamped] = []
        self.out: list[Buffer] = []

    @property
    def idle(self) -> bool:
        return self._call is None

    def start(self, call: HttpCall, stamped: Stamped, *pieces: Buffer) -> None:
        """Send one request, head and body in `pieces`. The connection must be idle and usable."""
        assert self._call is None, "one request at a time"
        self._call = call
        self.unsent.append(stamped)
        self.out.extend(pieces)

    def receive(self, data: bytes, now: float) -> None:
        """Take what has arrived. Raises BadResponse."""
        if self._call is None:
            raise BadResponse("the server spoke without being asked")
        if self._head is None:
            if self._tail:
                data = self._tail + data
            else:
                self._first_at = now
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise BadResponse("the head of the answer is too long")
                self._tail = data
                return
            octets = data[:head_end]
            head = self._heads.get(octets)
            if head is None:
                head = Head(octets)
                if len(self._heads) >= MAX_REMEMBERED_HEADS:
                    self._heads.clear()
                self._heads[octets] = head
            if head.body_bytes == len(data) - head_end - 4 and head.status >= 200:
                self._tail = b""  # all of it in one piece: the usual case
                self._finish(head, data[head_end + 4 :], now)
                return
            self._tail = b""
            data = data[head_end + 4 :]
            if head.status < 200:  # 100 Continue and the like announce nothing we wait for
                if data:
                    self.receive(data, now)
                return
            self._head = head
            if head.body_bytes == CHUNKED:
                self._chunks = ChunkedBody(max_body_bytes=MAX_BODY_BYTES)
        self._receive_body(data, now)

    def _receive_body(self, data: bytes, now: float) -> None:
        assert self._head is not None
        if self._chunks is not None:
            data = self._tail + data
            try:
                taken, whole = self._chunks.receive(data, 0)
            except HttpError as error:
                raise BadResponse(f"the chunks of the answer are broken: {error}") from None
            self._tail = data[taken:]
            if whole:
                if self._tail:
                    raise BadResponse("the server sent more than the answer")
                self._finish(self._head, bytes(self._chunks.buffer), now)
            return
        self._body += data
        wanted = self._head.body_bytes
        if wanted == UNTIL_CLOSE or len(self._body) < wanted:
            if len(self._body) > MAX_BODY_BYTES:
                raise BadResponse("the answer is too long")
            return
        if len(self._body) > wanted:
            raise BadResponse("the server sent more than the answer")
        body, self._body = self._body, bytearray()
        self._finish(self._head, body, now)

    def receive_eof(self, now: float) -> None:
        """The server has closed its side."""
        self.usable = False
        if self._head is not None and self._head.body_bytes == UNTIL_CLOSE:
            body, self._body = self._body, bytearray()
            self._finish(self._head, body, now)
        else:
            self.fail("the connection was closed by the server")

    def fail(self, text: str) -> None:
        """The request that is under way, if any, fails with `text`."""
        self.usable = False
        call, self._call = self._call, None
        if call is not None:
            call.on_failure(text)

    def _finish(self, head: Head, body: Buffer, now: float) -> None:
        call, self._call = self._call, None
        assert call is not None
        self._head = None
        self._chunks = None
        self.receive_seconds += now - self._first_at
        if not head.keeps_alive:
            self.usable = False
        call.on_answer(head, body, now)
