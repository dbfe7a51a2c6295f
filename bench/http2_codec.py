"""What one unary call costs the server in the HTTP/2 codec, beside the h2 library in the same run.

    python -m bench.http2_codec [--calls 20000] [--rounds 3]

The client's octets are made before the clock starts. "constant": every header block after the
first is the same, as gRPC's C core sends without a deadline; "changing": a deadline and a request
id change with each call and are inserted into the dynamic table, as grpc-go does. Each line is the
best of the rounds: CPU microseconds per call, calls per second, ratio to the h2 library.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import hpack

from protocol.http2 import Http2Connection
from protocol.http2_events import MessageReceived, UnaryCall
from protocol.http2_wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTINGS_ACK,
    frame,
    settings_frame,
    window_update_frame,
)

PATH = "/inference.GRPCInferenceService/ModelInfer"
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "127.0.0.1:8001"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
    ("user-agent", "grpc-python/1.71.0 grpc-c/46.0.0 (linux; chttp2)"),
]
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
MESSAGE_BYTES = 200
CALLS_PER_CHUNK = 8  # what a busy client has in flight


def chunks_of(calls: int, *, changing: bool, message: bytes) -> list[bytes]:
    """The client's side of so many calls, `CALLS_PER_CHUNK` in each chunk."""
    encoder = hpack.Encoder()
    body = struct.pack(">BI", 0, len(message)) + message
    chunks = [
        PREFACE
        + settings_frame({SETTING_INITIAL_WINDOW_SIZE: 2**31 - 1})
        + SETTINGS_ACK
        + SETTINGS_ACK
        + window_update_frame(0, 2**31 - 65_536)
    ]
    chunk = b""
    for number in range(calls):
        stream_id = 2 * number + 1
        fields = list(FIELDS)
        if changing:
            fields.append(("grpc-timeout", f"{900_000 + number}u"))
            fields.append(("triton-request-id", f"{number * 2654435761 % 2**32:08x}"))
        flags = END_HEADERS
        chunk += frame(HEADERS, flags, stream_id, encoder.encode(fields))
        chunk += b"".join(
            frame(
                DATA,
                END_STREAM if pos + 16_384 >= len(body) else 0,
                stream_id,
                body[pos : pos + 16_384],
            )
            for pos in range(0, len(body), 16_384)
        )
        if number % CALLS_PER_CHUNK == CALLS_PER_CHUNK - 1:
            chunks.append(chunk)
            chunk = b""
    return chunks


def serve_ours(chunks: list[bytes]) -> int:
    connection = Http2Connection(unary_paths=frozenset((PATH,)), now=0.0)
    served = 0
    for chunk in chunks:
        for event in connection.receive(chunk, 0.0):
            assert isinstance(event, UnaryCall | MessageReceived), event
            connection.send_unary_reply(event.stream_id, event.message)
            served += 1
        while connection.has_output:
            connection.take_output()
    return served


def serve_h2(chunks: list[bytes]) -> int:
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    )
    connection.update_settings({SETTING_INITIAL_WINDOW_SIZE: 1 << 20})
    connection.initiate_connection()
    connection.increment_flow_control_window(2**31 - 65_536)
    served = 0
    bodies: dict[int, bytes] = {}
    for chunk in chunks:
        for event in connection.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                body = bodies.pop(event.stream_id)
                connection.send_headers(event.stream_id, RESPONSE)
                for pos in range(0, len(body), 16_384):
                    connection.send_data(event.stream_id, body[pos : pos + 16_384])
                connection.send_headers(event.stream_id, TRAILERS, end_stream=True)
                served += 1
        connection.data_to_send()
    return served


def best(serve: Callable[[list[bytes]], int], chunks: list[bytes], rounds: int) -> float:
    """CPU microseconds per call, the best of the rounds."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        served = serve(chunks)
        times.append((time.process_time() - begun) / served * 1e6)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    calls = arguments.calls
    print(f"{'headers':<10}{'message B':>10}{'ours us':>9}{'calls/s':>10}{'h2 us':>8}{'ratio':>7}")
    for changing, message_bytes, share in (
        (False, MESSAGE_BYTES, 1),
        (True, MESSAGE_BYTES, 1),
        (False, 600_000, 100),
    ):
        chunks = chunks_of(
            max(calls // share, CALLS_PER_CHUNK), changing=changing, message=bytes(message_bytes)
        )
        ours = best(serve_ours, chunks, arguments.rounds)
        fewer = chunks[: max(2, len(chunks) // 10)]
        theirs = best(serve_h2, fewer, 1)
        name = "changing" if changing else "constant"
        print(
            f"{name:<10}{message_bytes:>10}{ours:>9.2f}{1e6 / ours:>10.0f}"
            f"{theirs:>8.1f}{theirs / ours:>7.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
