"""Reading h2load's reports: the text is what release 1.52.0 printed."""

from __future__ import annotations

import pytest

from bench.h2load_client import ClientFailed, parse_report

TEXT = """\
starting benchmark...
Application protocol: h2c
Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 3.00s, 1082.00 req/s, 619.28MB/s
requests: 2164 total, 2164 started, 2164 done, 2164 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2164 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.21GB (1298729942) total, 6.36KB (6513) headers (space savings 94.72%), 1.82GB (1) data
                     min         max         mean         sd        +/- sd
time for request:     2.88ms      9.63ms      3.68ms       536us    85.40%
"""


def test_report_gives_answers_their_rate_and_what_came() -> None:
    found = parse_report(TEXT)

    assert found.answers == 2164
    assert found.answers_per_second == 1082.0
    assert found.received_bytes == 1_298_729_942
    assert found.started == 2164


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("2164 succeeded, 0 failed", "2163 succeeded, 1 failed"),
        ("0 errored", "4 errored"),
        ("2164 2xx, 0 3xx, 0 4xx, 0 5xx", "2160 2xx, 0 3xx, 0 4xx, 4 5xx"),
        ("2164 done, 2164 succeeded", "0 done, 0 succeeded"),
    ],
)
def test_requests_without_success_fail_the_run(good: str, bad: str) -> None:
    with pytest.raises(ClientFailed, match="requests: "):
        parse_report(TEXT.replace(good, bad))


def test_a_report_without_counts_fails() -> None:
    with pytest.raises(ClientFailed, match="nothing usable"):
        parse_report(TEXT[: TEXT.index("status codes")])
