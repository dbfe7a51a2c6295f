"""The codec against the h2 library as its client, in random conversations.

h2 raises for every rule of HTTP/2 that our server would break: windows, states, header order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.http2 import Http2Connection, Http2Limits
from protocol.http2_events import (
    CallHalfClosed,
    CallOpened,
    CallReset,
    Event,
    MessageReceived,
    UnaryCall,
)
from tests.protocol.http2_peer import PATH, grpc, request


@dataclass
class Call:
    """What the client says on one stream, and what came back."""

    stream_id: int
    messages: list[bytes]
    cancel_after: int | None
    status: int
    unsent: bytes = b""
    ended: bool = False
    received: bytes = b""
    heads: list[dict[str, str]] = field(default_factory=list)
    closed: bool = False


class Conversation:
    """One h2 client and one server of ours that echoes every message."""

    def __init__(
        self, calls: list[Call], *, limits: Http2Limits, window: int, frame: int, cuts: list[int]
    ) -> None:
        self.calls = {call.stream_id: call for call in calls}
        self.server = Http2Connection(limits, unary_paths=frozenset((PATH,)), now=0.0)
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.client.initiate_connection()
        self.client.update_settings({4: window, 5: frame})
        self.cuts = cuts
        self.cut = 0

    def run(self) -> None:
        self._exchange()
        for call in self.calls.values():
            path = PATH if len(call.messages) == 1 else "/streaming"
            fields = [*request(path=path), ("x-number", str(call.stream_id))]
            self.client.send_headers(call.stream_id, fields)
            call.unsent = b"".join(map(grpc, call.messages))
        for _ in range(10_000):
            sent = [self._send_some(call) for call in self.calls.values()]
            moved = self._exchange()
            if not any(sent) and not moved:
                break
        else:
            raise AssertionError("the conversation does not end")

    def _send_some(self, call: Call) -> bool:
        if call.ended or call.closed:
            return False
        if call.cancel_after is not None and len(call.received) >= call.cancel_after:
            call.ended = call.closed = True
            self.client.reset_stream(call.stream_id, 8)
            return True
        step = min(
            self.client.local_flow_control_window(call.stream_id),
            self.client.max_outbound_frame_size,
            len(call.unsent),
        )
        end = step == len(call.unsent)
        if not step and not end:
            return False
        self.client.send_data(call.stream_id, call.unsent[:step], end_stream=end)
        call.unsent = call.unsent[step:]
        call.ended = end
        return True

    def _chunks(self, octets: bytes) -> Iterator[bytes]:
        pos = 0
        while pos < len(octets):
            step = self.cuts[self.cut % len(self.cuts)] if self.cuts else len(octets)
            self.cut += 1
            yield octets[pos : pos + step]
            pos += step

    def _exchange(self) -> bool:
        octets = self.client.data_to_send()
        for chunk in self._chunks(octets):
            for event in self.server.receive(chunk, 0.0):
                self._serve(event)
        output = b"".join(self.server.take_output())
        for event in self.client.receive_data(output):
            self._read(event)
        return bool(octets or output)

    def _serve(self, event: Event) -> None:
        server = self.server
        match event:
            case UnaryCall(stream_id=stream_id, message=message):
                server.acknowledge(stream_id, len(message))
                if self.calls[stream_id].status:
                    server.send_trailers(stream_id, self.calls[stream_id].status, "no")
                else:
                    server.send_unary_reply(stream_id, message)
            case CallOpened(stream_id=stream_id):
                server.send_response_headers(stream_id)
            case MessageReceived(stream_id=stream_id, message=message):
                server.send_message(stream_id, message)
                server.acknowledge(stream_id, len(message))
            case CallHalfClosed(stream_id=stream_id):
                server.send_trailers(stream_id, self.calls[stream_id].status)
            case CallReset(by_peer=True):
                pass
            case _:
                raise AssertionError(event)

    def _read(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.calls[event.stream_id].heads.append(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            call = self.calls[event.stream_id]
            call.received += event.data
            if not call.closed:
                self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self.calls[event.stream_id].closed = True
        else:
            assert not isinstance(event, h2.events.ConnectionTerminated), event


MESSAGES = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(lambda n: b"m" * n)), max_size=4
)
CALLS = st.lists(
    st.tuples(MESSAGES, st.none() | st.integers(0, 2_000), st.sampled_from([0, 0, 0, 5])),
    min_size=1,
    max_size=6,
)
LIMITS = st.builds(
    Http2Limits,
    stream_window_bytes=st.sampled_from([100, 5_000, 65_535, 1 << 20]),
    connection_window_bytes=st.sampled_from([65_535, 1 << 20]),
    assembly_bytes=st.sampled_from([0, 10_000, 1 << 20]),
    output_bytes=st.sampled_from([1, 10_000, 1 << 20]),
    # Small windows need many updates and crumbs; what they cost is tested elsewhere.
    budget_tokens=st.just(1e9),
)


@settings(max_examples=150, deadline=None)
@given(
    CALLS,
    LIMITS,
    st.sampled_from([1, 100, 5_000, 65_535, 1 << 20]),
    st.sampled_from([16_384, 30_000, 1 << 20]),
    st.lists(st.sampled_from([1, 2, 8, 9, 10, 100, 5_000, 20_000]), max_size=5),
)
def test_every_conversation_ends_well(
    calls: list[tuple[list[bytes], int | None, int]],
    limits: Http2Limits,
    window: int,
    frame: int,
    cuts: list[int],
) -> None:
    if window == 1:  # else it takes a frame for each byte of a large message
        calls = [
            ([m[:300] for m in messages], cancel, status) for messages, cancel, status in calls
        ]
    if cuts and max(cuts) < 100:
        calls = [
            ([m[:5_000] for m in messages], cancel, status) for messages, cancel, status in calls
        ]
    conversation = Conversation(
        [Call(2 * n + 1, *rest) for n, rest in enumerate(calls)],
        limits=limits,
        window=window,
        frame=frame,
        cuts=cuts,
    )
    conversation.run()
    for call in conversation.calls.values():
        assert call.closed
        if call.cancel_after is not None:
            continue
        if call.status and len(call.messages) == 1:
            assert call.heads == [
                {
                    ":status": "200",
                    "content-type": "application/grpc",
                    "grpc-status": str(call.status),
                    "grpc-message": "no",
                }
            ]
            assert call.received == b""
            continue
        head, trailers = call.heads
        assert head[":status"] == "200"
        assert trailers == {"grpc-status": str(call.status)}
        assert call.received == b"".join(map(grpc, call.messages))
    server = conversation.server
    assert server.open_calls == 0
    assert server.buffered_bytes == 0
    assert server._queued_bytes == server._queued_calls == 0
    assert not server._starved
    # Every byte's credit came back, or is about to.
    assert server._recv_window + server._credit == limits.connection_window_bytes
