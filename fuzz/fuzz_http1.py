"""Fuzz the HTTP/1.1 connection: `python fuzz/fuzz_http1.py --seconds 60`.

Invariants: whatever a peer sends, `receive` returns events, of which an HttpError is the last; the
requests and the error do not depend on how the bytes are cut; what is kept is bounded by what came
and by the limits; and where another parser (h11) accepts the same bytes, it sees the same requests.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h11

from fuzz.mutations import Fuzzer, main
from protocol.api_keys import Guard
from protocol.http1 import Http1Connection, HttpLimits, HttpRequest
from protocol.http1_error import HttpError
from protocol.http1_head import HeadParser
from protocol.http1_response import encode_error
from protocol.restriction import RestrictedApis
from protocol.routes import dispatch

# Small enough for inputs of a few kilobytes to reach every one of them.
LIMITS = HttpLimits(
    max_head_bytes=1024, max_header_lines=16, max_body_bytes=4096, max_requests_in_flight=4
)
MAX_BYTES_ONE_BY_ONE = 1024
OPEN = Guard(RestrictedApis({}))

Seen = list[tuple[object, ...]]

TOKENS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b":", b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;a=b\r\n",
    b"GET /v2 HTTP/1.1\r\n\r\n", b"POST ", b"HEAD ", b"HTTP/1.0", b"http://h/", b"//", b"%2F",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length:", b"99999999999",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Host: a\r\n",
    b"Inference-Header-Content-Length: 3\r\n", b"\x00", b"\xff", b"\t", b"ffffffffffffffff",
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """Feed one input, cut in several ways; raises if an invariant does not hold."""
    heads = HeadParser(max_header_lines=LIMITS.max_header_lines)
    whole = _seen(data, [len(data)], heads)
    assert _seen(data, [len(data)], heads) == whole, "remembered heads mean something else"
    step = 1 if len(data) <= MAX_BYTES_ONE_BY_ONE else 7
    sizes = [step] * (len(data) // step + 1)
    assert _seen(data, sizes) == whole, "bytes one by one mean something else"
    cut = 1 + len(data) // 3
    assert _seen(data, [cut] * 3) == whole, "bytes in three parts mean something else"
    _compare(data, whole)


def _seen(data: bytes, sizes: list[int], heads: HeadParser | None = None) -> Seen:
    connection = Http1Connection(LIMITS, heads=heads)
    seen: Seen = []
    start = 0
    for size in sizes:
        events = connection.receive(data[start : start + size], 0.0)
        start += size
        while events:
            for event in events:
                assert not (seen and seen[-1][0] == "error"), "an error is the last event"
                if isinstance(event, HttpRequest):
                    seen.append(_request(event))
                    connection.reply_sent(0.0)
                elif isinstance(event, HttpError):
                    seen.append(("error", event.status, event.message))
                    assert encode_error(event)
            # Requests beyond the limit in flight wait for answers, which were given above.
            events = connection.receive(b"", 0.0) if connection.wants_data else []
        kept = len(connection._pending) + len(connection._body)  # noqa: SLF001  # what is bounded
        assert kept <= min(start, max(LIMITS.max_head_bytes, LIMITS.max_body_bytes)) + 9000
        assert connection.next_wake > 0.0
    return seen


def _request(request: HttpRequest) -> tuple[object, ...]:
    try:
        operation: object = dispatch(request.method, request.path, request.headers, OPEN)
    except HttpError as error:
        operation = error.status
    head = request.head
    return (
        "request", head.method, head.path, head.query, tuple(head.headers.items()),
        head.keep_alive, bytes(request.body), operation,
    )  # fmt: skip


def _compare(data: bytes, seen: Seen) -> None:
    """Two servers that see different requests in the same bytes can be played off one another."""
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    peer.receive_data(data)
    for expected in seen:
        if expected[0] != "request":
            return
        try:
            method, body = _next_request(peer)
        except h11.RemoteProtocolError:
            return
        assert method == str(expected[1]).encode(), (method, expected)
        assert body == expected[6], (body, expected)
        if method == b"CONNECT":  # h11 takes the accepted ones for the end of HTTP
            return
        peer.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        peer.send(h11.EndOfMessage())
        if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
            return  # h11 closes after every HTTP/1.0 request, and after an offer to upgrade
        peer.start_next_cycle()


def _next_request(peer: h11.Connection) -> tuple[bytes, bytes]:
    """(method, body) of the next request; raises if h11 sees none."""
    request = peer.next_event()
    if not isinstance(request, h11.Request):
        raise h11.RemoteProtocolError("h11 waits for more, where it limits nothing")
    body = b""
    while True:
        event = peer.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            raise h11.RemoteProtocolError("h11 waits for more of the body")
    return request.method, body


FUZZER = Fuzzer("http1", fuzz_one, TOKENS)

if __name__ == "__main__":
    main(FUZZER, __doc__)
