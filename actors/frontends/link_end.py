"""One end of the conversation between the core and a frontend process, the same on both sides.

Owns the pipe, the arena that large tensors are written to and the segments that the peer's lie in.
Records that are said within one turn leave together: a packet, a wake-up and a system call for
whatever has come up. A pipe that is full says so, and whoever speaks stops taking in what it would
have to say. It never decides what is said.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.frontends.pipe import Pipe
from actors.processes.packet_tensors import tensor_reader
from actors.turns import current_turns
from protocol.inference import Tensor
from repo.backends.python import wire
from repo.backends.python.arena import Arena, ArenaFullError, SegmentMap, Span
from repo.backends.python.layout import SHARED_THRESHOLD, Key, Raw, WireError
from repo.backends.python.records import (
    LATE,
    MESSAGE_LIMIT,
    RESCHEDULED,
    BatchWriter,
    Record,
)

# A packet is closed when it holds this much, so that few have to go through the arena.
BATCH_BYTES: Final = MESSAGE_LIMIT // 2
# Records of one packet; it numbers them with 16 bits, and spans given back go 1,024 at a time.
BATCH_RECORDS: Final = 1024
# Packets that are taken in before others have their turn: each is 64 requests or so under load.
PACKETS_PER_TURN: Final = 16
# Segments of an arena: a few large tensors at first, then in steps.
SEGMENT_BYTES: Final = 8 << 20
# What a record is taken to be beside its tensors; only for the size of packets.
RECORD_BYTES: Final = 96
# Spans that may wait to be given back while there is nothing else to say.
RELEASES_KEPT: Final = 8

_BATCH: Final = 1  # the tag of a message of records
_SPILLED: Final = wire.encode(wire.Spilled(0, 0, 0))[0]
_FORGET: Final = wire.encode(wire.ForgetSegment(0))[0]


Take = Callable[[bytes, list[Tensor], tuple[str, ...]], None]
"""What is done with a record of the peer's: its extras, its tensors, and the outputs it names."""


