"""One HTTP/2 stream of the client: who hears of it, its windows, and what its headers say.

Owns the records that http2_client.py keeps per call. It never frames a byte.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol
from urllib.parse import unquote

from perf_analyzer.calls import Buffer
from protocol import grpc_compression, hpack


class StreamCall(Protocol):
    """Who hears of one HTTP/2 stream."""

    def on_message(self, message: Buffer, now: float) -> None: ...

    def on_end(self, status: int, text: str, now: float) -> None: ...

    def on_failure(self, text: str) -> None: ...


class ResponseHead:
    """What a header block says, as far as gRPC cares."""

    __slots__ = ("encoding", "problem", "status", "text")

    def __init__(self, fields: list[hpack.Field]) -> None:
        values = dict(pair for pair, _, _ in fields)
        self.encoding = values.get("grpc-encoding", grpc_compression.IDENTITY)
        status = values.get("grpc-status")
        self.status: int | None = int(status) if status and status.isdecimal() else None
        self.text = unquote(values.get("grpc-message", ""))
        http_status = values.get(":status", "200")
        self.problem = "" if http_status == "200" else f"HTTP status {http_status}"


class Stream:
    """One call on a connection: its windows, what it still sends, what has come of a message."""

    __slots__ = ("call", "consumed", "encoding", "keeps", "pending", "received", "window")

    def __init__(self, call: StreamCall, window: int, *, keeps: bool) -> None:
        self.call = call
        self.window = window  # what may still be sent
        self.keeps = keeps  # whether anybody wants the messages
        self.consumed = 0
        self.encoding = grpc_compression.IDENTITY
        self.received = bytearray()
        self.pending: deque[tuple[memoryview, bool]] = deque()  # (bytes, ends the stream)
