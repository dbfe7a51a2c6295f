"""Troupe and the real Triton on the same models, under the same client, in the same minutes.

    python bench/triton_side_by_side.py [--quick] [--case NAME] [--only SERVER] [--json FILE]

Both servers stand ready at the same time; perf_analyzer drives one, then the other, and the order
turns round from round to round, so that a slow minute of the machine hits both alike. A ratio is
taken within a round, between two runs that are seconds apart; the table gives the median of the
rounds and their extremes. Absolute figures of different runs of this script must not be
compared. bench/README.md explains each column.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import peers
from peer_servers import Endpoint, start_triton, start_troupe, troupe_command
from perf_client import ClientFailed, Load, Measurement, measure
from processes import ServerFailed, cpu_seconds, memory
from side_by_side_cases import CASES, Case, WrongAnswer, check_answer, success_count

MODELS = Path(__file__).parent / "models"
Start = Callable[..., AbstractContextManager[Endpoint]]
STARTS: dict[str, Start] = {"troupe": start_troupe, "triton": start_triton}
# One model that a server cannot load must not take the others with it.
FLAGS = ("--exit-on-error=false", "--strict-readiness=false")
# One thread for numpy's products: the models' own threads would fight the client for the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Responses per request may be off by what is in flight when the last window closes.
RESPONSE_TOLERANCE = 0.1
REASON_LENGTH = 200


@dataclass(frozen=True)
class Sample:
    """One run of the client against one server."""

    server: str
    round: int
    requests_per_second: float
    p50_us: float
    p99_us: float
    cpu_us_per_request: float | None
    batch: float | None


@dataclass(frozen=True)
class Row:
    """All runs of one case, protocol and concurrency; `reasons` say why a server has none."""

    case: str
    protocol: str
    concurrency: int
    samples: list[Sample]
    reasons: dict[str, str]


def as_reason(problem: Exception) -> str:
    """The problem's text on one short line, for the table."""
    return " ".join(str(problem).split())[:REASON_LENGTH]


def sample(case: Case, load: Load, endpoint: Endpoint, server: str, number: int) -> Sample:
    """Drives one server once; raises ClientFailed or WrongAnswer with a reason for the table."""
    before = success_count(case.model, endpoint.http)
    cpu_before = cpu_seconds(endpoint.server.pid)
    found: Measurement = measure(load, endpoint.grpc if load.protocol == "grpc" else endpoint.http)
    cpu = cpu_seconds(endpoint.server.pid) - cpu_before
    after = success_count(case.model, endpoint.http)
    if case.responses_per_request != 1:
        per_request = (found.responses_per_second or 0) / found.requests_per_second
        if abs(per_request / case.responses_per_request - 1) > RESPONSE_TOLERANCE:
            raise WrongAnswer(f"{per_request:.1f} responses per request")
    answered = None if before is None or after is None else after - before
    return Sample(
        server=server,
        round=number,
        requests_per_second=found.requests_per_second,
        p50_us=found.p50_us,
        p99_us=found.p99_us,
        cpu_us_per_request=cpu / answered * 1e6 if answered else None,
        batch=(
            found.server_requests / found.server_executions
            if found.server_requests and found.server_executions
            else None
        ),
    )


def run_row(
    case: Case, load: Load, endpoints: dict[str, Endpoint], rounds: int, reasons: dict[str, str]
) -> Row:
    """All rounds of one row; a server with a reason, or that gets one, is left out."""
    row = Row(case.name, load.protocol, load.concurrency, [], dict(reasons))
    for number in range(rounds):
        order = list(endpoints)[:: 1 if number % 2 == 0 else -1]
        for server in order:
            if server in row.reasons:
                continue
            try:
                row.samples.append(sample(case, load, endpoints[server], server, number))
            except (ClientFailed, WrongAnswer) as problem:
                row.reasons[server] = as_reason(problem)
    return row


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the extremes where there is more than one value."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def of(row: Row, server: str, field: str) -> dict[int, float]:
    """One field of the runs against one server, by round; runs without a value are left out."""
    values = {s.round: getattr(s, field) for s in row.samples if s.server == server}
    return {number: value for number, value in values.items() if value is not None}


def ratio(row: Row, field: str) -> str:
    """Troupe over Triton, round by round."""
    ours, theirs = of(row, "troupe", field), of(row, "triton", field)
    return spread([ours[n] / theirs[n] for n in sorted(ours) if theirs.get(n)], 2)


