"""Every error, every case and every trap of the protocol has a test that is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.conformance.client_traps import TRAPS
from tests.conformance.protocol_cases import CASES, ERRORS, MORE_ERRORS, NEVER_SAID

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TESTS = Path(__file__).parents[1]
# Files whose tests bear the numbers of these cases, and not those of another list.
NUMBERED = (
    "test_http_cases",
    "test_http_clients",
    "test_http_metrics",
    "test_http_streams",
    "test_running",
    "test_security",
)
NAME = re.compile(r"(?P<file>[\w/]+)::(?P<function>\w+)(\[(?P<row>[\w ]+)\])?")


def file_of(name: str) -> Path:
    """The files of this folder, and of `clients` in it, are named without it."""
    here = TESTS / "conformance" / f"{name}.py"
    return here if here.exists() else TESTS / f"{name}.py"


@functools.cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, _FUNCTIONS))


def is_there(test: str) -> bool:
    """Whether the file has the function and, where a row is asked for, a table with that row."""
    matched = NAME.fullmatch(test)
    assert matched is not None, f"{test} is no name of a test"
    path = file_of(matched["file"])
    assert path.exists(), f"there is no {path}"
    if matched["function"] not in functions(path):
        return False
    row = matched["row"]
    return (
        row is None or re.search(rf'^    \("{row}[ "]', path.read_text(), re.MULTILINE) is not None
    )


LISTED = [
    *((f"E{number}", tests) for number, tests in ERRORS.items()),
    *MORE_ERRORS.items(),
    *((f"case {number}", tests) for number, tests in CASES.items()),
    *TRAPS.items(),
]


@pytest.mark.parametrize(("what", "tests"), LISTED, ids=[what for what, _ in LISTED])
def test_it_has_its_tests(what: str, tests: tuple[str, ...]) -> None:
    assert tests, f"nobody tests {what}"
    assert [test for test in tests if not is_there(test)] == [], what


def test_no_number_is_missing() -> None:
    assert sorted(ERRORS) == list(range(1, 61))
    assert sorted(CASES) == list(range(1, 61))


def test_what_is_never_said_has_its_reason() -> None:
    assert all(NEVER_SAID.values())


@pytest.mark.parametrize("file", NUMBERED)
def test_a_test_that_bears_the_number_of_a_case_is_listed_for_it(file: str) -> None:
    numbered = [
        (int(matched[1]), f"{file}::{function}")
        for function in functions(file_of(file))
        if (matched := re.match(r"test_case_(\d+)_", function))
    ]
    assert numbered
    assert [test for number, test in numbered if test not in CASES[number]] == []


def test_names_that_are_wrong_are_found() -> None:
    assert is_there("test_http_errors::test_a_mistake_in_an_inference[E7]")
    assert not is_there("test_http_errors::test_a_mistake_in_an_inference[E99]")
    assert not is_there("test_http_errors::test_nothing")
