"""Closed loops in virtual time: what is measured must be what the server did."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import run


def test_one_request_at_a_time_is_measured_to_the_microsecond() -> None:
    seen = run(FakeServer(latency=lambda _: 0.010), "-p 300 -v")

    assert seen.status == 0
    assert seen.value("Throughput") == pytest.approx(100, rel=0.01)
    assert seen.value("Avg latency") == pytest.approx(10_000, abs=1)
    assert seen.text.count("  Pass [") == 3
    # Three windows of 300 ms x 1.2; a request that ends on the last edge may miss it.
    assert seen.value("Request count") in {107, 108}
    assert seen.lines[-1].startswith("Concurrency: 1, throughput: ")
    assert seen.lines[-1].endswith(" infer/sec, latency 10000 usec")
    assert "Verdict: stable" in seen.text


def test_so_many_requests_are_outstanding_as_were_asked_for() -> None:
    server = FakeServer()

    seen = run(server, "-p 300 --concurrency-range 4")

    assert server.busiest == 4
    assert server.occupied / 1.08 > 3.9
    assert seen.value("Throughput") == pytest.approx(400, rel=0.01)


def test_percentiles_are_those_of_the_distribution() -> None:
    # 90 % take 2 ms, 9 % 10 ms, 1 % 50 ms, spread evenly over the run.
    def latency(number: int) -> float:
        place = number % 100
        return 0.050 if place == 37 else 0.010 if place % 11 == 5 else 0.002

    seen = run(FakeServer(latency=latency), "-p 2000 --percentile 98")

    assert seen.value("p50 latency") == pytest.approx(2_000, rel=0.01)
    assert seen.value("p95 latency") == pytest.approx(10_000, rel=0.01)
    assert seen.value("p98 latency") == pytest.approx(10_000, rel=0.01)
    assert seen.value("p99 latency") in {10_000, 50_000}
    mean = (90 * 0.002 + 9 * 0.010 + 0.050) / 100
    assert seen.value("Throughput") == pytest.approx(1 / mean, rel=0.01)
    assert "  Stabilizing using p98 latency and throughput" in seen.lines
    assert "Avg latency" not in seen.text.partition("Client:")[2].partition("p50")[0]


def test_levels_come_in_order() -> None:
    seen = run(FakeServer(), "-p 300 --concurrency-range 1:8:3")

    titles = [line for line in seen.lines if line.startswith("Request concurrency")]
    assert titles == [f"Request concurrency: {level}" for level in (1, 4, 7)]


def test_a_level_that_never_settles_is_reported_but_not_counted(tmp_path: Path) -> None:
    csv = tmp_path / "out.csv"
    windows = [0.010 * 2**k for k in range(12)]
    server = FakeServer()
    server.latency = lambda _: windows[min(11, int(server.infers[-1].at / 0.36))]

    seen = run(server, f"-p 300 -s 10 -r 5 -v -f {csv}")

    assert seen.status == 2
    assert seen.text.count("  Pass [") == 5
    assert seen.errors == [
        (
            "Failed to obtain stable measurement within 5 measurement windows for concurrency 1. "
            "Please try to increase the --measurement-interval."
        ),
        "Failed to obtain stable measurement.",
    ]
    assert "Verdict: noisy by" in seen.text
    assert not csv.exists()


def test_a_later_level_that_never_settles_ends_the_sweep_in_peace() -> None:
    server = FakeServer()
    server.latency = lambda _: (
        0.010 if server.busiest < 2 else 0.010 * (1 + (int(server.infers[-1].at / 0.36) % 3))
    )

    seen = run(server, "-p 300 -r 4 --concurrency-range 1:2")

    assert seen.status == 0
    assert sum(line.startswith("Concurrency: ") for line in seen.lines) == 1


def test_the_sweep_stops_above_the_latency_limit() -> None:
    server = FakeServer()
    server.latency = lambda _: 0.005 if server.busy < 3 else 0.040

    seen = run(server, "-p 300 --concurrency-range 1:8 -l 20")

    assert seen.status == 0
    assert [line[:14] for line in seen.lines if line.startswith("Concurrency: ")] == [
        "Concurrency: 1",
        "Concurrency: 2",
    ]
    assert seen.errors == ["Measured latency went over the set limit of 20 msec. "]


def test_binary_search_visits_the_ends_and_then_halves() -> None:
    server = FakeServer()
    server.latency = lambda _: 0.003 * max(1, server.busy)

    seen = run(server, "-p 300 --concurrency-range 1:16:1 --binary-search -l 20")

    titles = [int(line.split()[-1]) for line in seen.lines if line.startswith("Request con")]
    passed = [line.split(",")[0] for line in seen.lines if line.startswith("Concurrency: ")]
    assert titles == [1, 16, 8, 4, 6, 7]
    assert passed == ["Concurrency: 1", "Concurrency: 4", "Concurrency: 6"]


def test_a_request_count_is_kept_exactly_and_timed_from_first_to_last() -> None:
    server = FakeServer()

    seen = run(server, "--request-count 20 --concurrency-range 2")

    assert seen.status == 0
    assert len(server.infers) == 20
    assert "  Sending 20 benchmark requests" in seen.lines
    assert seen.value("Throughput") == pytest.approx(200)
    assert "stabilization" not in seen.text


def test_warm_up_requests_count_nowhere() -> None:
    server = FakeServer(latency=lambda number: 1.0 if number < 5 else 0.010)

    seen = run(server, "--warmup-request-count 5 --request-count 10")

    assert len(server.infers) == 15
    assert seen.value("Request count") == 10
    assert seen.value("Avg latency") == 10_000


def test_count_windows_last_whole_seconds() -> None:
    seen = run(
        FakeServer(latency=lambda _: 0.1),
        "--measurement-mode count_windows --measurement-request-count 50",
    )

    assert seen.status == 0
    assert seen.value("Request count") in {150, 160, 170, 180}
    assert seen.value("Throughput") == pytest.approx(10, rel=0.01)


def test_an_error_of_the_server_ends_the_run() -> None:
    seen = run(FakeServer(infer_error="model is on holiday"), "-p 300")

    assert seen.status == 99
    assert seen.errors[-1].endswith("Thread [0] had error: model is on holiday")
    assert seen.errors[-1].startswith("Failed to maintain requested inference load.")


def test_no_request_within_the_windows_is_an_error_of_its_own() -> None:
    seen = run(FakeServer(latency=lambda _: 60.0), "-p 100 -r 3")

    assert seen.status == 3
    assert seen.errors == [
        "No valid requests recorded within time interval. Please use a larger time window."
    ]


def test_an_unknown_model_is_named() -> None:
    server = FakeServer(pages={"/v2/models/m": (404, {"error": "no such model 'm'"})})

    seen = run(server, "")

    assert seen.status == 99
    assert seen.errors == ["error: failed to get model metadata: no such model 'm'"]


def test_the_server_says_where_time_went() -> None:
    seen = run(FakeServer(latency=lambda _: 0.005), "-p 300")

    line = next(each for each in seen.lines if "Avg request latency" in each)
    assert line.strip() == (
        "Avg request latency: 5000 usec (overhead 4570 usec + queue 100 usec + "
        "compute input 10 usec + compute infer 300 usec + compute output 20 usec)"
    )


def test_a_server_without_statistics_has_no_server_block(tmp_path: Path) -> None:
    csv = tmp_path / "out.csv"

    seen = run(FakeServer(extensions=()), f"-p 300 -f {csv}")

    assert "Server:" not in seen.text
    header = csv.read_text().splitlines()[0]
    assert header == (
        "Concurrency,Inferences/Second,Client Send,Client Recv,"
        "p50 latency,p90 latency,p95 latency,p99 latency"
    )


def test_more_concurrency_that_brings_nothing_is_called_saturation() -> None:
    server = FakeServer(latency=lambda _: 0.010, serial=True)

    seen = run(server, "-p 300 --concurrency-range 1:2")

    assert "Verdict: stable" in seen.text
    assert "Verdict: server saturated (2 times the concurrency brought +" in seen.text


def test_connections_that_the_server_closes_are_opened_anew() -> None:
    seen = run(FakeServer(closes="told"), "-p 300 --concurrency-range 3")

    assert seen.status == 0
    assert seen.value("Throughput") == pytest.approx(300, rel=0.01)


def test_connections_that_were_closed_while_idle_are_not_used() -> None:
    server = FakeServer(latency=lambda _: 0.001, closes="silently")

    seen = run(server, "-p 500 --async --request-rate-range 50")

    assert seen.status == 0
    assert seen.value("Avg latency") == 1000
