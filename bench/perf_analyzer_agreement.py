"""Troupe's load generator beside the C++ perf_analyzer, on one server in the same minutes.

    python bench/perf_analyzer_agreement.py [--quick] [--case NAME] [--server triton|troupe]

Both tools get the same flags and drive the same server, one after the other, and the order turns
from round to round. A ratio is taken within a round; the table gives the median over the rounds.
The CPU of a client is that of its whole process, less that of a run with ten requests, over the
requests that the server counted meanwhile. The last table shows how fast Troupe's generator alone
can be: against a server that answers with canned bytes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import peers
from canned_server import running_canned_server
from peer_servers import Endpoint, start_triton, start_troupe
from perf_client import ClientFailed, Load, Measurement, command_options, measure, parse_report
from processes import ServerFailed
from side_by_side_cases import success_count

MODELS = Path(__file__).parent / "models"
FLAGS = ("--exit-on-error=false", "--strict-readiness=false")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
STARTS: dict[str, Callable[..., AbstractContextManager[Endpoint]]] = {
    "triton": start_triton,
    "troupe": start_troupe,
}
SPARE_SECONDS = 30.0
CAPACITY_SECONDS = 4


@dataclass(frozen=True)
class Case:
    """A model under a concurrency."""

    model: str
    protocol: str
    concurrency: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} {self.protocol} {self.concurrency}"


# Concurrencies at which the server's batches do not depend on who sends first: one request at a
# time, or enough of them that every batch is full. In between a dynamic batcher settles into one
# of several rhythms, and two clients may well find different ones.
CASES = (
    Case("sleep_5ms", "grpc", 1),
    Case("sleep_5ms", "http", 1),
    Case("sleep_5ms", "grpc", 48),
    Case("mlp", "grpc", 1),
    Case("mlp", "http", 1),
    Case("identity", "grpc", 1),
    Case("identity", "grpc", 8),
    Case("identity", "grpc", 32),
    Case("identity", "http", 1),
    Case("identity", "http", 4),
    Case("repeat_10", "grpc", 4, ("--streaming", "-a")),
)


@dataclass(frozen=True)
class Run:
    """One run of one tool."""

    requests_per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float  # of the client, per request


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(load: Load, address: str) -> Measurement:
    """Runs Troupe's load generator with the flags that the other one gets."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.csv"
        command = [sys.executable, "-m", "perf_analyzer", *command_options(load)]
        command += ["-u", address, "-f", str(report)]
        limit = load.windows * load.window_seconds * 1.2 + SPARE_SECONDS
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=limit, cwd=peers.ROOT
        )
        text = ended.stdout + ended.stderr
        if ended.returncode or not report.exists():
            raise ClientFailed(f"it ended with {ended.returncode}: {text.strip()[-500:]}")
        return parse_report(report.read_text(), text)


TOOLS: dict[str, Callable[[Load, str], Measurement]] = {"original": measure, "troupe": ours}


def start_up_cpu(tool: str, load: Load, endpoint: Endpoint) -> float:
    """What the tool costs before and after its load: CPU seconds of a run of ten requests.

    Of a single one the original can fail to find the statistics.
    """
    once = Load(load.model, load.protocol, 1, (*load.options, "--request-count", "10"))
    before = children_cpu()
    TOOLS[tool](once, endpoint.grpc if load.protocol == "grpc" else endpoint.http)
    return children_cpu() - before


def run(tool: str, load: Load, endpoint: Endpoint) -> Run:
    start_up = start_up_cpu(tool, load, endpoint)
    before, cpu_before = success_count(load.model, endpoint.http) or 0, children_cpu()
    found = TOOLS[tool](load, endpoint.grpc if load.protocol == "grpc" else endpoint.http)
    cpu = children_cpu() - cpu_before - start_up
    count = (success_count(load.model, endpoint.http) or 0) - before
    return Run(found.requests_per_second, found.p50_us, found.p99_us, cpu / count * 1e6)


def compare(case: Case, endpoint: Endpoint, rounds: int, seconds: float) -> str:
    """The row of one case."""
    load = Load(case.model, case.protocol, case.concurrency, case.options, window_seconds=seconds)
    pairs: list[dict[str, Run]] = []
    for number in range(rounds):
        tools = list(TOOLS) if number % 2 == 0 else list(reversed(TOOLS))
        pairs.append({tool: run(tool, load, endpoint) for tool in tools})

    def median(tool: str, what: str) -> float:
        return statistics.median(float(getattr(pair[tool], what)) for pair in pairs)

    def ratio(what: str) -> float:
        return statistics.median(
            float(getattr(pair["troupe"], what)) / float(getattr(pair["original"], what))
            for pair in pairs
        )

    cells = [case.model, case.protocol, str(case.concurrency)]
    for what, digits in (("requests_per_second", 0), ("p50_us", 0), ("p99_us", 0)):
        both = [f"{median(tool, what):.{digits}f}" for tool in ("original", "troupe")]
        cells.append(f"{both[0]} / {both[1]} ({ratio(what) - 1:+.1%})")
    cells.append(f"{median('original', 'cpu_us'):.0f} / {median('troupe', 'cpu_us'):.0f}")
    return "| " + " | ".join(cells) + " |"


def row(case: Case, endpoint: Endpoint, rounds: int, seconds: float) -> str:
    """The row of one case, or why there is none."""
    try:
        return compare(case, endpoint, rounds, seconds)
    except ClientFailed as problem:
        reason = " ".join(str(problem).split())[:120]
        return f"| {case.model} | {case.protocol} | {case.concurrency} | {reason} | | | |"


def capacity(protocol: str, concurrency: int) -> str:
    """How fast our generator is against a server that hardly works."""
    with running_canned_server(protocol) as address:
        load = Load("m", protocol, concurrency, window_seconds=CAPACITY_SECONDS / 4)
        options = (*command_options(load), "-v")
        command = [sys.executable, "-m", "perf_analyzer", *options, "-u", address]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=peers.ROOT)
    values = {}
    for line in ended.stdout.splitlines():
        name, _, value = line.strip().partition(": ")
        if name in {"Throughput", "Avg client overhead"}:
            values[name] = float(value.split()[0].rstrip("%"))
    rate, busy = values["Throughput"], values["Avg client overhead"] / 100
    return f"| {protocol} | {concurrency} | {rate:.0f} | {busy:.0%} | {busy / rate * 1e6:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--server", choices=list(STARTS), default="triton")
    parser.add_argument("--capacity-only", action="store_true", help="only the last table")
    arguments = parser.parse_args()
    rounds, seconds = (1, 1.0) if arguments.quick else (3, 2.0)
    if not arguments.capacity_only:
        print("original / Troupe; latencies in us, client CPU in us per request\n")
        print("| model | protocol | conc. | requests/s | p50 | p99 | client CPU |")
        print("|---|---|--:|--:|--:|--:|--:|")
        with tempfile.TemporaryDirectory() as scratch:
            start = STARTS[arguments.server]
            log = Path(scratch) / "server.log"
            try:
                with start(MODELS, log=log, flags=FLAGS, environment=ENVIRONMENT) as endpoint:
                    for case in CASES:
                        if not arguments.case or arguments.case in case.name:
                            print(row(case, endpoint, rounds, seconds), flush=True)
            except ServerFailed as problem:
                print(problem, file=sys.stderr)
                return 1
        print()
    print("Troupe's generator against canned answers\n")
    print("| protocol | conc. | requests/s | of a core | CPU us per request |")
    print("|---|--:|--:|--:|--:|")
    for protocol in ("grpc", "http"):
        for concurrency in (1, 8, 32):
            print(capacity(protocol, concurrency), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
