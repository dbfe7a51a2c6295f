"""`troupe top` on a terminal that is none, by a server that is none."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from troupe.top import Unreachable, fetch, top, watch
from troupe.top_screen import NO_WIDTH, Line, clean, micros, screen, seconds

POINT = {"tick": 7, "seconds": 2.0, "requests": 10, "executions": 4, "inferences": 6}


def loaded(name: str, **more: Any) -> dict[str, Any]:
    counts = {"success": 12, "failures": {"REJECTED": 1, "BACKEND": 2}}
    row: dict[str, Any] = {
        "name": name, "version": 1, "state": "READY", "reason": "", "counts": counts, "pending": 0,
        "oldest_seconds": 0.0, "executing": 1, "p50_us": None, "p99_us": None, "points": [],
    }  # fmt: skip
    return row | more


def snapshot(**more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tick": 7,
        "server": {
            "id": "triton", "version": "1.2", "ready": True, "exiting": False,
            "uptime_seconds": 61.3,
        },
        "models": [
            loaded("quick", points=[POINT], p50_us=250.0, p99_us=1500.0),
            loaded("stuck", pending=9, oldest_seconds=2.5, p99_us=90_000.0),
            {"name": "broken", "version": 0, "state": "UNAVAILABLE", "reason": "no\x1b[2Jbackend"},
        ],
        "slow": [{
            "model": "stuck", "version": 1, "id": "", "total_us": 2_500_000, "queue_us": 999,
            "batch_size": 4, "why": "It waited.", "error": "",
        }],
        "actors": [
            {"actor": "scheduler stuck/1", "depth": 3, "oldest_seconds": 2.5},
            {"actor": "statistics", "depth": 0, "oldest_seconds": 0.0},
        ],
    }  # fmt: skip
    return told | more


def texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def test_everything_has_a_line() -> None:
    lines = screen(snapshot(), sort="name", columns=NO_WIDTH, rows=None)
    assert [" ".join(text.split()) for text in texts(lines)] == [
        "Troupe, triton 1.2: ready, up 61 s",
        "",
        "MODEL STATE REQ/S P50 P99 BATCH WAITING OLDEST EXECUTING SUCCEEDED FAILED REASON",
        "broken UNAVAILABLE no\N{REPLACEMENT CHARACTER}[2Jbackend",
        "quick/1 READY 5.0 250 µs 1.5 ms 1.5 0 1 12 3",
        "stuck/1 READY 0.0 90.0 ms 9 2.50 s 1 12 3",
        "",
        "SLOW REQUEST OF ID WHOLE QUEUE BATCH WHY",
        "stuck/1 - 2.50 s 999 µs 4 It waited.",
        "",
        "ACTOR MAILBOX OLDEST",
        "scheduler stuck/1 3 2.50 s",
    ]
    assert [line.is_bad for line in lines[3:6]] == [True, False, False]
    assert [line.is_header for line in lines].count(True) == 3


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["broken", "quick/1", "stuck/1"]),
        ("rate", ["quick/1", "broken", "stuck/1"]),
        ("latency", ["stuck/1", "quick/1", "broken"]),
        ("waiting", ["stuck/1", "broken", "quick/1"]),
    ],
)
def test_models_are_ordered_by_what_is_asked_for(sort: Any, names: list[str]) -> None:
    lines = screen(snapshot(), sort=sort, columns=NO_WIDTH, rows=None)
    assert [text.split()[0] for text in texts(lines[3:6])] == names


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 8), (1, 1), (200, 3)])
def test_a_screen_fits_its_terminal(columns: int, rows: int) -> None:
    many = snapshot(models=[loaded(f"m{number}") for number in range(500)])
    many["slow"] *= 50
    lines = screen(many, sort="rate", columns=columns, rows=rows)
    assert len(lines) <= rows
    assert all(len(line.text) <= columns for line in lines)
    if rows == 24:
        assert sum(text.startswith("m") for text in texts(lines)) == 24 - 3 - 8 - 3


def test_an_old_point_is_no_rate() -> None:
    told = snapshot(models=[loaded("m", points=[POINT | {"tick": 6}])])
    lines = screen(told, sort="rate", columns=NO_WIDTH, rows=None)
    assert lines[3].text.split()[:3] == ["m/1", "READY", "0.0"]


def test_nothing_that_a_terminal_would_obey_comes_through() -> None:
    assert clean("a\x1b]0;owned\x07b\r\nc\u202ed") == "a�]0;owned�b��c�d"
    assert clean("naïve 模型") == "naïve 模型"
    assert [micros(each) for each in (None, 0.4, 1500, 2e6)] == ["", "0 µs", "1.5 ms", "2.00 s"]
    assert [seconds(each) for each in (None, 0.0, 0.25)] == ["", "", "250.0 ms"]


class FakeTerminal:
    """Presses the keys that it was given, and then `q`."""

    def __init__(self, *keys: str) -> None:
        self._keys = [*keys, "q"]
        self.screens: list[list[str]] = []
        self.waits: list[float] = []

    def size(self) -> tuple[int, int]:
        return 60, 12

    def show(self, lines: Sequence[Line]) -> None:
        self.screens.append(texts(lines))

    def key(self, patience_seconds: float) -> str:
        self.waits.append(patience_seconds)
        return self._keys.pop(0)


def test_keys_change_the_order_and_end_it() -> None:
    terminal = FakeTerminal("", "w", "?", "n")
    watch(terminal, snapshot, sort="rate", interval_seconds=2.0)
    firsts = [shown[3].split()[0] for shown in terminal.screens]
    assert firsts == ["quick/1", "quick/1", "stuck/1", "stuck/1", "broken"]
    assert [shown[-1].split(".")[0] for shown in terminal.screens] == [
        "by rate", "by rate", "by waiting", "by waiting", "by name",
    ]  # fmt: skip
    assert terminal.waits == [2.0] * 5
    assert all(len(shown) <= 12 for shown in terminal.screens)


def test_a_server_that_has_gone_is_said_to_be_and_asked_again() -> None:
    answers = iter([snapshot(), None, snapshot()])

    def ask() -> dict[str, Any]:
        told = next(answers)
        if told is None:
            raise Unreachable("no console at x: gone")
        return told

    terminal = FakeTerminal("", "")
    watch(terminal, ask, sort="rate", interval_seconds=1.0)
    assert terminal.screens[1][0] == "no console at x: gone"
    assert terminal.screens[2][0].startswith("Troupe, ")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Something at a port that gives every request this answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_without_a_terminal_there_is_one_look(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, json.dumps(snapshot()).encode()) as url:
        assert top([f"--url=http://{url}/", "--sort=waiting"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Troupe, triton 1.2: ready, up 61 s\n")
    assert "\x1b" not in out
    assert out.index("stuck/1") < out.index("quick/1")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (421, b'{"error":"this name is not one of the admin port\'s"}', "this name is not one"),
        (200, b"<html>", "Expecting value"),
        (200, b"[1]", "not the admin port"),
        (404, b'{"x":1}', "'error'"),
    ],
)
def test_other_answers_are_told_as_they_are(status: int, body: bytes, reason: str) -> None:
    with answering(status, body) as url, pytest.raises(Unreachable, match=reason):
        fetch(url)


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x", "x:port", ""])
def test_nobody_there_is_an_error_and_no_traceback(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top([f"--url={url}"]) == 1
    assert capsys.readouterr().err.startswith(f"no console at {url}: ")


@pytest.mark.parametrize("interval", ["0", "nan", "1e9", "x"])
def test_an_interval_has_limits(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        top([f"--interval={interval}"])
    assert "--interval" in capsys.readouterr().err
