"""Reading wrk's reports: the texts are what release 4.1.0 printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from wrk_client import ClientFailed, parse_report

TEXT = """\
Running 2s test @ http://127.0.0.1:8000/v2/models/identity/infer
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.81ms  503.00us   9.00ms   90.00%
    Req/Sec     4.40k   310.00     5.02k    70.00%
  Latency Distribution
     50%  850.00us
     75%    1.90ms
     90%    2.20ms
     99%    1.05s
  8756 requests in 2.00s, 2.40MB read
Requests/sec:   4376.51
Transfer/sec:      1.20MB
"""


def test_report_gives_counts_and_latencies_in_microseconds() -> None:
    found = parse_report(TEXT)

    assert found.requests == 8756
    assert found.requests_per_second == 4376.51
    assert found.p50_us == 850
    assert found.p99_us == 1_050_000


@pytest.mark.parametrize(
    "line",
    [
        "  Non-2xx or 3xx responses: 12",
        "  Socket errors: connect 0, read 3, write 0, timeout 0",
    ],
)
def test_errors_of_the_server_fail_the_run(line: str) -> None:
    with pytest.raises(ClientFailed, match=line.strip()):
        parse_report(f"{TEXT}{line}\n")


def test_a_report_without_quantiles_fails() -> None:
    with pytest.raises(ClientFailed, match="nothing usable"):
        parse_report(TEXT[: TEXT.index("  Latency Distribution")])
