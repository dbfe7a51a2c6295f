"""Known distributions in, the same distributions out: what a load generator is for.

The server keeps its own books: what it knows of each request is compared with what was reported,
within 1 %. Where theory knows the answer, that is compared, too.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from tests.perf_analyzer.fake_grpc import FakeGrpcServer
from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import Run, Server, run

COUNT = 1000
PERCENTS = (50, 90, 95, 99)

Draw = Callable[[Random], float]

DISTRIBUTIONS: dict[str, Draw] = {
    "constant": lambda _: 0.004,
    "uniform": lambda random: random.uniform(0.001, 0.009),
    "exponential": lambda random: random.expovariate(250),
    "lognormal": lambda random: random.lognormvariate(-5.8, 0.8),
    "two humps": lambda random: 0.050 if random.random() < 0.04 else 0.002,
}


def latencies(draw: Draw) -> list[float]:
    random = Random(11)
    return [draw(random) for _ in range(COUNT)]


def agree(seen: Run, truth: list[float]) -> None:
    """Every reported number is within 1 % of the truth, or within a microsecond."""
    assert seen.status == 0
    assert seen.value("Request count") == len(truth)
    for percent in PERCENTS:
        exact = float(np.percentile(truth, percent, method="closest_observation")) * 1e6
        assert seen.value(f"p{percent} latency") == pytest.approx(exact, rel=0.01, abs=1)
    assert seen.value("Avg latency") == pytest.approx(np.mean(truth) * 1e6, rel=0.01, abs=1)


@pytest.mark.parametrize(
    ("kind", "protocol"), [*((kind, "http") for kind in DISTRIBUTIONS), ("lognormal", "grpc")]
)
def test_a_closed_loop_sees_the_server_s_distribution(kind: str, protocol: str) -> None:
    truth = latencies(DISTRIBUTIONS[kind])
    rest, rpc = FakeServer(latency=truth.__getitem__), FakeGrpcServer(latency=truth.__getitem__)
    server: Server = rest if protocol == "http" else rpc

    seen = run(server, f"-i {protocol} --request-count {COUNT} --concurrency-range 4")

    agree(seen, truth)
    begun = rpc.at or [each.at for each in rest.infers]
    last_end = max(at + seconds for at, seconds in zip(begun, truth, strict=True))
    assert seen.value("Throughput") == pytest.approx(COUNT / (last_end - begun[0]), rel=0.01)


@pytest.mark.parametrize("kind", ["exponential", "two humps"])
def test_an_open_loop_sees_the_server_s_distribution(kind: str) -> None:
    truth = latencies(DISTRIBUTIONS[kind])

    seen = run(
        FakeServer(latency=truth.__getitem__),
        f"--async --request-rate-range 500 --request-count {COUNT}",
    )

    agree(seen, truth)
    last_end = max(place / 500 + seconds for place, seconds in enumerate(truth))
    assert seen.value("Throughput") == pytest.approx(COUNT / last_end, rel=0.001)


def lindley(arrivals: list[float], service: float) -> list[float]:
    """The latencies of a queue in front of one server: each waits for the one before."""
    free_at, found = 0.0, []
    for at in arrivals:
        free_at = max(free_at, at) + service
        found.append(free_at - at)
    return found


def test_a_queue_in_front_of_one_server_is_seen_as_theory_has_it() -> None:
    server = FakeServer(latency=lambda _: 0.005, serial=True)

    seen = run(
        server,
        f"--async --request-rate-range 120 --request-distribution poisson --request-count {COUNT}",
    )

    # The same arrivals through Lindley's recursion: exact, request by request.
    truth = lindley([each.at for each in server.infers], 0.005)
    agree(seen, truth)
    # M/D/1 in the long run: 5 ms of service and rho / (2 mu (1 - rho)) of waiting, rho = 0.6.
    assert seen.value("Avg latency") == pytest.approx(5000 + 0.6 * 5000 / (2 * 0.4), rel=0.15)


def test_a_closed_loop_hides_the_queue_that_an_open_loop_shows() -> None:
    """The reason for open loops: the server stands still for a second."""

    def latency(number: int) -> float:
        return 1.0 if number == 100 else 0.001

    closed = run(FakeServer(latency=latency, serial=True), "--request-count 1000")
    opened = run(
        FakeServer(latency=latency, serial=True),
        "--async --request-rate-range 200 --request-count 1000",
    )

    assert closed.value("p95 latency") == 1000
    assert opened.value("p90 latency") > 500_000
