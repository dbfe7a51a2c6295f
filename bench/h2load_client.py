"""Drives a gRPC server with h2load, the load generator of nghttp2: one message, over and over.

It is written in C and costs a fraction of `wire_load.py`, which is what large messages need: there
a client in Python is as dear as the server, and shares its cores. It says how many answers were
2xx, but cannot see trailers, so the caller compares one answer with a real client's first; a call
that fails has no message, which the bytes that came in tell.

    apt-get install nghttp2-client                # or, without root:
    python bench/peers.py install h2load
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench import peers

COMMAND = "h2load"
# What it lets the server send: frames of 1 MiB, and windows that never hold anything up.
FRAME_BYTES = 1 << 20
WINDOW_BITS = 30
SPARE_SECONDS = 15.0


class ClientFailed(Exception):
    """h2load failed, or a server answered with anything but success."""


@dataclass(frozen=True)
class Measurement:
    """One run: its answers, their rate, and all the bytes that came meanwhile.

    `started` counts calls that began, `cpu_seconds` is what h2load itself took.
    """

    answers: int
    answers_per_second: float
    received_bytes: int
    started: int
    cpu_seconds: float = 0.0


def is_installed() -> bool:
    return shutil.which(COMMAND) is not None or peers.installed(COMMAND)


def _program() -> tuple[str, dict[str, str]]:
    """What to run, and the environment that it needs."""
    if found := shutil.which(COMMAND):
        return found, {}
    root = peers.install(COMMAND) / "root" / "usr"
    library = next(root.glob("lib/*-linux-gnu"))
    return str(root / "bin" / COMMAND), {"LD_LIBRARY_PATH": str(library)}


def parse_report(text: str) -> Measurement:
    """The measurement in the output of a run with a duration.

    Raises ClientFailed if anything is missing, or if any request did not succeed.
    """
    counts = re.search(
        r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
        r"(\d+) failed, (\d+) errored, (\d+) timeout",
        text,
    )
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", text)
    traffic = re.search(r"traffic: \S+ \((\d+)\) total", text)
    if counts is None or statuses is None or rate is None or traffic is None:
        raise ClientFailed(f"h2load reported nothing usable: {text.strip()[-300:]}")
    started, done, succeeded, *bad = (int(each) for each in counts.groups()[1:])
    # How many are 2xx is not compared: heads count when they come, answers when they are whole.
    others = (int(each) for each in statuses.groups()[1:])
    if not done or succeeded != done or any(bad) or any(others):
        raise ClientFailed(f"{counts[0]}; {statuses[0]}")
    return Measurement(done, float(rate[1]), int(traffic[1]), started)


def drive(
    address: str,
    path: str,
    message: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float,
    rate: float | None = None,
) -> Measurement:
    """`streams` calls in flight on each connection for `seconds`, after a tenth as warm-up.

    With a `rate` so many begin in a second, on all connections together, whether answers come or
    not; `streams` is then the most that a connection has in flight.
    """
    program, environment = _program()
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "message"
        body.write_bytes(b"\x00" + struct.pack(">I", len(message)) + message)
        command = [program, f"--data={body}", f"--clients={connections}"]
        command += [f"--max-concurrent-streams={streams}", f"--max-frame-size={FRAME_BYTES}"]
        command += [f"--window-bits={WINDOW_BITS}", f"--connection-window-bits={WINDOW_BITS}"]
        command += [f"--duration={seconds * 1e3:.0f}ms", f"--warm-up-time={seconds * 1e2:.0f}ms"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
        if rate is not None:
            command.append(f"--rps={rate / connections:.3f}")
        try:
            ended = subprocess.run(
                [*command, f"http://{address}{path}"],
                check=False,
                capture_output=True,
                text=True,
                timeout=seconds * 1.1 + SPARE_SECONDS,
                env={**os.environ, **environment},
            )
        except subprocess.TimeoutExpired as late:
            raise ClientFailed(f"h2load was killed after {late.timeout:.0f} s") from late
    if ended.returncode != 0:
        raise ClientFailed(f"h2load ended with {ended.returncode}: {ended.stderr.strip()}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - taken.ru_utime - taken.ru_stime
    return replace(parse_report(ended.stdout), cpu_seconds=cpu)
