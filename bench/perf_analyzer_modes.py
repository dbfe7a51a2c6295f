"""Both perf_analyzers in every mode against Troupe: does each run end well, and what does it say?

    python bench/perf_analyzer_modes.py [--program c++|troupe]

The programs are the C++ perf_analyzer of `.peers/` (installed where it is missing) and Troupe's
own. Each mode is a short run of one model; what is asked is not how fast, but whether it exits
with 0, no request fails, and the server's statistics are printed beside the client's. The result
is a table for docs/conformance.md, and an exit status of 1 if a run fell short.
"""

# a command line prints

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
from peer_servers import Endpoint, start_troupe, troupe_command
from perf_client import VERSION

MODELS = peers.ROOT / "sample_repository"
SERVED = ("simple", "repeat_int32", "simple_identity", "simple_sequence")
FLAGS = (
    "--model-control-mode=explicit",
    *(f"--load-model={name}" for name in SERVED),
    "--allow-client-shm=true",
)
# Three windows of half a second, and no deviation in percent that a busy machine could not meet.
BRIEF = ("-p", "500", "-r", "3", "-s", "100000")
RUN_SECONDS = 60.0
MODES = (
    "-m simple -i http",
    "-m simple -i http --async --concurrency-range 4 --max-threads 2",
    "-m simple -i http --shared-memory system",
    "-m simple -i http --input-tensor-format json --output-tensor-format json",
    "-m simple_identity -i http --shape INPUT0:1 --string-length 32",
    "-m simple -i grpc",
    "-m simple -i grpc --async --concurrency-range 4",
    "-m simple -i grpc --streaming --concurrency-range 4",
    "-m simple -i grpc --shared-memory system",
    "-m simple -i grpc --streaming --shared-memory system",
    "-m simple -i grpc --grpc-compression-algorithm gzip",
    "-m simple -i grpc -b 8 --request-rate-range 200",
    "-m repeat_int32 -i grpc --streaming --input-data zero --shape IN:4 --shape DELAY:4",
    "-m simple_sequence -i grpc --streaming --num-of-sequences 2 --sequence-length 5",
)


@dataclass(frozen=True)
class Outcome:
    """One run: its exit status, and what it printed."""

    status: int
    text: str

    def number(self, pattern: str) -> str:
        found = re.search(pattern, self.text)
        return found[1] if found else "none"

    @property
    def requests(self) -> str:
        return self.number(r"Client: \n(?:.*\n)*?\s+Request count: (\d+)")

    @property
    def served(self) -> str:
        return self.number(r"Server: \n(?:.*\n)*?\s+(?:Inference|Request) count: (\d+)")

    @property
    def throughput(self) -> str:
        return self.number(r"Throughput: ([\d.]+) infer/sec")

    @property
    def is_well(self) -> bool:
        """Exit 0, requests on both sides, and not a word of failure."""
        failed = re.search(r"(?i)failed|error:", self.text)
        return self.status == 0 and failed is None and "none" not in (self.requests, self.served)


def run(program: Sequence[str], environment: Mapping[str, str], options: str, at: str) -> Outcome:
    command = [*program, *options.split(), *BRIEF, "-u", at]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            ended = subprocess.run(
                command,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=RUN_SECONDS,
                env={**os.environ, **environment},
                cwd=scratch,  # it leaves core files where it crashes
            )
        except subprocess.TimeoutExpired:
            return Outcome(-1, f"killed after {RUN_SECONDS:.0f} s")
    return Outcome(ended.returncode, ended.stdout)


def row(name: str, options: str, outcome: Outcome) -> str:
    """A line of the table, and of the log if the run fell short."""
    if not outcome.is_well:
        print(f"{name} {options}:\n{outcome.text[-2000:]}", file=sys.stderr)
    verdict = "well" if outcome.is_well else "**fell short**"
    numbers = (outcome.requests, outcome.served, outcome.throughput)
    return f"| `{options}` | {name} | {outcome.status} | {' | '.join(numbers)} | {verdict} |"


def measure_all(endpoint: Endpoint, chosen: Sequence[str]) -> tuple[list[str], bool]:
    folder = peers.install("perf_analyzer")
    programs = {
        f"C++ {VERSION}": (
            [str(folder / VERSION / "perf_analyzer")],
            {"LD_LIBRARY_PATH": str(folder / "lib")},
        ),
        "Troupe": ([str(troupe_command()), "perf"], dict[str, str]()),
    }
    rows, all_well = [], True
    for options in MODES:
        at = endpoint.grpc if "-i grpc" in options else endpoint.http
        for name, (program, environment) in programs.items():
            if not any(name.lower().startswith(each) for each in chosen):
                continue
            outcome = run(program, environment, options, at)
            all_well = all_well and outcome.is_well
            rows.append(row(name, options, outcome))
            print(rows[-1], flush=True)
    return rows, all_well


def main() -> int:
    parser = argparse.ArgumentParser(description="both perf_analyzers in every mode")
    parser.add_argument(
        "--program", nargs="+", choices=("c++", "troupe"), default=["c++", "troupe"]
    )
    options = parser.parse_args()
    print("| options | program | exit | requests | of the server | infer/s | |")
    print("|---|---|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        with start_troupe(MODELS, log=log, flags=FLAGS) as endpoint:
            _, all_well = measure_all(endpoint, options.program)
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
