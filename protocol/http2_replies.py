"""What a frontend says on a call: heads, messages, trailers, whole replies.

Owns the two short cuts that nearly all calls take: a small unary reply is one buffer, a small
message is written without waiting in a queue. It never reads frames and never looks at a clock.
"""

from __future__ import annotations

from protocol.http2_budget import EARNED_BY_FRAME_SENT
from protocol.http2_events import OutgoingMessage
from protocol.http2_output import COPY_BYTES, OutputHalf
from protocol.http2_responses import Headers
from protocol.http2_wire import (
    DATA,
    DATA_AND_PREFIX,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    PREFIX,
    PREFIX_BYTES,
    ErrorCode,
    ping_frame,
    rst_stream_frame,
)


class ReplyHalf(OutputHalf):
    """See Http2Connection for the rules of use."""

    def send_unary_reply(
        self, stream_id: int, message: OutgoingMessage, *, compressed: bool = False
    ) -> bool:
        """Head, message and `grpc-status: 0` at once. False if the call is over already.

        `message`, or each of its pieces, must be bytes-like with items of one octet; it is kept by
        reference if large.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        if isinstance(message, list):
            nbytes = sum(map(len, message)) + PREFIX_BYTES
        else:
            nbytes = len(message) + PREFIX_BYTES
        pack = self._pack_reply
        if (
            pack is None
            or nbytes > COPY_BYTES
            or nbytes > self._send_window
            or nbytes > call.send_window
            or call.response_begun
            or self._ready
            or self._framed_bytes >= self.limits.output_bytes
        ):
            if not call.response_begun:
                self.send_response_headers(stream_id)
            if not self.send_message(stream_id, message, compressed=compressed):
                return False
            return self.send_trailers(stream_id, 0)
        head = self._reply_head
        tail = self._reply_tail
        front = pack(
            len(head) << 8 | HEADERS,
            END_HEADERS,
            stream_id,
            head,
            nbytes << 8,
            0,
            stream_id,
            compressed,
            nbytes - PREFIX_BYTES,
        )
        back = FRAME.pack(len(tail) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id)
        if isinstance(message, list):
            self._out.append(b"".join((front, *message, back, tail)))
        else:
            self._out.append(b"".join((front, message, back, tail)))
        self._framed_bytes += nbytes
        self._send_window -= nbytes
        self._sent_since_ping = True
        self._end(call)
        return True

    def send_response_headers(self, stream_id: int, headers: Headers = ()) -> bool:
        """The head of a gRPC response. Names lower-case, values latin-1 without controls."""
        call = self._calls.get(stream_id)
        if call is None or call.response_begun:
            return False
        call.response_begun = True
        self._write_block(stream_id, 0, self._blocks.head(headers))
        return True

    def send_message(
        self, stream_id: int, message: OutgoingMessage, *, compressed: bool = False
    ) -> bool:
        """One message of a response whose head was sent; large ones are kept by reference.

        Never refuses for want of room: look at `writable` before producing the next one.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        assert call.response_begun, "the head goes before the first message"
        pieces = message if isinstance(message, list) else (message,)
        nbytes = sum(map(len, pieces)) + PREFIX_BYTES
        outbox = call.outbox
        if outbox is not None and outbox.is_complete:
            return False
        if (
            outbox is None
            and nbytes <= COPY_BYTES
            and nbytes <= self._send_window
            and nbytes <= call.send_window
            and not self._ready
            and self._framed_bytes < self.limits.output_bytes
        ):
            front = DATA_AND_PREFIX.pack(
                nbytes << 8 | DATA, 0, stream_id, compressed, nbytes - PREFIX_BYTES
            )
            self._out.append(b"".join((front, *pieces)))
            self._framed_bytes += nbytes
            self._send_window -= nbytes
            call.send_window -= nbytes
            self._sent_since_ping = True
            self._budget.tokens += EARNED_BY_FRAME_SENT
            return True
        prefix = PREFIX.pack(compressed, nbytes - PREFIX_BYTES)
        if nbytes <= COPY_BYTES:
            self._queue(call, (b"".join((prefix, *pieces)),))
        else:
            self._queue(call, (prefix, *pieces))
        return True

    def send_trailers(
        self, stream_id: int, status: int, message: str = "", headers: Headers = ()
    ) -> bool:
        """End a call with a gRPC status; `message` is percent-encoded by the caller.

        Without a head before it this is the whole answer. The call is over once everything that
        waits before the trailers has been framed; nothing more may be sent on it.
        """
        call = self._calls.get(stream_id)
        if call is None:
            return False
        outbox = call.outbox
        if outbox is not None:
            if outbox.is_complete:
                return False
            outbox.is_complete = True
            outbox.ending = (status, message, headers)
            return True
        self._write_trailers(call, status, message, headers)
        return True

    def send_http_response(
        self, stream_id: int, status: int, headers: Headers = (), body: bytes = b""
    ) -> bool:
        """The whole answer to an HttpRequest."""
        call = self._calls.get(stream_id)
        if call is None or call.response_begun:
            return False
        call.response_begun = True
        block = self._blocks.http(status, headers)
        if not body:
            self._write_block(stream_id, END_STREAM, block)
            self._end(call)
            return True
        self._write_block(stream_id, 0, block)
        self._queue(call, (body,)).is_complete = True
        return True

    def reset(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> bool:
        """End a call at once, dropping what waits. The frontend gets no event for it."""
        call = self._calls.get(stream_id)
        if call is None:
            return False
        self._drop(call, by_peer=False)
        self._control(rst_stream_frame(stream_id, error_code))
        return True

    def ping(self, opaque: bytes) -> None:
        """Ask for a sign of life; `opaque` is eight octets of the frontend's choice."""
        assert len(opaque) == 8, "a ping carries eight octets"
        if not self._is_closed:
            self._control(ping_frame(opaque, ack=False))
