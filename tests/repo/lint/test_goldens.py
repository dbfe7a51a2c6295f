"""A repository for each thing that can be wrong, and what is said about it, to the letter.

The texts follow what is checked: `python tests/repo/lint/test_goldens.py` writes them anew, for a
reviewer to read.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trio

from actors.lifecycle.model_index import VersionState
from actors.settings.options import ServerOptions
from repo.instance_groups import NO_GPU
from repo.lint.models import LintOptions
from repo.lint.report import Painter, as_text
from repo.lint.repository import Report, check_repositories
from troupe.server import Server

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
OPTIONS = LintOptions(devices=NO_GPU)


@cache
def check(case: Path) -> Report:
    """The report with paths as somebody sees them who stands in the case's directory."""
    with contextlib.chdir(case):
        return check_repositories([Path("repository")], OPTIONS)


def test_there_is_one_for_every_class() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_report_is_the_expected_one(case: Path) -> None:
    text = as_text(check(case), Painter(colours=False))
    assert text == (case / "expected.txt").read_text()


@pytest.fixture
def _small_heap() -> Iterator[None]:
    """Every unload collects garbage, which takes a while among all that tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_small_heap")
async def test_the_server_loads_what_has_no_errors_and_nothing_else() -> None:
    """All repositories at once, kept apart by their namespaces."""
    expected: dict[str, bool] = {}
    for case in CASES:
        repository = case / "repository"
        report = check(case)
        failed = {one.model for one in report.problems if one.severity == "error"}
        for model in repository.iterdir():
            if model.is_dir():
                expected[f"{repository}::{model.name}"] = model.name not in failed
    options = ServerOptions(
        model_repository=tuple(str(case / "repository") for case in CASES),
        model_namespacing=True,
        exit_on_error=False,
        allow_http=False,
        allow_grpc=False,
        allow_metrics=False,
    )
    server = Server(options)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        models = server.core.index.value.models
        loaded = {
            name: any(row.state is VersionState.READY for row in entry.versions.values())
            for name, entry in models.items()
        }
        server.stop()

    disagreements = {
        name.rpartition("golden/")[2]: (said, loaded.get(name, False))
        for name, said in expected.items()
        if said != loaded.get(name, False)
    }
    # A server learns that there is no `execute` from the first request.
    assert disagreements == {"python-execute/repository::m": (False, True)}
    assert sum(expected.values()) >= 10


if __name__ == "__main__":
    for each in CASES:
        (each / "expected.txt").write_text(as_text(check(each), Painter(colours=False)))
