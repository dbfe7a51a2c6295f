"""Drives a server with wrk and one JSON body; reads what it reports.

For servers that perf_analyzer cannot drive. wrk keeps each connection busy with one request at a
time, as perf_analyzer does, and costs less CPU than any other client here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import peers

SCRIPT = Path(__file__).parent / "peers" / "post.lua"
THREADS = 1
SPARE_SECONDS = 15.0
MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


class ClientFailed(Exception):
    """wrk failed, or a server answered with anything but success."""


@dataclass(frozen=True)
class Measurement:
    """One run; latencies in microseconds."""

    requests: int
    requests_per_second: float
    p50_us: float
    p99_us: float


def parse_report(text: str) -> Measurement:
    """The measurement in wrk's output with --latency.

    Raises ClientFailed if anything is missing, or if there were errors.
    """
    if bad := re.search(r"(Non-2xx or 3xx responses: \d+|Socket errors: .*)", text):
        raise ClientFailed(bad[1])
    quantiles = {
        int(share): float(number) * MICROSECONDS[unit]
        for share, number, unit in re.findall(
            r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE
        )
    }
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if requests is None or rate is None or not {50, 99} <= set(quantiles):
        raise ClientFailed(f"wrk reported nothing usable: {text.strip()[-300:]}")
    return Measurement(int(requests[1]), float(rate[1]), quantiles[50], quantiles[99])


def measure(url: str, body: object, *, concurrency: int, seconds: float) -> Measurement:
    """Posts `body` to `url` over `concurrency` connections; installs wrk if it is missing."""
    root = peers.install("wrk") / "root" / "usr"
    library = next(root.glob("lib/*-linux-gnu"))
    command = [str(root / "bin" / "wrk"), "--latency", f"--threads={THREADS}"]
    command += [f"--connections={concurrency}", f"--duration={round(seconds)}s"]
    try:
        ended = subprocess.run(
            [*command, f"--script={SCRIPT}", url],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + SPARE_SECONDS,
            env={**os.environ, "LD_LIBRARY_PATH": str(library), "BODY": json.dumps(body)},
        )
    except subprocess.TimeoutExpired as late:
        raise ClientFailed(f"wrk was killed after {seconds + SPARE_SECONDS:.0f} s") from late
    if ended.returncode != 0:
        raise ClientFailed(f"wrk ended with {ended.returncode}: {ended.stderr.strip()}")
    return parse_report(ended.stdout)
