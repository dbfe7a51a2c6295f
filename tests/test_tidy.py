"""The rules that no linter has: who may import whom, how long things may be, what is packaged."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Who stands to the left may be imported; whoever stands to the right may not.
ORDER = ("protocol", "repo", "actors", "simulation", "perf_analyzer", "model_analyzer", "troupe")
TOOLS = ORDER[3:]  # these share a place: none of them but troupe imports another
MAY_USE_TRIO = {"actors", *TOOLS}

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 70


def modules(package: str) -> Iterator[Path]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if "generated" not in path.parts:
            yield path


PRODUCT = [path for package in ORDER for path in modules(package)]
IDS = [str(path.relative_to(ROOT)) for path in PRODUCT]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_the_law_of_imports_holds(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {*ORDER[: ORDER.index(package) + 1]} if package == "troupe" else {
        *(name for name in ORDER[:3] if ORDER.index(name) <= ORDER.index(package)),
        package,
    }  # fmt: skip

    tops = {name.split(".")[0] for name in imported(path)}

    forbidden = (tops & set(ORDER)) - allowed
    assert not forbidden, f"{package} may not import {sorted(forbidden)}; see ARCHITECTURE.md"


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_trio_stays_where_waiting_is_allowed(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    waits = parts[0] in MAY_USE_TRIO and parts[:2] != ("actors", "policy")

    uses = any(name.split(".")[0] == "trio" for name in imported(path))

    assert waits or not uses, "this package is plain synchronous code; move what waits into actors/"


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_modules_and_functions_stay_readable(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    lines = len(source.splitlines())
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]

    assert lines <= MAX_MODULE_LINES, f"{lines} lines; split it by idea"
    assert not long, f"functions longer than {MAX_FUNCTION_LINES} lines: {long}"
    assert not source.strip() or ast.get_docstring(tree), "say first what this module owns"


def test_every_package_is_named_in_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])

    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ORDER
        for path in (ROOT / package).rglob("__init__.py")
    }

    assert found == listed


def introduced() -> dict[str, list[str]]:
    """Folder of actors/ -> the modules that ARCHITECTURE.md names in its line."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("## Who is who in actors/")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[1].strip(" `/"): re.findall(r"`(\w+)`", row[3]) for row in rows}


def test_every_folder_of_actors_is_introduced() -> None:
    found = {path.parent.name for path in (ROOT / "actors").rglob("__init__.py")}

    assert set(introduced()) == found


@pytest.mark.parametrize("folder", sorted(introduced()))
def test_every_actor_is_introduced(folder: str) -> None:
    place = ROOT / "actors" / ("" if folder == "actors" else folder)

    found = {path.stem for path in place.glob("*.py")} - {"__init__"}

    assert sorted(introduced()[folder]) == sorted(found), "ARCHITECTURE.md names each module once"


def test_nobody_leaves_work_marked_for_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME")
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in PRODUCT
        for mark in marks
        if mark in path.read_text()
    ]

    assert not found
