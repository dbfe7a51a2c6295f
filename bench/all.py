"""Everything that compares Troupe with others, in one run; `make bench` calls it.

    python bench/all.py [--quick] [--report FILE]

Installs what it needs under `.peers/`, then runs one script after the other and prints their
tables. `--quick` takes about a quarter of an hour, without it about two hours; nothing else should
run meanwhile. A script that fails says so, and the others still run; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import peers

HERE = Path(__file__).parent
PEERS = ("triton", "perf_analyzer", "mlserver", "kserve", "litserve", "wrk", "h2load")
# No script takes an hour on two cores; one that does hangs.
SCRIPT_SECONDS = 3600.0


@dataclass(frozen=True)
class Part:
    """One table: a script, and its options for either kind of run."""

    title: str
    script: str
    quick: Sequence[str]
    full: Sequence[str]


PARTS = (
    Part("Start-up with one Python model", "start_up.py", ("--rounds", "3"), ()),
    Part(
        "Beside Triton",
        "triton_side_by_side.py",
        (
            "--rounds", "2", "--window-seconds", "0.5", "--concurrency", "1", "8", "32",
            "--troupe-flag=--allow-client-shm=true",
        ),
        ("--troupe-flag=--allow-client-shm=true",),
    ),
    Part(
        "Beside other Python servers",
        "python_servers.py",
        ("--rounds", "1", "--seconds", "2"),
        ("--rounds", "3"),
    ),
    Part(
        "Beside a bare onnxruntime loop",
        "onnx_loop.py",
        ("--rounds", "2", "--seconds", "4"),
        (),
    ),
    Part(
        "At twice the capacity",
        "overload.py",
        ("--rounds", "2", "--seconds", "5"),
        ("--rounds", "3", "--seconds", "20"),
    ),
)  # fmt: skip


def machine() -> str:
    """What everything ran on, in words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} cores ({model}), {pages * size / 2**30:.0f} GiB, Linux "
        f"{platform.release()}, CPython {platform.python_version()}, load "
        f"{os.getloadavg()[0]:.1f} at the start"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a quarter of an hour")
    parser.add_argument("--only", nargs="+", choices=[part.script for part in PARTS])
    parser.add_argument("--report", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    for peer in PEERS:
        peers.install(peer)
    lines = [f"Machine: {machine()}"]
    print(lines[0], flush=True)
    failed = 0
    for part in PARTS:
        if options.only and part.script not in options.only:
            continue
        began = time.monotonic()
        arguments = part.quick if options.quick else part.full
        heading = f"\n## {part.title}\n\n    python bench/{part.script} {' '.join(arguments)}\n"
        print(heading, flush=True)
        command = [sys.executable, str(HERE / part.script), *arguments]
        try:
            ended = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=False, timeout=SCRIPT_SECONDS
            )
            output, status = ended.stdout, ended.returncode
        except subprocess.TimeoutExpired:
            output, status = "it did not end\n", 1
        tail = f"\n({time.monotonic() - began:.0f} s)" if status == 0 else "\nIT FAILED"
        print(output + tail, flush=True)
        lines += [heading, output + tail]
        failed += status != 0
    if options.report:
        options.report.write_text("\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
