"""Every kind of vulnerability that inference servers are known for has a test of its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# A row for each mechanism, with the CVE numbers that stand for it.
ROWS = [
    "2023_31036",
    "2024_0087",
    "0100",
    "2024_0088 2025_23319 23334 23333",
    "2025_23320 23329",
    "2024_0116",
    "2024_0095",
    "2024_0103",
    "2024_53880",
    "2025_23310 23311 33202 47477",
    "2025_23317",
    "2025_23321",
    "2025_23322 2026_24266",
    "2025_23323 23324 23326 23327 24173 24210 24174",
    "2025_23325",
    "2025_23331 23331 33201 33211 47628",
    "2025_23336",
    "2025_23316",
    "2025_33238 33254",
    "2026_24158 24264",
    "2026_24146",
    "2026_24147 24208 24209",
    "2026_24175",
    "2026_24206 24207 47481",
    "2026_47476 47479 47482",
    "2026_47478",
    "2026_47629",
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_test(row: str) -> None:
    names = [
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_cve_\w+)", path.read_text())
    ]

    assert [name for name in names if any(number in name for number in row.split())], row
