"""`troupe top`: the console of a running server, in a terminal.

Owns the conversation: it asks the admin port for a snapshot, shows it, waits for a key or for the
next second. Without a terminal it shows one snapshot and ends. How it looks is `top_screen`'s.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, get_args
from urllib.parse import urlsplit

from troupe.top_screen import NO_WIDTH, Json, Line, SortKey, screen

DEFAULT_URL: Final = "127.0.0.1:8003"
# How long the admin port may take; it answers in milliseconds.
PATIENCE_SECONDS: Final = 5.0
# A snapshot of a thousand models is some megabytes.
MAX_ANSWER: Final = 64 * 1024 * 1024
# Where the API key is, of a server that asks for one: a command line could be seen by others.
KEY_VARIABLE: Final = "TROUPE_KEY"
MIN_INTERVAL_SECONDS: Final = 0.1

_SORTS: Final[dict[str, SortKey]] = {"r": "rate", "l": "latency", "w": "waiting", "n": "name"}
_KEYS: Final = "r rate  l latency  w waiting  n name  q quit"


class Unreachable(Exception):  # it is named for what it says on the terminal
    """The admin port did not answer as it should; `str()` says why."""


class Terminal(Protocol):
    """What a screen is shown on."""

    def size(self) -> tuple[int, int]:
        """Columns and rows."""

    def show(self, lines: Sequence[Line]) -> None:
        """Replace what is shown."""

    def key(self, patience_seconds: float) -> str:
        """The next key; "" when there is none for so long."""


def fetch(url: str) -> Json:
    """One snapshot from the admin port at `url`. Raises Unreachable."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port or 8003
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("not an address like 127.0.0.1:8003")
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=PATIENCE_SECONDS)
        try:
            key = os.environ.get(KEY_VARIABLE)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request("GET", "/api/snapshot", headers=headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER)
        finally:
            connection.close()
        told = json.loads(body)
        if answer.status != http.client.OK:
            raise ValueError(told["error"])
        if not isinstance(told, dict) or "tick" not in told:
            raise ValueError("what answers there is not the admin port of a server")
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise Unreachable(f"no console at {url}: {error}") from error
    return told


def watch(
    terminal: Terminal, ask: Callable[[], Json], *, sort: SortKey, interval_seconds: float
) -> None:
    """Show snapshots until `q`. A server that has gone is said to be, and asked again."""
    while True:
        columns, rows = terminal.size()
        try:
            told = ask()
            lines = screen(told, sort=sort, columns=columns, rows=rows - 1)
        except Unreachable as error:
            lines = [Line(str(error)[:columns], is_bad=True)]
        terminal.show([*lines, Line(f"by {sort}.  {_KEYS}"[:columns], is_header=True)])
        pressed = terminal.key(interval_seconds)
        if pressed in ("q", "\x03", "\x04"):
            return
        sort = _SORTS.get(pressed, sort)


class AnsiTerminal:
    """The terminal that this process stands in; `opened` gives it back as it was."""

    def __init__(self) -> None:
        self._colours = "NO_COLOR" not in os.environ

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the whole screen, and keys as they are pressed."""
        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        self._write("\x1b[?1049h\x1b[?25l")  # the other screen, without a cursor
        old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, old)
            self._write("\x1b[?25h\x1b[?1049l")
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

    def size(self) -> tuple[int, int]:
        columns, rows = shutil.get_terminal_size()
        return columns, rows

    def show(self, lines: Sequence[Line]) -> None:
        painted = [f"{self._paint(line)}\x1b[K" for line in lines]
        self._write("\x1b[H" + "\r\n".join(painted) + "\x1b[J")

    def key(self, patience_seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], patience_seconds)
        if not ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 1)
        return pressed.decode("ascii", "replace") if pressed else "q"  # nobody is left to press one

    def _paint(self, line: Line) -> str:
        if not self._colours:
            return line.text
        if line.is_header:
            return f"\x1b[1m{line.text}\x1b[0m"
        return f"\x1b[31m{line.text}\x1b[0m" if line.is_bad else line.text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _interval(text: str) -> float:
    value = float(text)
    if not MIN_INTERVAL_SECONDS <= value <= 3600:  # also refuses what is no number
        raise argparse.ArgumentTypeError(f"must lie between {MIN_INTERVAL_SECONDS} and 3600")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="troupe top",
        description="What a server does, once a second. It needs --admin-port.",
        epilog=f"Keys: {_KEYS}",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the admin port (default: %(default)s)")
    parser.add_argument("--sort", choices=get_args(SortKey), default="rate", help="order of models")
    parser.add_argument(
        "--interval", type=_interval, default=1.0, help="seconds between two looks (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="show one look and end")
    return parser


def top(arguments: Sequence[str]) -> int:
    """Show until `q`, or once where there is no terminal; the result is the exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        told = fetch(chosen.url)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        for line in screen(told, sort=chosen.sort, columns=NO_WIDTH, rows=None):
            print(line.text)
        return 0
    terminal = AnsiTerminal()
    try:
        with terminal.opened():
            watch(
                terminal,
                lambda: fetch(chosen.url),
                sort=chosen.sort,
                interval_seconds=chosen.interval,
            )
    except KeyboardInterrupt:
        return 0
    return 0
