"""The server's end of the conversation with one worker process.

Owns both sockets, the arena that the worker's inputs go through and the segments that its outputs
come in. Synchronous: nothing here waits, and a full socket says so. It never decides what is said.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from actors.processes.packet_tensors import tensor_reader
from protocol.inference import InferRequest, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest, Outcome
from repo.backends.python import wire
from repo.backends.python.arena import Arena, SegmentMap, Span
from repo.backends.python.extras import pack_error, pack_request_extras, pack_trace
from repo.backends.python.layout import WireError
from repo.backends.python.progress import Progress, make_progress
from repo.backends.python.records import (
    FAILED,
    LATE,
    MESSAGE_LIMIT,
    RELEASE,
    BatchWriter,
    Record,
    Records,
)

# Room for one packet; a sender never exceeds MESSAGE_LIMIT.
PACKET_BYTES: Final = MESSAGE_LIMIT + 4096

# Asked of the kernel, which grants what it may; then an execution never waits for room.
_SOCKET_BUFFER_BYTES: Final = 1 << 20

# Spans given back with one credit; more wait for the next one.
_MAX_RELEASES: Final = 1024

_DESCRIPTOR_BYTES: Final = socket.CMSG_SPACE(4)

_SPILLED: Final = wire.encode(wire.Spilled(0, 0, 0))[0]


# The number of a status is its place: Triton's, and so pb_utils.TritonError's.
STATUS_OF_CODE: Final = (
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.NOT_FOUND,
    StatusCode.INVALID_ARG,
    StatusCode.UNAVAILABLE,
    StatusCode.UNSUPPORTED,
    StatusCode.ALREADY_EXISTS,
    StatusCode.CANCELLED,
)
_CODE_OF_STATUS: Final = {
    **{status: code for code, status in enumerate(STATUS_OF_CODE)},
    StatusCode.DEADLINE_EXCEEDED: STATUS_OF_CODE.index(StatusCode.UNAVAILABLE),
}


class WorkerGoneError(Exception):
    """The worker has closed its end, or is dead."""


class Link:
    """See the module's docstring. `close` it once."""

    def __init__(self, *, first_segment_bytes: int, segment_growth_bytes: int) -> None:
        self._work, self._worker_work = _socket_pair()
        self._control, self._worker_control = _socket_pair()
        self._worker_progress = make_progress()
        self._progress = Progress(self._worker_progress)
        self._arena = Arena(first_bytes=first_segment_bytes, growth_bytes=segment_growth_bytes)
        self._segments = SegmentMap(writable=False, missing=self._fetch_segment)
        released = self._segments.released
        self._work_writer = BatchWriter(self._arena, released)
        self._control_writer = BatchWriter(self._arena, released)
        self._reader = tensor_reader(self._segments, self._arena.release)
        self._buffer = bytearray(PACKET_BYTES)
        self._view = memoryview(self._buffer)
        # Bounded by what the worker has under way: at most one cancellation and two credits per
        # late request, a window of responses per call of its own, an answer per question.
        self._backlog: deque[tuple[bytes, int]] = deque()  # packet, descriptor or -1

    @property
    def worker_descriptors(self) -> tuple[int, int, int]:
        """What the worker inherits: its ends of `work` and `control`, and its progress."""
        return self._worker_work.fileno(), self._worker_control.fileno(), self._worker_progress

    @property
    def begun(self) -> int:
        """The number of the first request of the last batch that the model has been given."""
        return self._progress.begun

    def close_worker_ends(self) -> None:
        """Called once the worker has its own copies."""
        self._worker_work.close()
        self._worker_control.close()
        if self._worker_progress >= 0:
            os.close(self._worker_progress)
            self._worker_progress = -1

    def close(self) -> None:
        self.close_worker_ends()
        self._work.close()
        self._control.close()
        for _, descriptor in self._backlog:
            if descriptor >= 0:
                os.close(descriptor)
        self._backlog.clear()
        self._progress.close()
        self._arena.close()
        self._segments.close()
        # A link refers to itself in a circle: what is large must not wait for the collector.
        self._view.release()
        self._buffer = bytearray()

    @property
    def work_descriptor(self) -> int:
        return self._work.fileno()

    @property
    def control_descriptor(self) -> int:
        return self._control.fileno()

    # --- to the worker ---------------------------------------------------------------------------

    def execute_packet(self, base: int, requests: Sequence[ExecuteRequest]) -> bytes:
        """The packet that asks for a batch whose requests are numbered from `base`.

        Raises WireError for a tensor whose bytes do not fit its shape, ArenaFullError, and KeyError
        for an unknown datatype.
        """
        records: list[Record] = []
        for execute in requests:
            request = execute.request
            inputs = request.inputs
            shapes = tuple([(t.name, t.datatype, t.shape) for t in inputs])
            extras = (
                _extras(request)
                if request.id
                or request.correlation_id
                or request.parameters
                or request.timeout_us
                or request.sequence_flags
                or request.trace is not None
                else b""
            )
            records.append(
                ((request.requested_outputs, shapes), [t.raw for t in inputs], 0, extras)
            )
        return self._fit(self._work_writer.build(wire.EXECUTE, base, records))

    def packet(self, message: wire.Message) -> bytes:
        """The packet of one message for `work`. Raises ArenaFullError."""
        return self._fit(wire.encode(message))

    def send_work(self, packet: bytes) -> bool:
        """Send a packet; False when there is no room now. Raises WorkerGoneError."""
        try:
            self._work.send(packet)
        except BlockingIOError:
            return False
        except OSError as error:
            raise WorkerGoneError from error
        return True

    def say(self, message: wire.Message) -> None:
        """Send a message on `control`, or keep it until `flush`. Raises ArenaFullError."""
        self._control_out(self._fit(wire.encode(message)), -1)

    def say_response(self, number: int, outcome: Outcome | None, final: bool) -> None:
        """A response to one of the worker's own calls, on `control`. Raises ArenaFullError."""
        record: Record
        if outcome is None:
            record = (None, (), LATE, b"")
        elif isinstance(outcome, ServerError):
            error = pack_error(_CODE_OF_STATUS[outcome.status], outcome.message)
            record = (None, (), FAILED, error)
        else:
            tensors = outcome.outputs
            record = (
                ((), tuple([(t.name, t.datatype, t.shape) for t in tensors])),
                [t.raw for t in tensors],
                0,
                json.dumps(outcome.parameters).encode() if outcome.parameters else b"",
            )
        prefix = wire.FINAL.pack(final)
        packet = self._control_writer.build(wire.BLS_RESPONSE, number, [record], lambda: prefix)
        self._control_out(self._fit(packet), -1)

    def take_releases(self) -> bytes:
        """The spans that nobody reads any longer, for a Credit: a stream may see no execution."""
        released = self._segments.released
        spans = [released.popleft() for _ in range(min(len(released), _MAX_RELEASES))]
        return b"".join([RELEASE.pack(*span) for span in spans])

    @property
    def has_backlog(self) -> bool:
        """Whether `control` was full; `flush` once it is writable."""
        return bool(self._backlog)

    def flush(self) -> bool:
        """Send what `control` had no room for; whether all of it went."""
        backlog = self._backlog
        while backlog:
            packet, descriptor = backlog[0]
            if not self._control_send(packet, descriptor):
                return False
            backlog.popleft()
        return True

    def _fit(self, packet: bytes) -> bytes:
        """The packet, by way of the arena when it is too long; new segments are told first."""
        arena = self._arena
        if len(packet) > MESSAGE_LIMIT:
            packet = wire.encode(wire.Spilled(*arena.place(packet)))
        while arena.new_segments:
            new = arena.new_segments.pop(0)
            self._control_out(wire.encode(wire.Segment(new.number)), new.descriptor)
        while arena.dropped:
            self._control_out(wire.encode(wire.ForgetSegment(arena.dropped.pop())), -1)
        return packet

    def _control_out(self, packet: bytes, descriptor: int) -> None:
        if self._backlog or not self._control_send(packet, descriptor):
            self._backlog.append((packet, descriptor))

    def _control_send(self, packet: bytes, descriptor: int) -> bool:
        try:
            if descriptor < 0:
                self._control.send(packet)
                return True
            rights = array.array("i", [descriptor])
            self._control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except BlockingIOError:
            return False
        except OSError:
            pass  # the worker is gone, which whoever reads `work` finds out too
        if descriptor >= 0:
            os.close(descriptor)
        return True

    # --- from the worker -------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """The next packet on `work`, None when there is none yet. Raises WorkerGoneError."""
        try:
            # Into a buffer that is kept: allocating one of this size is a system call in itself.
            size = self._work.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise WorkerGoneError from error
        if not size:
            raise WorkerGoneError
        packet = bytes(self._view[:size])
        if packet[0] == _SPILLED:
            spilled = wire.decode(packet)
            assert isinstance(spilled, wire.Spilled), "the tag says so"
            try:
                packet = bytes(self._segments.array(Span(*spilled)))
            except (KeyError, ValueError) as error:
                raise WireError(f"spilled packet: {error}") from error
            if not packet:
                raise WireError("spilled packet is empty")
        return packet

    def records(self, packet: bytes, prefix_bytes: int) -> Records[Tensor]:
        """The records of a packet with tensors. Raises WireError."""
        return self._reader.read(packet, prefix_bytes)

    def forget_segment(self, number: int) -> None:
        self._segments.detach(number)

    def _fetch_segment(self, number: int) -> None:
        """A packet names a segment that is not mapped: it was sent on `control` before.

        Raises WireError.
        """
        while number not in self._segments:
            try:
                packet, ancillary, _, _ = self._control.recvmsg(PACKET_BYTES, _DESCRIPTOR_BYTES)
            except OSError as error:
                raise WireError(f"segment {number} has not come") from error
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % 4])
            message = wire.decode(packet) if packet else None
            if not isinstance(message, wire.Segment) or len(descriptors) != 1:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise WireError(f"segment {number} has not come")
            try:
                self._segments.attach(message.number, descriptors[0])
            except ValueError as error:
                raise WireError(str(error)) from error


def _extras(request: InferRequest) -> bytes:
    parameters, trace = request.parameters, request.trace
    return pack_request_extras(
        request.id,
        request.correlation_id,
        request.sequence_flags,
        request.timeout_us,
        json.dumps(parameters) if parameters else "",
        trace="" if trace is None else pack_trace(str(trace.id), trace.context),
    )


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Ours, which never blocks, and the worker's, which does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert granted > PACKET_BYTES, (
            f"a socket may send {granted} bytes at once, workers need {PACKET_BYTES}: "
            "raise net.core.wmem_max"
        )
    ours.setblocking(False)
    return ours, theirs
