"""Drives the C++ perf_analyzer and reads what it reports; its traps are handled here only.

The traps, each met and described in docs/peers.md: it never ends in synchronous HTTP mode with
many connections on few cores, so HTTP runs asynchronously with few threads from 8 up; any run is
killed after a limit; `--profile-export-file` is never used (it writes a warning per tensor); it
checks no answer, so a benchmark has to do that itself.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import peers

VERSION = "2.48.0"
# From this concurrency on HTTP is driven asynchronously, with this many threads.
ASYNC_HTTP_FROM = 8
ASYNC_HTTP_THREADS = 4
# Beyond what the windows take: start-up, the client's own estimate of stability, the last reply.
SPARE_SECONDS = 30.0
# A deviation in percent that every window meets: with it exactly the asked-for windows are run.
ANY_DEVIATION = "1000"
# It judges three windows at a time, so that it calls fewer unstable, whatever they are like.
WINDOWS_MIN = 3

_COUNTS = {
    "client_requests": re.compile(r"Client: \n(?:.*\n)*?\s+Request count: (\d+)"),
    "server_requests": re.compile(r"Successful request count: (\d+)"),
    "server_executions": re.compile(r"Execution count: (\d+)"),
    "responses_per_second": re.compile(r"Response Throughput: ([\d.]+)"),
}


class ClientFailed(Exception):
    """perf_analyzer ended with an error, reported nothing, or had to be killed."""


@dataclass(frozen=True)
class Load:
    """What to send: `protocol` is "grpc" or "http", `options` are perf_analyzer's own."""

    model: str
    protocol: str
    concurrency: int
    options: tuple[str, ...] = ()
    window_seconds: float = 2.0
    windows: int = WINDOWS_MIN

    def __post_init__(self) -> None:
        if self.windows < WINDOWS_MIN:
            text = f"windows is {self.windows}, must be at least {WINDOWS_MIN}"
            raise ValueError(text)


@dataclass(frozen=True)
class Measurement:
    """What perf_analyzer reports over all windows of one run; latencies in microseconds.

    `server_requests` and `server_executions` come from the server's statistics and are None
    where it gives none. `responses_per_second` is None except for decoupled models.
    """

    requests_per_second: float
    p50_us: float
    p99_us: float
    client_requests: int
    server_requests: int | None
    server_executions: int | None
    responses_per_second: float | None


def command_options(load: Load) -> list[str]:
    """perf_analyzer's options for this load, addresses and report file aside."""
    options = ["-m", load.model, "-i", load.protocol]
    options += ["--concurrency-range", str(load.concurrency)]
    options += ["-p", str(round(load.window_seconds * 1000))]
    options += ["-s", ANY_DEVIATION, "-r", str(load.windows)]
    if load.protocol == "http" and load.concurrency >= ASYNC_HTTP_FROM:
        options += ["-a", "--max-threads", str(ASYNC_HTTP_THREADS)]
    return [*options, *load.options]


def parse_report(table: str, text: str) -> Measurement:
    """The measurement in perf_analyzer's CSV `table` and printed `text`.

    Raises ClientFailed when the table has not exactly one row.
    """
    rows = list(csv.DictReader(table.splitlines()))
    if len(rows) != 1:
        raise ClientFailed(f"perf_analyzer reported {len(rows)} rows, not 1\n{text[-2000:]}")
    found = {name: pattern.search(text) for name, pattern in _COUNTS.items()}

    def count(name: str) -> int | None:
        match = found[name]
        return int(match[1]) if match else None

    responses = found["responses_per_second"]
    return Measurement(
        requests_per_second=float(rows[0]["Inferences/Second"]),
        p50_us=float(rows[0]["p50 latency"]),
        p99_us=float(rows[0]["p99 latency"]),
        client_requests=count("client_requests") or 0,
        server_requests=count("server_requests"),
        server_executions=count("server_executions"),
        responses_per_second=float(responses[1]) if responses else None,
    )


def measure(load: Load, address: str, *, version: str = VERSION) -> Measurement:
    """Runs perf_analyzer with this load against `address` (host:port) and reads its report.

    Installs it first where that is still to be done. Raises ClientFailed.
    """
    folder = peers.install("perf_analyzer")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.csv"
        command = [str(folder / version / "perf_analyzer"), *command_options(load)]
        command += ["-u", address, "-f", str(report)]
        limit = load.windows * load.window_seconds + SPARE_SECONDS
        try:
            ended = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
                env={**os.environ, "LD_LIBRARY_PATH": str(folder / "lib")},
                # It leaves core files where it crashes.
                cwd=scratch,
            )
        except subprocess.TimeoutExpired as late:
            raise ClientFailed(f"perf_analyzer was killed after {limit:.0f} s") from late
        text = ended.stdout + ended.stderr
        if ended.returncode != 0 or not report.exists():
            reason = ended.stderr.strip() or ended.stdout.strip()
            raise ClientFailed(f"perf_analyzer ended with {ended.returncode}: {reason[-500:]}")
        return parse_report(report.read_text(), text)
