"""Open loops in virtual time: when requests go out, and what is said of late ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import run


def gaps(server: FakeServer) -> list[float]:
    return [after.at - before.at for before, after in itertools.pairwise(server.infers)]


def test_a_constant_rate_is_kept_to_the_microsecond() -> None:
    server = FakeServer(latency=lambda _: 0.001)

    seen = run(server, "-p 500 --request-rate-range 50")

    assert seen.status == 0
    assert server.infers[0].at == pytest.approx(0.020, abs=1e-6)
    assert all(gap == pytest.approx(0.020, abs=1e-6) for gap in gaps(server))
    assert seen.value("Throughput") == pytest.approx(50, rel=0.04)
    assert seen.value("Avg latency") == 1000
    assert "Request Rate: 50 inference requests per seconds" in seen.lines
    assert seen.lines[-1].startswith("Request Rate: 50, throughput: ")


def test_a_poisson_load_is_the_same_in_every_run() -> None:
    one, other = FakeServer(latency=lambda _: 0.001), FakeServer(latency=lambda _: 0.001)
    arguments = "-p 500 -r 3 -s 100 --async --request-rate-range 200 --request-distribution poisson"

    assert run(one, arguments).status == 0
    assert run(other, arguments).status == 0

    count = min(len(one.infers), len(other.infers))
    assert [each.at for each in one.infers[:count]] == [each.at for each in other.infers[:count]]
    assert max(gaps(one)) > 3 * sum(gaps(one)) / count


def test_an_overdriven_server_is_told_from_its_late_requests() -> None:
    server = FakeServer(latency=lambda _: 0.005)

    seen = run(server, "-p 500 -r 3 --max-threads 2 --request-rate-range 2000")

    assert seen.status == 0
    assert server.busiest == 2
    assert seen.value("Throughput") == pytest.approx(400, rel=0.02)
    assert seen.value("Avg send request rate") == pytest.approx(400, rel=0.02)
    warning = next(line for line in seen.lines if "of the requests were delayed" in line)
    assert float(warning.split("rate. ")[1].partition("%")[0]) > 90
    assert seen.lines[-1].startswith("Request Rate: 2000, ")  # not 2000.00
    verdict = next(line for line in seen.lines if "Verdict" in line)
    assert verdict.startswith("  Verdict: server saturated (")
    assert verdict.endswith(" of 2000 requests/sec were answered)")


def test_latency_counts_from_the_scheduled_send() -> None:
    # The server stands still once, for 300 ms; 30 requests should have gone out meanwhile.
    server = FakeServer(latency=lambda number: 0.300 if number == 20 else 0.001)

    seen = run(server, "--max-threads 1 --request-count 100 --request-rate-range 100")

    # Coordinated omission would show one request of 300 ms: p90 would be 1 ms.
    assert seen.value("p90 latency") > 150_000
    assert "Service time, from the actual send: avg 3990 usec" in seen.text


def test_an_asynchronous_rate_does_not_wait_for_responses() -> None:
    server = FakeServer(latency=lambda _: 0.5)

    seen = run(server, "-p 1000 --async --request-rate-range 100")

    assert seen.status == 0
    assert server.busiest == pytest.approx(50, abs=2)
    assert seen.value("Avg latency") == 500_000
    assert "WARNING" not in seen.text


def test_rates_come_in_order_and_stop_at_the_limit() -> None:
    server = FakeServer()
    server.latency = lambda _: 0.002 if server.busy < 3 else 0.090

    seen = run(server, "-p 300 --async --request-rate-range 100:2100:1000 -l 40")

    titles = [line.split()[2] for line in seen.lines if line.startswith("Request Rate: ")]
    assert titles[:2] == ["100", "1100"]
    assert seen.errors == ["Measured latency went over the set limit of 40 msec. "]


def test_custom_intervals_repeat(tmp_path: Path) -> None:
    intervals = tmp_path / "intervals"
    intervals.write_text("100000\n200000\n500000\n")
    server = FakeServer(latency=lambda _: 0.001)

    seen = run(server, f"-p 2000 -s 100 --request-intervals {intervals}")

    assert seen.status == 0
    assert [each.at for each in server.infers[:6]] == pytest.approx(
        [0.1, 0.3, 0.8, 0.9, 1.1, 1.6], abs=1e-6
    )
    assert seen.lines[-1].startswith("Request Rate: 3, throughput: ")


def test_unstable_custom_intervals_are_no_error(tmp_path: Path) -> None:
    intervals = tmp_path / "intervals"
    intervals.write_text("300000\n")
    server = FakeServer(latency=lambda number: 0.001 * (1 + number % 7))

    seen = run(server, f"-p 400 -s 0 -r 3 --request-intervals {intervals}")

    assert seen.status == 0
    assert "Failed to obtain stable measurement within 3" in seen.errors[0]


def test_an_absent_intervals_file_is_named() -> None:
    seen = run(FakeServer(), "--request-intervals /nowhere/at/all")

    assert seen.status == 99
    assert seen.errors == ["error: failed to open '/nowhere/at/all': No such file or directory"]


def test_a_fixed_schedule_is_sent_once(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    steps = [{"timestamp": [at], "IN": [at, 0, 0, 0]} for at in (0, 50, 60, 300)]
    data.write_text(json.dumps({"data": steps}))
    export = tmp_path / "export.json"
    server = FakeServer(latency=lambda _: 0.001)

    seen = run(server, f"--fixed-schedule --input-data {data} --profile-export-file {export}")

    assert seen.status == 0
    offsets = [each.at - server.infers[0].at for each in server.infers]
    assert offsets == pytest.approx([0, 0.05, 0.06, 0.3], abs=1e-6)
    assert all(len(each.document["inputs"]) == 1 for each in server.infers)
    experiment = json.loads(export.read_text())["experiments"][0]["experiment"]
    assert experiment == {"mode": "request_rate", "value": 0.0}


def test_a_fixed_schedule_needs_its_timestamps(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{"IN": [0, 0, 0, 0]}]}))

    seen = run(FakeServer(), f"--fixed-schedule --input-data {data}")

    assert seen.status == 99
    assert "needs an integer 'timestamp' in milliseconds in each step" in seen.errors[0]


def test_the_first_steps_of_a_fixed_schedule_may_warm_up(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    steps = [{"timestamp": [at], "IN": [0, 0, 0, 0]} for at in (0, 100, 200, 250)]
    data.write_text(json.dumps({"data": steps}))
    server = FakeServer(latency=lambda _: 0.001)

    seen = run(server, f"--fixed-schedule --warmup-request-count 2 --input-data {data}")

    assert seen.status == 0
    assert len(server.infers) == 4
    assert seen.value("Request count") == 2
    assert server.infers[3].at - server.infers[2].at == pytest.approx(0.05, abs=1e-6)


def test_a_rate_stops_when_the_user_has_had_enough() -> None:
    async def impatient(session: object) -> None:
        import trio

        await trio.sleep(0.7)
        session.interrupt()  # type: ignore[attr-defined]  # a Session; imported for its type only

    seen = run(FakeServer(), "-p 1000 --async --request-rate-range 100", meanwhile=impatient)

    assert seen.status == 0
    assert "SIGINT was pressed" in seen.errors[0]
    assert seen.value("Request count") == pytest.approx(69, abs=2)
