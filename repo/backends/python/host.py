"""The worker's end of the conversation with the server.

Owns both sockets, the arena it sends tensors through and the segments it receives them in, and
knows which requests are cancelled and who waits for an answer. Any thread may send; the main
thread alone reads `work`, the service thread alone reads `control`.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import queue
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import wire
from .arena import Arena, SegmentMap, Span
from .records import MESSAGE_LIMIT, RELEASE, BatchReader, BatchWriter, Record, Records
from .tensor import Tensor, received_record

if TYPE_CHECKING:
    from .bls import Call
    from .sender import Reply

# Room for one packet; a sender never exceeds MESSAGE_LIMIT.
_PACKET_BYTES = MESSAGE_LIMIT + 4096

_DESCRIPTOR_BYTES = socket.CMSG_SPACE(4)

# Cancellations of requests that ended meanwhile are forgotten when so many have gathered.
_CANCELLED_LIMIT = 4096


class ParentGoneError(Exception):
    """The server has closed its end, or is dead."""


class Host:
    """See the module's docstring; one per process."""

    def __init__(self, work: socket.socket, control: socket.socket) -> None:
        self._work = work
        self._control = control
        self._send_lock = threading.Lock()
        self._arena = Arena()
        self._segments = SegmentMap(writable=True, missing=self._await_segment)
        self._segment_came = threading.Condition()
        self._writer = BatchWriter(self._arena, self._segments.released)
        self._work_reader = self._reader()
        self._control_reader = self._reader()
        self._buffer = bytearray(_PACKET_BYTES)
        self._view = memoryview(self._buffer)
        self._unsent: deque[bytes] = deque()  # at most one per reply or iterator that died
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[wire.Answer]] = {}
        self._alive = True
        self.instance_name = ""
        self.decoupled = False
        self.outputs: tuple[str, ...] = ()  # what is requested where nothing is
        self.cancelled: set[int] = set()
        self.executing = range(0)  # the numbers of the batch that the main thread has
        self.replies: weakref.WeakValueDictionary[int, Reply] = weakref.WeakValueDictionary()
        self.calls: dict[int, Call] = {}  # calls to other models, by number
        self.bls_limit = threading.BoundedSemaphore(1)
        self.bls_allowed = False
        self.check_ready: Callable[[], None] = lambda: None
        os.register_at_fork(after_in_child=self._disarm)

    def _reader(self) -> BatchReader[Tensor]:
        return BatchReader(Tensor._received, received_record, self._segments, self._release)

    def _disarm(self) -> None:
        """A process that the model forked must not speak for it, nor keep its sockets open."""
        self._alive = False
        self._work.close()
        self._control.close()

    def configure(self, load: wire.Load) -> None:
        """Called once, with the first thing that the server says."""
        self.instance_name = load.instance_name
        self.decoupled = bool(load.decoupled)
        config = json.loads(load.config_json)
        states = config.get("sequence_batching", {}).get("state", ())
        self.outputs = (
            *(output["name"] for output in config.get("output", ())),
            *(state["output_name"] for state in states),  # the server's, whoever asked for what
        )
        self.bls_limit = threading.BoundedSemaphore(load.bls_limit)
        self._arena.first_bytes = load.first_segment_bytes
        self._arena.growth_bytes = load.segment_growth_bytes

    # --- sending ---------------------------------------------------------------------------------

    def send(self, message: wire.Message) -> None:
        """Say something; blocks while the server does not read."""
        packet = wire.encode(message)
        with self._send_lock:
            self._transmit(packet)

    def send_soon(self, message: wire.Message) -> None:
        """As `send`, but safe in a `__del__`: takes no lock and never blocks."""
        if not self._alive:
            return
        packet = wire.encode(message)
        try:
            self._work.send(packet, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._unsent.append(packet)
        except OSError:
            return  # the server is gone; the service thread ends the process

    def send_records(
        self,
        tag: int,
        base: int,
        make_prefix: Callable[[], bytes],
        records: Sequence[Record],
    ) -> None:
        """Send a message with tensors. Raises WireError or ArenaFullError, and then nothing went.

        `make_prefix` is called once the tensors have been gathered, so that it may tell the time.
        """
        with self._send_lock:
            self._transmit(self._writer.build(tag, base, records, make_prefix))

    def _transmit(self, packet: bytes) -> None:
        if not self._alive:
            raise ParentGoneError
        if len(packet) > MESSAGE_LIMIT:
            span = self._arena.place(packet)
            packet = wire.encode(wire.Spilled(*span))
        arena = self._arena
        if arena.new_segments or arena.dropped:
            self._announce_segments()
        try:
            while self._unsent:
                self._work.send(self._unsent.popleft())
            self._work.send(packet)
        except OSError as error:
            raise ParentGoneError from error

    def _announce_segments(self) -> None:
        arena = self._arena
        while arena.new_segments:
            new = arena.new_segments.pop(0)
            descriptors = array.array("i", [new.descriptor])
            try:
                self._control.sendmsg(
                    [wire.encode(wire.Segment(new.number))],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)],
                )
            finally:
                os.close(new.descriptor)
        while arena.dropped:
            self._work.send(wire.encode(wire.ForgetSegment(arena.dropped.pop())))

    def _release(self, segment: int, offset: int) -> None:
        # Only a defect of the server could give back what is not in use.
        with self._send_lock:
            self._arena.release(segment, offset)

    # --- receiving -------------------------------------------------------------------------------

    def receive(self) -> bytearray:
        """The next packet on `work`, for the main thread. Raises ParentGoneError."""
        try:
            size = self._work.recv_into(self._buffer)
        except OSError as error:
            raise ParentGoneError from error
        if not size:
            raise ParentGoneError
        # A copy, because the model may keep and change what lies in it.
        packet = bytearray(self._view[:size])
        if packet[0] == _SPILLED:
            return self._unspill(packet)
        return packet

    def _unspill(self, packet: bytearray) -> bytearray:
        span = wire.decode(packet)
        assert isinstance(span, wire.Spilled), "the tag says so"
        return bytearray(self._segments.array(Span(*span)))

    def _await_segment(self, number: int) -> None:
        """The service thread receives new segments; the one wanted was sent before."""
        with self._segment_came:
            self._segment_came.wait_for(lambda: number in self._segments)

    def read_requests(self, packet: bytearray) -> Records[Tensor]:
        """Take an EXECUTE apart, for the main thread."""
        return self._work_reader.read(packet)

    def serve(self) -> None:
        """The service thread: whatever arrives on `control`, until the server is gone."""
        while True:
            packet, descriptors = self._receive_control()
            if packet[0] == wire.BLS_RESPONSE:
                self._hear_response(packet)
                continue
            message = wire.decode(packet)
            if isinstance(message, wire.Segment):
                with self._segment_came:
                    self._segments.attach(message.number, descriptors[0])
                    self._segment_came.notify_all()
            elif isinstance(message, wire.ForgetSegment):
                self._segments.detach(message.number)
            elif isinstance(message, wire.Cancel):
                self._hear_cancel(message.number)
            elif isinstance(message, wire.Credit):
                self._hear_credit(message)
            elif isinstance(message, wire.Answer):
                self._answers[message.call].put(message)
            elif isinstance(message, wire.CheckReady):
                self.check_ready()

    def _receive_control(self) -> tuple[bytearray, list[int]]:
        try:
            raw, ancillary, _, _ = self._control.recvmsg(_PACKET_BYTES, _DESCRIPTOR_BYTES)
        except OSError as error:
            raise ParentGoneError from error
        if not raw:
            raise ParentGoneError
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        packet = bytearray(raw)
        if packet[0] == _SPILLED:
            packet = self._unspill(packet)
        return packet, list(descriptors)

    def _hear_cancel(self, number: int) -> None:
        reply = self.replies.get(number)
        executing = self.executing
        # One that is neither late, nor running, nor still to be read, has ended.
        if reply is None and number < executing.start:
            return
        if len(self.cancelled) >= _CANCELLED_LIMIT:
            ended = [n for n in self.cancelled if n < executing.start and n not in self.replies]
            self.cancelled.difference_update(ended)
        self.cancelled.add(number)
        if reply is not None:
            reply.wake()

    def _hear_credit(self, credit: wire.Credit) -> None:
        for at in range(0, len(credit.releases), RELEASE.size):
            self._release(*RELEASE.unpack_from(credit.releases, at))
        reply = self.replies.get(credit.number)
        if reply is not None:
            reply.grant(credit.room)

    def _hear_response(self, packet: bytearray) -> None:
        (final,) = wire.FINAL.unpack_from(packet, wire.PREFIX_AT)
        records = self._control_reader.read(packet, wire.FINAL.size)
        call = self.calls.get(records.base)
        if call is not None:
            if final:
                del self.calls[records.base]
            call.hear(records, bool(final))

    # --- asking ----------------------------------------------------------------------------------

    def failed_here(self) -> str:
        """What Triton puts before the server's own words when a question of the model fails."""
        return f"Failed to process the request for model '{self.instance_name}', message: "

    def next_number(self) -> int:
        """A number that no other call of this process has."""
        return next(self._numbers)

    def ask(self, make: Callable[[int], wire.Message]) -> wire.Answer:
        """Send `make(call number)` and wait for the server's answer."""
        number = self.next_number()
        answers: queue.SimpleQueue[wire.Answer] = queue.SimpleQueue()
        self._answers[number] = answers
        try:
            self.send(make(number))
            return answers.get()
        finally:
            del self._answers[number]


_SPILLED = wire.encode(wire.Spilled(0, 0, 0))[0]

_current: Host | None = None


def current() -> Host:
    """The one connection of this process. Raises RuntimeError outside a worker."""
    if _current is None:
        raise RuntimeError("pb_utils only works inside a worker process of the server")
    return _current


def install(host: Host) -> None:
    """Make `host` the process's connection."""
    global _current  # noqa: PLW0603  # one per process, set once by the worker's main
    _current = host
