"""Servers as child processes: started on free ports, waited for, measured from /proc, ended by pid.

Owns every process that a bench script starts. Never ends a process that it did not start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.02
# A server that is asked to stop finishes its requests first; after this it is killed.
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 25


class ServerFailed(Exception):
    """A server ended, or did not get ready in time; the text ends with the tail of its log."""


@dataclass(frozen=True)
class Memory:
    """What a process tree holds at one moment, in MiB."""

    pss: float  # proportional: a page that n processes share counts 1/n for each
    rss: float  # every process counts all its pages, so shared ones count several times


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at the moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (index 0), None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name before it is in brackets and may itself hold spaces and brackets.
    return text[text.rindex(")") + 2 :].split()


def process_tree(root: int) -> dict[int, str]:
    """`root` and all its descendants that live now, each with its start time in clock ticks."""
    children: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat_fields(int(folder.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            started[int(folder.name)] = fields[19]
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return {pid: started[pid] for pid in found if pid in started}


def _is_running(pid: int, start: str) -> bool:
    """Whether that very process runs: the start time tells it from a later one of its number."""
    fields = _stat_fields(pid)
    return fields is not None and fields[19] == start and fields[0] != "Z"


def cpu_seconds(root: int) -> float:
    """User and system time of the whole tree so far, children that have ended included."""
    ticks = 0
    for pid in process_tree(root):
        if (fields := _stat_fields(pid)) is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_SECOND


def memory(root: int) -> Memory:
    """The memory of the whole tree."""
    kib = {"Pss:": 0, "Rss:": 0}
    for pid in process_tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        for name, value, *_ in (line.split() for line in lines):
            if name in kib:
                kib[name] += int(value)
    return Memory(pss=kib["Pss:"] / 1024, rss=kib["Rss:"] / 1024)


class Server:
    """A running server process; `stop` ends it and everything it started."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], log: Path, began: float) -> None:
        self.name = name
        self.log = log
        self.began = began
        self.ready_seconds = float("nan")
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def ended_within(self, seconds: float) -> int | None:
        """The exit status of a process that ends by itself so soon; None for one that runs on."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_ready(self, url: str, seconds: float) -> None:
        """Polls `url` until it answers 200; then `ready_seconds` says how long that took.

        Raises ServerFailed if the process ends, or if `seconds` pass first.
        """
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            if (code := self._child.poll()) is not None:
                text = f"{self.name} ended with {code} before it was ready\n{self.log_tail()}"
                raise ServerFailed(text)
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        self.ready_seconds = time.monotonic() - self.began
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(POLL_SECONDS)
        raise ServerFailed(f"{self.name} was not ready within {seconds} s\n{self.log_tail()}")

    def stop(self) -> int:
        """Asks with SIGINT, then kills, the whole tree; returns the exit status of the server."""
        tree = process_tree(self.pid)
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
        code = self._child.wait()
        left = {pid: start for pid, start in tree.items() if pid != self.pid}
        for pid, start in left.items():
            if _is_running(pid, start):
                os.kill(pid, signal.SIGKILL)
        while any(_is_running(pid, start) for pid, start in left.items()):
            time.sleep(POLL_SECONDS)
        return code


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[Server]:
    """Starts `command`, its output in the file `log`, and stops it at the end of the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=directory,
        )
    server = Server(name, child, log, began)
    try:
        yield server
    finally:
        server.stop()