class LinkEnd:
    """See the module's docstring. `close` it once."""

    def __init__(self, pipe: Pipe, *, wake: Callable[[], None]) -> None:
        """`wake` is called once a pipe that was full has room."""
        self._pipe = pipe
        self._wake = wake
        self._arena = Arena(first_bytes=SEGMENT_BYTES, growth_bytes=SEGMENT_BYTES)
        self._segments = SegmentMap(writable=False, missing=_missing)
        self._writer = BatchWriter(self._arena, self._segments.released)
        self._reader = tensor_reader(self._segments, self._arena.release)
        self._records: list[Record] = []  # said in this turn; bounded by what is under way
        self._bytes = 0
        # Packets that the pipe had no room for; no more are made while there is one.
        self._backlog: deque[tuple[bytes, int]] = deque()
        self._stuck = trio.Event()  # set when the pipe is found full
        self._lost: list[tuple[bytes, ArenaFullError]] = []

    @property
    def is_stuck(self) -> bool:
        """Whether the pipe is full. Say nothing more until it is not."""
        return bool(self._backlog)

    def say(self, extras: bytes, key: Key | None = None, raws: Sequence[Raw] = ()) -> None:
        """A record for the next `flush`, without tensors or with those of a layout."""
        size = RECORD_BYTES + len(extras)
        for raw in raws:
            if len(raw) < SHARED_THRESHOLD:
                size += len(raw)
        if self._records and self._bytes + size > BATCH_BYTES:
            self._close_packet()
        self._records.append((key, raws, LATE, extras))
        self._bytes += size
        if len(self._records) >= BATCH_RECORDS:
            self._close_packet()

    def flush(self) -> Sequence[tuple[bytes, ArenaFullError]]:
        """Send what has been said; the extras of records for which there is no memory, and why."""
        if self._records or len(self._segments.released) > RELEASES_KEPT:
            self._close_packet()
        self._send_backlog()
        lost, self._lost = self._lost, []
        return lost

    async def run(self, take: Take, done: Callable[[], None]) -> None:
        """Hand every record to `take`, and call `done` before others have their turn.

        Raises PeerGone, and WireError for what makes no sense.
        """
        turns = current_turns()
        while True:
            await self._pipe.wait_readable()
            turns.hold()
            try:
                for _ in range(PACKETS_PER_TURN):
                    if not self._take_packet(take):
                        break
                done()
            finally:
                turns.settle()

    async def run_writer(self) -> None:
        """Send on whenever a full pipe has room again, until cancelled. Raises PeerGone."""
        while True:
            await self._stuck.wait()
            await self._pipe.wait_writable()
            self._send_backlog()
            if not self._backlog:
                self._stuck = trio.Event()
                self._wake()

    def close(self) -> None:
        self._pipe.close()
        for _, descriptor in self._backlog:
            if descriptor >= 0:
                os.close(descriptor)
        self._backlog.clear()
        self._arena.close()
        self._segments.close()
        self._records.clear()

    # --- out -------------------------------------------------------------------------------------

    def _close_packet(self) -> None:
        records, self._records, self._bytes = self._records, [], 0
        try:
            self._put(self._writer.build(_BATCH, 0, records))
        except ArenaFullError as error:
            if len(records) == 1:
                self._lost.append((records[0][3], error))
                return
            for record in records:  # who of them is to blame
                self._records = [record]
                self._close_packet()

    def _put(self, packet: bytes) -> None:
        arena = self._arena
        if len(packet) > MESSAGE_LIMIT:
            packet = wire.encode(wire.Spilled(*arena.place(packet)))
        while arena.new_segments:  # they go first
            new = arena.new_segments.pop(0)
            self._backlog.append((wire.encode(wire.Segment(new.number)), new.descriptor))
        self._backlog.append((packet, -1))
        while arena.dropped:
            self._backlog.append((wire.encode(wire.ForgetSegment(arena.dropped.pop())), -1))

    def _send_backlog(self) -> None:
        backlog = self._backlog
        while backlog:
            packet, descriptor = backlog[0]
            if not self._pipe.send(packet, descriptor):
                self._stuck.set()
                return
            backlog.popleft()

    # --- in --------------------------------------------------------------------------------------

    def _take_packet(self, take: Take) -> bool:
        found = self._pipe.receive()
        if found is None:
            return False
        packet, descriptor = found
        if descriptor >= 0:
            self._attach(packet, descriptor)
            return True
        if packet[0] == _FORGET:
            forget = wire.decode(packet)
            assert isinstance(forget, wire.ForgetSegment), "the tag says so"
            self._segments.detach(forget.number)
            return True
        if packet[0] == _SPILLED:
            packet = self._spilled(packet)
        if packet[0] != _BATCH:
            raise WireError(f"a packet with the tag {packet[0]}")
        records = self._reader.read(packet)
        extras = records.extras or [b""] * len(records.tensors)
        layouts = records.layouts
        for number, extra, tensors in zip(records.numbers, extras, records.tensors, strict=True):
            take(extra, tensors, layouts[number].requested if number < RESCHEDULED else ())
        return True

    def _attach(self, packet: bytes, descriptor: int) -> None:
        try:
            segment = wire.decode(packet)
        except WireError:
            os.close(descriptor)
            raise
        if not isinstance(segment, wire.Segment):
            os.close(descriptor)
            raise WireError("a descriptor with a packet that is no segment")
        try:
            self._segments.attach(segment.number, descriptor)
        except (ValueError, OSError) as error:
            raise WireError(str(error)) from error

    def _spilled(self, packet: bytes) -> bytes:
        spilled = wire.decode(packet)
        assert isinstance(spilled, wire.Spilled), "the tag says so"
        try:
            found = bytes(self._segments.array(Span(*spilled)))
        except (KeyError, ValueError) as error:
            raise WireError(f"spilled packet: {error}") from error
        if not found:
            raise WireError("spilled packet is empty")
        return found


def _missing(number: int) -> None:
    raise WireError(f"segment {number} has not come")


def layout_of(
    requested: tuple[str, ...], tensors: Sequence[Tensor]
) -> tuple[Key, list[bytes | memoryview]]:
    """How tensors travel, and their bytes."""
    key = (requested, tuple([(t.name, t.datatype, t.shape) for t in tensors]))
    return key, [tensor.raw for tensor in tensors]
