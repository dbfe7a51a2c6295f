"""The 147 cases of the public h2spec suite, frame by frame against the codec.

docs/http2-conformance.md has the table.
"""

from __future__ import annotations

import pytest

from tests.conformance import (
    h2spec_frames,
    h2spec_generic,
    h2spec_hpack,
    h2spec_http2,
    h2spec_messages,
)
from tests.conformance.h2spec_client import Case, Client

CASES = [
    *h2spec_generic.CASES,
    *h2spec_http2.CASES,
    *h2spec_frames.CASES,
    *h2spec_messages.CASES,
    *h2spec_hpack.CASES,
]


def test_no_case_is_missing() -> None:
    numbers = [case.number for case in (*h2spec_http2.FIRST, *CASES)]
    assert len(set(numbers)) == len(numbers) == 147
    counts = {
        suite: sum(n.startswith(suite) for n in numbers) for suite in ("generic", "http2", "hpack")
    }
    assert counts == {"generic": 44, "http2": 95, "hpack": 8}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.number))
def test_h2spec(case: Case) -> None:
    case.run(Client())


@pytest.mark.parametrize("case", h2spec_http2.FIRST, ids=lambda case: str(case.number))
def test_h2spec_handshake(case: Case) -> None:
    case.run(Client(handshake=False))