def print_rows(rows: Sequence[Row]) -> None:
    """The one table: ratios first, then each server's own medians."""
    print(
        "\nRatios are Troupe / Triton within a round: median (lowest..highest). More is better for"
        "\nreq/s, less for the others. Own figures are medians: Troupe | Triton.\n"
    )
    print(
        "| case | protocol | conc | req/s ratio | p50 ratio | p99 ratio | CPU/req ratio "
        "| req/s | p50 µs | p99 µs | CPU µs/req | batch |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    fields = (
        ("requests_per_second", 0),
        ("p50_us", 0),
        ("p99_us", 0),
        ("cpu_us_per_request", 0),
        ("batch", 1),
    )
    for row in rows:
        cells = [row.case, row.protocol, str(row.concurrency)]
        cells += [ratio(row, field) for field, _ in fields[:4]]
        for field, digits in fields:
            medians = []
            for server in STARTS:
                values = list(of(row, server, field).values())
                medians.append(f"{statistics.median(values):.{digits}f}" if values else "-")
            cells.append(" / ".join(medians))
        print("| " + " | ".join(cells) + " |")
    without: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for server, reason in row.reasons.items():
            without.setdefault((server, row.case, reason), []).append(
                f"{row.protocol} {row.concurrency}"
            )
    for (server, case, reason), loads in without.items():
        print(f"\n{server} has no {case} ({', '.join(loads)}): {reason}")


def started(server: str, logs: Path, more: Sequence[str]) -> AbstractContextManager[Endpoint]:
    """The server on all the models; `more` flags go to Troupe alone."""
    flags = [*FLAGS, *(more if server == "troupe" else ())]
    log = logs / f"{server}.log"
    return STARTS[server](MODELS, log=log, flags=flags, environment=ENVIRONMENT)


def start_up(
    servers: Sequence[str], rounds: int, logs: Path, more: Sequence[str]
) -> dict[str, list[float]]:
    """Seconds from exec to ready with all the models, each server alone, in turns.

    A server that does not get ready is said to be left out, and is.
    """
    found: dict[str, list[float]] = {server: [] for server in servers}
    for _ in range(rounds):
        for server in list(found):
            try:
                with started(server, logs, more) as endpoint:
                    found[server].append(endpoint.server.ready_seconds)
            except ServerFailed as failed:
                print(f"{server} is left out: {failed}")
                del found[server]
    return found


def compare(options: argparse.Namespace, logs: Path) -> list[Row]:
    """Runs everything that the options ask for, and prints as it goes."""
    servers = [options.only] if options.only else list(STARTS)
    if "troupe" in servers and not troupe_command().exists():
        print(f"troupe cannot run: there is no {troupe_command()}")
        servers.remove("troupe")
    rows: list[Row] = []
    seconds = start_up(servers, options.rounds, logs, options.troupe_flag)
    for server, values in seconds.items():
        print(f"start-up of {server}: {spread(values, 2)} s")
    with ExitStack() as stack:
        endpoints = {
            server: stack.enter_context(started(server, logs, options.troupe_flag))
            for server in seconds
        }
        print_memory("with all models loaded", endpoints)
        for case in CASES:
            if options.case and case.name not in options.case and case.model not in options.case:
                continue
            reasons: dict[str, str] = {}
            for server, endpoint in endpoints.items():
                try:
                    check_answer(case, endpoint.http)
                except WrongAnswer as problem:
                    reasons[server] = as_reason(problem)
            for protocol in case.protocols:
                if options.protocol and protocol != options.protocol:
                    continue
                for concurrency in case.concurrencies:
                    if concurrency not in options.concurrency:
                        continue
                    load = Load(
                        case.model, protocol, concurrency, case.options, options.window_seconds
                    )
                    row = run_row(case, load, endpoints, options.rounds, reasons)
                    rows.append(row)
                    print(f"{case.name} {protocol} {concurrency}: done", file=sys.stderr)
        print_memory("after the load", endpoints)
    print_rows(rows)
    return rows


def print_memory(when: str, endpoints: dict[str, Endpoint]) -> None:
    for server, endpoint in endpoints.items():
        held = memory(endpoint.server.pid)
        print(f"memory of {server} {when}: RSS {held.rss:.0f} MiB, PSS {held.pss:.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description="Troupe and Triton side by side")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, without 32 clients")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--window-seconds", type=float, help="default 2")
    parser.add_argument("--concurrency", type=int, nargs="+", help="default 1 8 32")
    parser.add_argument("--protocol", choices=("grpc", "http"))
    parser.add_argument("--case", action="append", help="a case or a model; may be repeated")
    parser.add_argument("--only", choices=list(STARTS), help="measure one server alone")
    parser.add_argument("--troupe-flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.window_seconds = options.window_seconds or (1.0 if options.quick else 2.0)
    options.concurrency = options.concurrency or ([1, 8] if options.quick else [1, 8, 32])
    peers.install("perf_analyzer")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            rows = compare(options, options.logs or Path(scratch))
        except ServerFailed as failed:
            print(failed, file=sys.stderr)
            return 1
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
