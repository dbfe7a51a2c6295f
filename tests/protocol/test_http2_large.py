"""Large messages in many frames, several at a time: they come out whole, and keep to windows."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from protocol.http2 import ErrorCode, Http2Limits
from protocol.http2_events import CallReset, ConnectionClosed, UnaryCall
from protocol.http2_wire import frame, window_update_frame
from tests.protocol.http2_peer import PATH, Peer, grpc, request

FRAME_BYTES = 16_384


def frames_of(body: bytes) -> list[bytes]:
    return [body[at : at + FRAME_BYTES] for at in range(0, len(body), FRAME_BYTES)]


def interleaved(peer: Peer, messages: dict[int, bytes]) -> bytes:
    """Calls whose frames take turns, as clients send what they have to send at once."""
    octets = b"".join(peer.headers(stream_id) for stream_id in messages)
    rows = {stream_id: frames_of(grpc(message)) for stream_id, message in messages.items()}
    for number in range(max(map(len, rows.values()))):
        for stream_id, frames in rows.items():
            if number < len(frames):
                end = number == len(frames) - 1
                octets += peer.data(stream_id, frames[number], end=end)
    return octets


@pytest.mark.parametrize("read_bytes", [1 << 20, 100_000, 16_393, 9_999])
def test_messages_whose_frames_take_turns_come_out_whole(read_bytes: int) -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    messages = {1: os.urandom(300_000), 3: os.urandom(170_001), 5: os.urandom(16_384 * 3)}
    octets = interleaved(peer, messages)
    events = []
    for at in range(0, len(octets), read_bytes):
        events += peer.send(octets[at : at + read_bytes])
    calls = [event for event in events if isinstance(event, UnaryCall)]
    assert len(calls) == len(events)
    assert {call.stream_id: bytes(call.message) for call in calls} == messages
    assert peer.connection.buffered_bytes == sum(map(len, messages.values())) + 3 * 5
    for call in calls:
        peer.connection.acknowledge(call.stream_id, len(call.message))
        peer.connection.send_unary_reply(call.stream_id, b"")
    assert peer.connection.buffered_bytes == 0


def test_a_message_longer_than_the_window_grows_with_what_has_come() -> None:
    peer = Peer(Http2Limits(stream_window_bytes=100_000), unary_paths=frozenset((PATH,)))
    message = os.urandom(450_000)
    frames = frames_of(grpc(message))
    peer.send(peer.headers(1))
    room, events = 100_000, []
    for number, payload in enumerate(frames):
        assert room >= len(payload), "the server let the message starve"
        updates = len(peer.window_updates(1))
        events += peer.send(peer.data(1, payload, end=number == len(frames) - 1))
        room += sum(peer.window_updates(1)[updates:]) - len(payload)
    (call,) = events
    assert isinstance(call, UnaryCall)
    assert bytes(call.message) == message


def test_middle_frames_are_held_to_the_window_of_their_call() -> None:
    limits = Http2Limits(stream_window_bytes=100_000, assembly_bytes=0)
    peer = Peer(limits, unary_paths=frozenset((PATH,)))
    frames = frames_of(grpc(bytes(300_000)))
    # The first may go on beyond the budget for messages in progress, the second may not.
    for stream_id in (1, 3):
        peer.send(peer.headers(stream_id), *(peer.data(stream_id, each) for each in frames[:6]))
    assert peer.window_updates(1)
    assert not peer.window_updates(3)
    peer.send(peer.data(1, frames[6]), peer.data(3, frames[6]))
    assert peer.reset_of(1) is None
    assert peer.reset_of(3) == ErrorCode.FLOW_CONTROL_ERROR


def test_middle_frames_are_held_to_the_window_of_the_connection() -> None:
    limits = Http2Limits(connection_window_bytes=65_535)
    peer = Peer(limits, unary_paths=frozenset((PATH,)))
    peer.opened(1, bytes(50_000))  # and not acknowledged
    body = grpc(bytes(100_000))
    events = peer.send(peer.headers(3), peer.data(3, body[:10_000]), peer.data(3, body[:10_000]))
    (closed,) = events
    assert isinstance(closed, ConnectionClosed)
    assert closed.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert closed.reason == "DATA beyond the connection's window"


def test_middle_frames_beyond_the_content_length_end_the_call() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    fields = [*request(), ("content-length", str(3 * FRAME_BYTES))]
    frames = frames_of(grpc(bytes(5 * FRAME_BYTES)))
    events = peer.send(peer.headers(1, fields), *(peer.data(1, each) for each in frames[:4]))
    assert events == []
    assert peer.reset_of(1) == ErrorCode.PROTOCOL_ERROR
    assert peer.connection.buffered_bytes == 0


def test_a_middle_frame_may_not_be_longer_than_was_announced() -> None:
    peer = Peer(Http2Limits(max_frame_bytes=FRAME_BYTES), unary_paths=frozenset((PATH,)))
    frames = frames_of(grpc(bytes(5 * FRAME_BYTES)))
    (closed,) = peer.send(
        peer.headers(1), peer.data(1, frames[0]), peer.data(1, bytes(FRAME_BYTES + 1))
    )
    assert isinstance(closed, ConnectionClosed)
    assert closed.error_code == ErrorCode.FRAME_SIZE_ERROR


def test_other_frames_between_the_middles_are_heard() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    message = os.urandom(5 * FRAME_BYTES)
    frames = frames_of(grpc(message))
    octets = peer.headers(1)
    for number, payload in enumerate(frames):
        octets += peer.data(1, payload, end=number == len(frames) - 1)
        octets += frame(6, 0, 0, number.to_bytes(8, "big")) if number == 2 else b""
        octets += window_update_frame(1, 1) if number < len(frames) - 1 else b""
    (call,) = peer.send(octets)
    assert isinstance(call, UnaryCall)
    assert bytes(call.message) == message
    assert [each.payload for each in peer.of(6)] == [(2).to_bytes(8, "big")]


def test_a_call_that_is_reset_in_the_middle_gives_its_bytes_back() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    frames = frames_of(grpc(bytes(300_000)))
    peer.send(peer.headers(1), *(peer.data(1, payload) for payload in frames[:6]))
    assert peer.connection.buffered_bytes == 6 * FRAME_BYTES - 5
    events = peer.send(frame(3, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert not any(isinstance(event, CallReset) for event in events)  # it was not announced
    assert peer.connection.buffered_bytes == 0
    assert peer.send(*(peer.data(1, payload) for payload in frames[6:8])) == []
    assert peer.connection.open_calls == 0


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_a_claimed_length_costs_no_memory_until_bytes_come() -> None:
    peer = Peer(unary_paths=frozenset((PATH,)))
    claim = (1 << 20).to_bytes(4, "big")
    before = resident_bytes()
    for stream_id in range(1, 401, 2):
        peer.send(peer.headers(stream_id), peer.data(stream_id, b"\0" + claim + b"a few bytes"))
    assert resident_bytes() - before < 200 * (1 << 20) // 8
    assert peer.connection.buffered_bytes == 200 * len(b"a few bytes")
