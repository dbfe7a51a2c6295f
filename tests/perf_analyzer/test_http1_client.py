"""The HTTP/1.1 client codec, byte by byte."""

from __future__ import annotations

import pytest

from perf_analyzer.http1_client import BadResponse, Head, Http1Client


class Waiting:
    """Somebody who waits for an answer."""

    def __init__(self) -> None:
        self.begun_at = 0.0
        self.answers: list[tuple[Head, bytes, float]] = []
        self.failures: list[str] = []

    def on_answer(self, head: Head, body: bytes | bytearray | memoryview, now: float) -> None:
        self.answers.append((head, bytes(body), now))

    def on_failure(self, text: str) -> None:
        self.failures.append(text)


def asked() -> tuple[Http1Client, Waiting]:
    codec, call = Http1Client(), Waiting()
    codec.start(call, call, b"GET / HTTP/1.1\r\n\r\n")
    codec.out.clear()
    return codec, call


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nInference-Header-Content-Length: 3\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, CONTINUED])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_may_come_in_any_pieces(answer: bytes, size: int) -> None:
    codec, call = asked()

    for start in range(0, len(answer), size):
        codec.receive(answer[start : start + size], float(start))

    ((head, body, _),) = call.answers
    assert (head.status, body) == (200, b"hello")
    assert codec.idle
    assert codec.usable


def test_a_head_says_where_the_json_ends() -> None:
    codec, call = asked()

    codec.receive(PLAIN, 1.0)

    assert call.answers[0][0].json_bytes == 3


def test_one_connection_carries_one_request_after_another() -> None:
    codec, call = asked()
    codec.receive(PLAIN, 1.0)
    codec.start(call, call, b"again")
    codec.receive(PLAIN[:40], 2.0)
    codec.receive(PLAIN[40:], 2.5)

    assert [now for _, _, now in call.answers] == [1.0, 2.5]
    assert codec.receive_seconds == pytest.approx(0.5)


def test_a_body_may_end_with_the_connection() -> None:
    codec, call = asked()

    codec.receive(b"HTTP/1.0 200 OK\r\n\r\nhel", 1.0)
    codec.receive(b"lo", 2.0)
    codec.receive_eof(3.0)

    assert call.answers[0][1:] == (b"hello", 3.0)
    assert not codec.usable


def test_a_server_that_says_close_is_not_asked_again() -> None:
    codec, _ = asked()

    codec.receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 1.0)

    assert not codec.usable


def test_a_connection_that_ends_early_fails_its_request() -> None:
    codec, call = asked()

    codec.receive(PLAIN[:-1], 1.0)
    codec.receive_eof(2.0)

    assert call.failures == ["the connection was closed by the server"]
    assert not call.answers


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP status line"),
        (b"HTTP/1.1 two OK\r\n\r\n", "not an HTTP status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "content-length is not a number"),
        (PLAIN + b"!", "more than the answer"),
        (CHUNKED + b"!", "more than the answer"),
        (b"x" * 70_000, "too long"),
        (CHUNKED.replace(b"3\r\n", b"x\r\n"), "chunks of the answer are broken"),
    ],
)
def test_what_is_not_http_is_refused(answer: bytes, problem: str) -> None:
    codec, _ = asked()

    with pytest.raises(BadResponse, match=problem):
        codec.receive(answer, 1.0)


def test_a_server_must_be_asked_first() -> None:
    with pytest.raises(BadResponse, match="without being asked"):
        Http1Client().receive(PLAIN, 1.0)
