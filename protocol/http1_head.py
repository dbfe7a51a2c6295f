"""The head of an HTTP/1.1 request: from one block of bytes, blank line included, to typed form.

Owns what a head means: method, path, header lines, framing of the body, persistence. Parsing is
done by httptools (llhttp, strict); this module adds the checks that keep two readers of one byte
stream from disagreeing about where a request ends. It never sees a body byte.

A connection's clients repeat their heads to the byte, so a parsed head is remembered by its bytes:
looking one up costs a tenth of parsing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import httptools

from protocol.http1_error import HttpError

# Heads longer than this are parsed each time; together with the count it bounds the memory to
# a few MiB. 512 distinct heads cover many clients that alternate between a few request sizes.
REMEMBERED_HEAD_BYTES: Final = 2048
REMEMBERED_HEADS: Final = 512

# Content-Length is an int32 on Triton's infer route; nothing longer is ever read.
MAX_CONTENT_LENGTH: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class HttpHead:
    """A request without its body.

    `path` is the raw path: not percent-decoded, without the query, and without scheme and
    authority when the client sent an absolute URI. `headers` has lower-case names, values of
    repeated names joined by `, `; `header_lines` has every line as it was received.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    header_lines: tuple[tuple[str, str], ...]
    is_http_11: bool
    keep_alive: bool
    content_length: int | None  # None when no length was given; then the body is chunked or empty
    chunked: bool
    expects_continue: bool


class _Collector:
    """What httptools calls back, kept as lists."""

    __slots__ = ("headers_ended", "lines", "messages_begun", "url")

    def __init__(self) -> None:
        self.url = b""
        self.lines: list[tuple[bytes, bytes]] = []
        self.messages_begun = 0
        self.headers_ended = False

    def on_message_begin(self) -> None:
        self.messages_begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))

    def on_headers_complete(self) -> None:
        self.headers_ended = True


def malformed(reason: str) -> HttpError:
    return HttpError(400, f"malformed HTTP request: {reason}")


class HeadParser:
    """Parses heads and remembers them; one may serve every connection of a listener."""

    def __init__(self, *, max_header_lines: int) -> None:
        self._max_header_lines = max_header_lines
        self._remembered: dict[bytes, HttpHead] = {}
        self.remembered: Callable[[bytes], HttpHead | None] = self._remembered.get
        """The head in a block that was parsed before, unless it has been forgotten."""

    def parse(self, block: bytes) -> HttpHead:
        """The head in `block`, which ends with its only blank line. Raises HttpError."""
        head = self.remembered(block)
        if head is not None:
            return head
        head = _parse(block, self._max_header_lines)
        if len(block) <= REMEMBERED_HEAD_BYTES:
            if len(self._remembered) >= REMEMBERED_HEADS:
                self._remembered.clear()
            self._remembered[block] = head
        return head


def _parse(block: bytes, max_header_lines: int) -> HttpHead:
    if block.count(b"\n") != block.count(b"\r\n"):
        raise malformed("a line ends without carriage return")
    if b"\r\n " in block or b"\r\n\t" in block:
        raise malformed("folded header lines are not allowed")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # `Upgrade` is an offer, and it is declined by answering the request itself.
    except httptools.HttpParserError as error:
        raise malformed(str(error)) from None
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise HttpError(505, f"HTTP version {version} is not supported")
    if collector.messages_begun != 1 or not collector.headers_ended:
        raise malformed("the head does not end at its blank line")
    if len(collector.lines) > max_header_lines:
        raise HttpError(431, f"request has more than {max_header_lines} header lines")
    lines, headers = _header_fields(collector.lines)
    content_length, chunked = _framing(headers, is_http_11=version == "1.1")
    path, query = _split_target(collector.url.decode("latin-1"))
    expect = headers.get("expect", "")
    if expect and expect.lower() != "100-continue":
        raise HttpError(417, f"unknown expectation '{expect}'")
    return HttpHead(
        method=parser.get_method().decode("ascii"),
        path=path,
        query=query,
        headers=headers,
        header_lines=lines,
        is_http_11=version == "1.1",
        keep_alive=_keeps_alive(headers, is_http_11=version == "1.1"),
        content_length=content_length,
        chunked=chunked,
        expects_continue=bool(expect) and version == "1.1",
    )


def _header_fields(
    raw: list[tuple[bytes, bytes]],
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Lines as they came, and values by lower-case name. Latin-1 loses no byte."""
    headers: dict[str, str] = {}
    lines: list[tuple[str, str]] = []
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1").strip(" \t")
        lines.append((name, value))
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return tuple(lines), headers


def _framing(headers: Mapping[str, str], *, is_http_11: bool) -> tuple[int | None, bool]:
    """(content length, chunked): the one way in which the body may be delimited."""
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if encoding is not None:
        if length is not None:
            raise malformed("both Content-Length and Transfer-Encoding are given")
        if not is_http_11:
            raise malformed("Transfer-Encoding needs HTTP/1.1")
        if encoding.lower() != "chunked":
            raise HttpError(501, f"transfer encoding '{encoding}' is not supported")
        return None, True
    if length is None:
        return None, False
    if not (length.isascii() and length.isdigit()):
        raise malformed("invalid Content-Length")
    if int(length) > MAX_CONTENT_LENGTH:
        raise HttpError(
            400,
            "Unable to parse Content-Length, value is out of range "
            f"[ -2147483648, {MAX_CONTENT_LENGTH} ], got: {length}",
        )
    return int(length), False


def _keeps_alive(headers: Mapping[str, str], *, is_http_11: bool) -> bool:
    if "connection" not in headers:
        return is_http_11
    options = {option.strip().lower() for option in headers["connection"].split(",")}
    if "close" in options:
        return False
    return is_http_11 or "keep-alive" in options


def _split_target(target: str) -> tuple[str, str]:
    """(raw path, query) of a request target in origin, absolute, authority or asterisk form."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if separator and scheme.lower() in ("http", "https"):
            slash, question = rest.find("/"), rest.find("?")
            if slash < 0 or 0 <= question < slash:
                return "/", rest.partition("?")[2]
            target = rest[slash:]
    path, _, query = target.partition("?")
    return path, query
