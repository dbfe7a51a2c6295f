"""Every case of scheduling has a test that bears its number: `test_NN_…`, or `T1` to `T17`.

The numbers are those of the Given/When/Then list that Troupe's scheduling was written from; here
stands what each is about. Cases 10 to 26 are the timelines of `tests/worked_timelines.py`.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Final

import pytest

from tests.worked_timelines import TIMELINES

HERE: Final = Path(__file__).parent
FIRST_TIMELINE: Final = 10

CASES: Final = {
    1: "a batch beyond the maximum", 2: "another shape", 3: "bytes that do not fit",
    4: "missing optional inputs", 5: "an unknown output", 6: "a client's batch runs whole",
    7: "a failing backend fails the whole batch", 8: "two instances, never batched",
    9: "a cancelled request on the default scheduler",
    27: "a lone request waits for the delay", 28: "preferred sizes run at once",
    29: "the delay counts from the oldest", 30: "another shape closes the batch",
    31: "a burst reaches the largest preferred size", 32: "late requests leave together",
    33: "optional inputs do not mix", 34: "preserved order", 35: "priorities",
    36: "a size limit of one level", 37: "an override without a default timeout",
    38: "cancelled in the queue", 39: "stopping", 40: "a custom strategy by volume",
    41: "ragged batch inputs", 42: "data types of batch inputs",
    43: "two sequences", 44: "short sequences beside long ones", 45: "padding",
    46: "three shapes", 47: "mistakes", 48: "START on an open sequence", 49: "the backlog",
    50: "silence", 51: "the delay and the utilization", 52: "the timeout parameter",
    53: "a cancelled head", 54: "a cancelled request in the backlog", 55: "types of ids",
    56: "candidates are batched", 57: "one request of a sequence at a time",
    58: "the next owner waits for the end", 59: "a state that is not updated",
    60: "the initial state", 61: "iterative sequences",
    62: "shared resources", 63: "declared resources", 64: "a resource of both kinds",
    65: "blocked batches grow", 66: "names of instances, passive groups",
    67: "a pruned diamond", 68: "a member's full queue", 69: "max_inflight_requests",
    70: "an output that a member leaves out",
    71: "the second of two equal requests", 72: "a response too large to keep",
    73: "a cached ensemble, and who cannot be cached",
}  # fmt: skip


@functools.cache
def numbered() -> dict[int, list[str]]:
    """The tests of scenarios by the number in their names."""
    found: dict[int, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                match = re.match(r"test_(\d+)_", node.name)
                if match is not None:
                    found.setdefault(int(match[1]), []).append(f"{path.name}::{node.name}")
    return found


@pytest.mark.parametrize("number", CASES)
def test_a_case_has_a_test_that_bears_its_number(number: int) -> None:
    assert numbered().get(number), f"nobody tests case {number}: {CASES[number]}"


def test_every_number_is_a_case() -> None:
    assert set(numbered()) <= set(CASES)
    timelines = range(FIRST_TIMELINE, FIRST_TIMELINE + len(TIMELINES))
    assert sorted([*CASES, *timelines]) == list(range(1, 74))


def test_the_timelines_are_numbered_in_order() -> None:
    names = [timeline.name.split()[0] for timeline in TIMELINES]
    assert names == [f"T{number}" for number in range(1, 18)]
