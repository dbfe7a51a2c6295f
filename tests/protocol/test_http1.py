"""The HTTP/1.1 connection state: requests, pipelining, bodies, limits and time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from protocol.http1 import (
    SMALL_BODY_BYTES,
    ContinueExpected,
    Http1Connection,
    HttpEvent,
    HttpLimits,
    HttpRequest,
    IdleTimedOut,
)
from protocol.http1_chunked import MAX_NONEMPTY_CHUNKS, TOO_MANY_CHUNKS
from protocol.http1_error import HttpError
from protocol.http1_head import HeadParser, _framing

LIMITS = HttpLimits(max_head_bytes=1024, max_body_bytes=1 << 20, max_header_lines=8)
GET = b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, *lines: str) -> bytes:
    head = ["POST /v2/models/m/infer HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + end


def receive(data: bytes, limits: HttpLimits = LIMITS) -> list[HttpEvent]:
    return Http1Connection(limits).receive(data, 0.0)


def receive_by_byte(data: bytes, limits: HttpLimits = LIMITS) -> list[HttpEvent]:
    connection = Http1Connection(limits)
    events: list[HttpEvent] = []
    for index in range(len(data)):
        events += connection.receive(data[index : index + 1], 0.0)
    return events


def only_request(data: bytes, limits: HttpLimits = LIMITS) -> HttpRequest:
    (event,) = receive(data, limits)
    assert isinstance(event, HttpRequest)
    return event


def refused(data: bytes, limits: HttpLimits = LIMITS) -> HttpError:
    """The error that `data` ends with, which must not depend on how it is cut."""
    whole, by_byte = receive(data, limits), receive_by_byte(data, limits)
    last, also_last = whole[-1], by_byte[-1]
    assert isinstance(last, HttpError)
    assert isinstance(also_last, HttpError)
    assert (last.status, last.message) == (also_last.status, also_last.message)
    return last


def test_a_request_without_a_body_has_its_parts() -> None:
    request = only_request(b"GET /v2/models/a%20b?x=1 HTTP/1.1\r\nHost: a\r\nX-One: 1 \r\n\r\n")
    assert (request.method, request.path, request.head.query) == ("GET", "/v2/models/a%20b", "x=1")
    assert request.headers == {"host": "a", "x-one": "1"}
    assert request.head.header_lines == (("Host", "a"), ("X-One", "1"))
    assert request.keep_alive
    assert request.body == b""
    assert repr(request) == "HttpRequest(GET /v2/models/a%20b, 0 bytes)"


def test_values_of_a_repeated_header_are_joined() -> None:
    request = only_request(b"GET / HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n")
    assert request.headers["a"] == "1, 2"
    assert request.head.header_lines == (("A", "1"), ("a", "2"))


def test_header_values_are_latin_1() -> None:
    assert only_request(b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n").headers["a"] == "\xff"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://host:8000/v2/models/m?a=b", "/v2/models/m", "a=b"),
        (b"HTTP://host", "/", ""),
        (b"http://host?a/b", "/", "a/b"),
        (b"//v2//models", "//v2//models", ""),
        (b"*", "*", ""),
        (b"/v2/models/http://x/y", "/v2/models/http://x/y", ""),
    ],
)
def test_forms_of_the_request_target(target: bytes, path: str, query: str) -> None:
    head = only_request(b"OPTIONS " + target + b" HTTP/1.1\r\n\r\n").head
    assert (head.path, head.query) == (path, query)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Keep-Alive, Close", False),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
    ],
)
def test_persistence(version: str, connection: str | None, kept: bool) -> None:
    line = f"Connection: {connection}\r\n" if connection else ""
    connected = Http1Connection(LIMITS)
    data = f"GET / HTTP/{version}\r\n{line}\r\n".encode()
    first, *rest = connected.receive(data * 2, 0.0)
    assert isinstance(first, HttpRequest)
    assert first.keep_alive is kept
    assert len(rest) == int(kept)
    assert connected.is_closed is not kept
    assert connected.receive(data, 0.0) == [] or kept


def test_pipelined_requests_come_in_order() -> None:
    data = post(b"one") + GET + chunked(b"tw", b"o") + post(b"three")
    for events in (receive(data), receive_by_byte(data)):
        bodies = [bytes(event.body) for event in events if isinstance(event, HttpRequest)]
        assert bodies == [b"one", b"", b"two", b"three"]


def test_blank_lines_before_a_request_are_ignored() -> None:
    data = b"\r\n\r\n" + GET + b"\r\n" + GET
    assert len(receive(data)) == len(receive_by_byte(data)) == 2


def test_an_upgrade_offer_is_declined_by_answering() -> None:
    offer = b"GET /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert len(receive(offer + GET)) == 2


@pytest.mark.parametrize("size", [1, SMALL_BODY_BYTES, SMALL_BODY_BYTES + 1, 300_000])
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_bodies_arrive_whole_however_they_are_cut(size: int, step: int) -> None:
    body = bytes(index * 7 % 251 for index in range(size))
    data = post(body) + GET
    connection = Http1Connection(LIMITS)
    events: list[HttpEvent] = []
    for start in range(0, len(data), step):
        events += connection.receive(data[start : start + step], 0.0)
    first, second = events
    assert isinstance(first, HttpRequest)
    assert isinstance(second, HttpRequest)
    assert first.body == body
    if isinstance(first.body, memoryview):
        assert first.body.readonly
        assert size > SMALL_BODY_BYTES
    else:
        assert size <= SMALL_BODY_BYTES


def test_a_collected_body_is_padded_so_that_its_first_tensor_is_aligned() -> None:
    np = pytest.importorskip("numpy")
    body = b"x" * 101 + bytes(100_000)
    data = post(body, "Inference-Header-Content-Length: 101")
    connection = Http1Connection(LIMITS)
    assert connection.receive(data[:50_000], 0.0) == []
    (request,) = connection.receive(data[50_000:], 0.0)
    assert isinstance(request, HttpRequest)
    assert request.body == body
    assert np.frombuffer(request.body[101:], dtype=np.float64).flags.aligned


def test_a_claimed_length_allocates_nothing() -> None:
    connection = Http1Connection(HttpLimits())
    head = b"POST / HTTP/1.1\r\nContent-Length: 2147483647\r\n\r\n"
    assert connection.receive(head + b"x", 0.0) == []
    assert len(connection._body) == 1
    assert connection.read_size == 1 << 20


def test_expect_continue_is_said_unless_the_body_has_begun() -> None:
    data = post(b"body", "Expect: 100-continue")
    connection = Http1Connection(LIMITS)
    assert connection.receive(data[:-4], 0.0) == [ContinueExpected()]
    assert len(connection.receive(b"body", 0.0)) == 1
    assert len(receive(data)) == 1
    assert isinstance(receive(data)[0], HttpRequest)


def test_expectations() -> None:
    error = refused(post(b"x", "Expect: miracles"))
    assert (error.status, error.message) == (417, "unknown expectation 'miracles'")
    too_large = post(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 9999999")
    assert refused(too_large).status == 413


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),  # folded line
        (b"GET / HTTP/1.1\r\nA: b\n\r\n", 400),  # bare line feed
        (b"GET / HTTP/1.1\nA: b\n\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: \x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA\xff: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA\x00: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),  # a TLS hello: no need to wait for its end
        (b"FOO / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n0", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: \r\n\r\n0", 400),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1024 + b"\r\n\r\n", 431),
    ],
)
def test_a_head_that_two_readers_could_read_differently_is_refused(
    data: bytes, status: int
) -> None:
    assert refused(data).status == status


@pytest.mark.parametrize(
    "block",
    [
        GET + GET,  # two requests
        b"GET / HTTP/1.1\r\nA: b\r\n",  # none
    ],
)
def test_the_parser_itself_takes_one_head_only(block: bytes) -> None:
    with pytest.raises(HttpError, match="the head does not end at its blank line"):
        HeadParser(max_header_lines=8).parse(block)


def test_framing_does_not_rely_on_the_parser_below() -> None:
    for headers in (
        {"content-length": "1", "transfer-encoding": "chunked"},
        {"content-length": "1, 1"},
        {"content-length": "\u0661"},
    ):
        with pytest.raises(HttpError) as caught:
            _framing(headers, is_http_11=True)
        assert caught.value.status == 400
    with pytest.raises(HttpError) as caught:
        _framing({"transfer-encoding": "chunked"}, is_http_11=False)
    assert caught.value.status == 400


def test_a_length_beyond_int32_has_tritons_text() -> None:
    error = refused(b"POST / HTTP/1.1\r\nContent-Length: 10000000000\r\n\r\n")
    assert error.status == 400
    assert error.message == (
        "Unable to parse Content-Length, value is out of range [ -2147483648, 2147483647 ], "
        "got: 10000000000"
    )


def test_the_body_limit_counts_the_bytes_of_either_framing() -> None:
    limits = replace(LIMITS, max_body_bytes=10)
    assert only_request(post(b"x" * 10), limits).body == b"x" * 10
    assert only_request(chunked(b"x" * 5, b"y" * 5), limits).body == b"xxxxxyyyyy"
    for data in (post(b"x" * 11), chunked(b"x" * 5, b"y" * 6), chunked(b"x" * 11)):
        error = refused(data, limits)
        assert (error.status, error.message) == (
            413,
            "request body exceeds the maximum of 10 bytes",
        )


def test_chunk_extensions_and_trailers_are_dropped() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
    body = b'3 ;a="b"\r\nabc\r\n00;x\r\nDigest: 1\r\nMore: 2\r\n\r\n'
    for events in (receive(head + body + GET), receive_by_byte(head + body + GET)):
        first, second = events
        assert isinstance(first, HttpRequest)
        assert isinstance(second, HttpRequest)
        assert first.body == b"abc"


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1" * 17 + b"\r\n",
        b"3\nabc",
        b"\n",
        b"3\r\nabcd",
        b"3\r\nabc\n",
        b"3;" + b"x" * 300,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: no name\r\n\r\n",
        b"0\r\nA: " + b"x" * 9000,
        b"0\r\n" + b"A: b\r\n" * 2000,
        b"3;a\rb\r\n",
    ],
)
def test_a_malformed_chunk_is_refused(body: bytes) -> None:
    assert refused(chunked(end=body)).status == 400


def test_the_number_of_chunks_is_limited() -> None:
    most = chunked(*[b"x"] * MAX_NONEMPTY_CHUNKS)
    assert only_request(most).body == b"x" * MAX_NONEMPTY_CHUNKS
    connection = Http1Connection(LIMITS)
    (error,) = connection.receive(chunked(*[b"x"] * (MAX_NONEMPTY_CHUNKS + 1)), 0.0)
    assert isinstance(error, HttpError)
    assert (error.status, error.message) == (400, TOO_MANY_CHUNKS)
    assert error.message == (
        "Chunked request body exceeds maximum of 65536 non-empty chunks. "
        "Send fewer or larger HTTP chunks."
    )
    assert connection.is_closed


def test_requests_before_a_malformed_one_are_still_said() -> None:
    first, second = receive(GET + b"nonsense")
    assert isinstance(first, HttpRequest)
    assert isinstance(second, HttpError)


def test_unanswered_requests_are_bounded() -> None:
    limits = replace(LIMITS, max_requests_in_flight=2)
    connection = Http1Connection(limits)
    assert len(connection.receive(GET * 3 + GET[:9], 1.0)) == 2
    assert not connection.wants_data
    assert connection.requests_in_flight == 2
    assert connection.next_wake == math.inf
    connection.reply_sent(2.0)
    assert connection.wants_data
    assert len(connection.receive(b"", 2.0)) == 1
    connection.reply_sent(3.0)
    connection.reply_sent(3.0)
    assert connection.receive(b"", 3.0) == []
    # The head's time runs from when the connection could look at it.
    assert connection.next_wake == 3.0 + limits.head_timeout_seconds
    assert len(connection.receive(GET[9:], 4.0)) == 1


def test_an_idle_connection_is_closed_without_a_word() -> None:
    connection = Http1Connection(LIMITS, now=10.0)
    assert connection.is_idle
    assert connection.next_wake == 10.0 + LIMITS.idle_timeout_seconds
    connection.receive(GET, 20.0)
    assert not connection.is_idle
    assert connection.next_wake == math.inf
    connection.reply_sent(30.0)
    assert connection.is_idle
    wake = connection.next_wake
    assert wake == 30.0 + LIMITS.idle_timeout_seconds
    assert connection.tick(wake - 1.0) is None
    assert connection.tick(wake) == IdleTimedOut()
    assert connection.is_closed
    assert connection.tick(wake) is None
    assert connection.next_wake == math.inf


def test_a_head_must_come_within_its_time_however_often_bytes_come() -> None:
    connection = Http1Connection(LIMITS)
    connection.receive(GET[:5], 100.0)
    connection.receive(GET[5:20], 120.0)
    assert connection.next_wake == 130.0
    error = connection.tick(130.0)
    assert isinstance(error, HttpError)
    assert (error.status, error.message) == (408, "timed out waiting for the request head")


def test_a_head_behind_a_request_has_a_time_of_its_own() -> None:
    connection = Http1Connection(LIMITS)
    connection.receive(GET + GET[:5], 100.0)
    assert connection.next_wake == 130.0
    connection.reply_sent(110.0)
    assert connection.next_wake == 130.0


@pytest.mark.parametrize("data", [post(b"x" * 4096)[:-2048], chunked(b"x" * 2048, end=b"")])
def test_a_body_must_come_at_the_slowest_rate_allowed(data: bytes) -> None:
    connection = Http1Connection(LIMITS)
    assert connection.receive(data, 100.0) == []
    assert connection.next_wake == 100.0 + 60.0 + 2.0
    error = connection.tick(162.0)
    assert isinstance(error, HttpError)
    assert (error.status, error.message) == (408, "timed out waiting for the request body")


def test_a_head_is_remembered_by_its_bytes() -> None:
    connection = Http1Connection(LIMITS)
    first, second = connection.receive(GET + GET, 0.0)
    assert isinstance(first, HttpRequest)
    assert isinstance(second, HttpRequest)
    assert first.head is second.head


def test_what_is_remembered_is_bounded() -> None:
    connection = Http1Connection(HttpLimits())
    for index in range(1200):
        connection.receive(b"GET /%d HTTP/1.1\r\n\r\n" % index, 0.0)
        connection.reply_sent(0.0)
    assert 0 < len(connection._heads._remembered) <= 512
    connection.receive(b"GET / HTTP/1.1\r\nA: " + b"x" * 3000 + b"\r\n\r\n", 0.0)
    assert max(map(len, connection._heads._remembered)) <= 2048
