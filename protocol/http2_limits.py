"""Every number that bounds an HTTP/2 connection, with its reason.

Owns `Http2Limits`. It never reads flags: actors/settings/options.py turns those into this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from protocol.http2_wire import DEFAULT_WINDOW, MAX_FRAME_BYTES, MAX_WINDOW, MIN_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What one connection may cost. Bytes, counts and seconds.

    Received bytes that the codec can hold at once are at most `max_concurrent_streams` x
    `stream_window_bytes` (partial messages) + `connection_window_bytes` (messages that nobody has
    acknowledged) + `assembly_bytes` + `max_message_bytes` (one call at a time may pass beyond the
    assembly budget, so that a large message always gets through).
    """

    # Six C++ clients share one channel by default, each with many calls in flight.
    max_concurrent_streams: int = 1024
    # Fewer, larger frames: a 600 kB tensor in one frame instead of 37.
    max_frame_bytes: int = 1 << 20
    max_message_bytes: int = 2**31 - 1
    # A 600 kB tensor fits without waiting for an update.
    stream_window_bytes: int = 1 << 20
    connection_window_bytes: int = 64 << 20
    # Partial messages beyond their first window share this much.
    assembly_bytes: int = 256 << 20
    # gRPC's C core refuses above 16 KiB too.
    max_header_list_bytes: int = 16 << 10
    # Encoded headers; Huffman coding can be up to 3.75 times as long as the text.
    max_header_block_bytes: int = 64 << 10
    # How much is framed for one `take_output`; the rest waits, fairly, in each call's own queue.
    output_bytes: int = 1 << 20
    # A call's queue is `writable` below this.
    pending_bytes: int = 4 << 20
    # Responses waiting for the windows of several calls together; more ends the connection. Room
    # for a batch of large tensors to each of a thousand calls.
    max_queued_bytes: int = 1 << 30
    # Acks, resets and refusals that the peer does not read.
    unread_control_frames: int = 10_000
    # Preface and first SETTINGS; also each header block that needs CONTINUATION.
    handshake_timeout_seconds: float = 20.0
    # A response that the client does not read, and a message that it does not finish although it
    # may, end their calls after one to two of these periods without any progress; if it is the
    # connection that the client does not read, the connection.
    stall_timeout_seconds: float = 120.0
    # The tolerance for frames that cost the server more than the peer: http2_budget.py.
    budget_tokens: float = 2_000.0
    budget_tokens_per_second: float = 200.0
    keepalive_time_seconds: float = 7_200.0
    keepalive_timeout_seconds: float = 20.0
    keepalive_permit_without_calls: bool = False
    max_pings_without_data: int = 2
    min_ping_interval_seconds: float = 300.0
    max_ping_strikes: int = 2
    max_connection_age_seconds: float = math.inf
    max_connection_age_grace_seconds: float = math.inf
    # How long a draining connection waits for the proof that the peer has seen the first GOAWAY.
    drain_ping_timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Raises ValueError where HTTP/2 itself, or the codec's promise, would be broken."""
        if not MIN_FRAME_BYTES <= self.max_frame_bytes <= MAX_FRAME_BYTES:
            raise ValueError(
                f"max_frame_bytes {self.max_frame_bytes} is outside"
                f" {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES}"
            )
        if not 1 <= self.stream_window_bytes <= MAX_WINDOW:
            raise ValueError(
                f"stream_window_bytes {self.stream_window_bytes} is outside 1 to {MAX_WINDOW}"
            )
        if not DEFAULT_WINDOW <= self.connection_window_bytes <= MAX_WINDOW:
            raise ValueError(
                f"connection_window_bytes {self.connection_window_bytes} is outside"
                f" {DEFAULT_WINDOW} to {MAX_WINDOW}"
            )
        if self.output_bytes < 1:
            raise ValueError(f"output_bytes {self.output_bytes} is less than 1")
        if not 0 <= self.max_message_bytes < 2**32:
            raise ValueError(
                f"max_message_bytes {self.max_message_bytes} is outside 0 to {2**32 - 1}"
            )
