"""Reading perf_analyzer's reports: the texts are what release 2.48.0 printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from perf_client import ClientFailed, Load, command_options, parse_report

TABLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,\
Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,\
p50 latency,p90 latency,p95 latency,p99 latency
8,4866.04,4,676,361,53,330,206,1,1493,2256,2644,3811
"""
TEXT = """\
Request concurrency: 8
  Client: \n\
    Request count: 18329
    Throughput: 4866.04 infer/sec
    p50 latency: 1493 usec
  Server: \n\
    Inference count: 18331
    Execution count: 5808
    Successful request count: 18331
"""


def test_report_gives_rates_latencies_and_counts() -> None:
    found = parse_report(TABLE, TEXT)

    assert found.requests_per_second == 4866.04
    assert found.p50_us == 1493
    assert found.p99_us == 3811
    assert found.client_requests == 18329
    assert found.server_requests == 18331
    assert found.server_executions == 5808
    assert found.responses_per_second is None


def test_report_of_a_decoupled_model_gives_the_rate_of_its_responses() -> None:
    text = TEXT.replace(
        "    Throughput", "    Response Throughput: 48660.4 infer/sec\n    Throughput"
    )

    assert parse_report(TABLE, text).responses_per_second == 48660.4


def test_report_without_server_statistics_leaves_them_out() -> None:
    found = parse_report(TABLE, TEXT[: TEXT.index("  Server")])

    assert found.client_requests == 18329
    assert found.server_requests is None
    assert found.server_executions is None


def test_an_empty_report_is_a_failure() -> None:
    with pytest.raises(ClientFailed, match="reported 0 rows, not 1"):
        parse_report(TABLE.splitlines()[0], "")


def test_many_http_connections_are_driven_asynchronously_with_few_threads() -> None:
    few = command_options(Load("m", "http", 1))
    many = command_options(Load("m", "http", 8))
    grpc = command_options(Load("m", "grpc", 32))

    assert "-a" not in few
    assert many[many.index("--max-threads") + 1] == "4"
    assert "-a" in many
    assert "-a" not in grpc


def test_exactly_the_asked_for_windows_are_run() -> None:
    options = command_options(Load("m", "grpc", 8, window_seconds=0.5, windows=4))

    assert options[options.index("-p") + 1] == "500"
    assert options[options.index("-r") + 1] == "4"
    assert options[options.index("-s") + 1] == "1000"


def test_fewer_windows_than_perf_analyzer_judges_are_refused() -> None:
    with pytest.raises(ValueError, match="windows is 2, must be at least 3"):
        Load("m", "grpc", 8, windows=2)
