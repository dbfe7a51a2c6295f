"""Checks whole repositories: `check_repositories` is what `troupe lint` runs.

Owns the order of the report and what several repositories say together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repo.lint.ensembles import check_ensembles
from repo.lint.layout import repository_problems
from repo.lint.models import LintOptions, check_model
from repo.lint.problems import Document, Problem
from repo.scan import Repository, scan
from repo.storage import LocalStorage


@dataclass(frozen=True, slots=True)
class Report:
    """All problems, model by model, and the documents that they are in."""

    problems: tuple[Problem, ...]
    documents: tuple[Document, ...]
    models: int

    def count(self, severity: str) -> int:
        return sum(problem.severity == severity for problem in self.problems)


def check_repositories(paths: Sequence[Path], options: LintOptions | None = None) -> Report:
    """Look at every model of every repository. Raises OSError for one that cannot be read."""
    options = options or LintOptions()
    listing = scan([Repository(LocalStorage(str(path))) for path in dict.fromkeys(paths)])
    problems: list[Problem] = []
    for path in paths:
        problems += repository_problems(
            path, sum(entry.storage.location == str(path) for entry in listing.models.values())
        )
    for identity in sorted(listing.duplicates):
        for path in paths:
            if (path / identity.name).is_dir():
                text = f"model '{identity.name}' appears in two or more repositories"
                problems.append(Problem(path / identity.name, "error", text, model=identity.name))
    checked = {
        identity.name: check_model(entry, options)
        for identity, entry in sorted(listing.models.items())
    }
    check_ensembles(checked)
    for model in checked.values():
        problems += sorted(model.problems, key=lambda one: (str(one.path), one.line, one.column))
    return Report(
        tuple(problems),
        tuple(model.document for model in checked.values()),
        len(checked) + len(listing.duplicates),
    )
