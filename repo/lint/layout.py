"""What stands where in a repository: directories that are no versions, leftovers of editors.

Owns the findings that need no configuration. Directory names and what becomes of them follow
`repo.versions`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from repo.config_files import CONFIG_FILES
from repo.lint.problems import Problem
from repo.versions import RESERVED_DIRECTORIES, discover_versions

# A directory of ten thousand entries is no model's; what lies deeper is not looked at either.
MAX_ENTRIES: Final = 10_000


def repository_problems(repository: Path, models: int) -> Iterator[Problem]:
    """What is wrong with the repository as a whole."""
    own = [name for name in CONFIG_FILES if (repository / name).is_file()]
    if own:
        yield Problem(
            repository / own[0],
            "warning",
            f"'{repository.name}' looks like a model, not like a repository of models",
            fix=f"check {repository.parent} instead",
        )
    elif not models:
        yield Problem(repository, "warning", "the repository holds no model")


def model_problems(directory: Path, subdirectories: tuple[str, ...]) -> Iterator[Problem]:
    """What is wrong with the places of things in one model directory."""
    for name in subdirectories:
        if name in RESERVED_DIRECTORIES or discover_versions([name]):
            continue
        path = directory / name
        if len(name) > 1 and name.startswith("0") and name.isdecimal():
            text = f"version directory '{name}' has leading zeros and is ignored"
            yield Problem(path, "warning", text, fix=f"rename it to {int(name)}")
        else:
            text = f"directory '{name}' is no version and is ignored"
            digits = name.lstrip("vV").split("-")[0]
            fix = f"rename it to {int(digits)}" if digits.isdecimal() and digits.isascii() else ""
            yield Problem(path, "warning", text, fix=fix)
    with os.scandir(directory) as entries:
        names = sorted(
            entry.name
            for _, entry in zip(range(MAX_ENTRIES), entries, strict=False)
            if not entry.is_dir()
        )
    for name in names:
        if name.endswith((".swp", ".swo", "~")) or (name.startswith("#") and name.endswith("#")):
            text = f"'{name}' is left over from an editor, and makes every change a full reload"
            yield Problem(directory / name, "warning", text, fix="delete it")
