"""What can be told of a model.py without running it.

Owns the reading of its syntax tree. Whatever could come from elsewhere (a base class, an import, an
assignment) is believed to be there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from repo.lint.problems import Problem

CLASS: Final = "TritonPythonModel"
METHOD: Final = "execute"

# Larger ones are data, and the tree of one takes a hundred times its size.
MAX_SOURCE_BYTES: Final = 4 * 1024 * 1024


def python_problems(path: Path) -> Iterator[Problem]:
    """Why this file could not be a model, if it can be told."""
    if not path.name.endswith(".py"):
        text = f"Model name must end with '.py'. Model name is \"{path.name}\"."
        yield Problem(path, "error", text)
        return
    if not path.is_file():
        yield Problem(path.parent, "error", f"Python model file not found in '{path}'")
        return
    raw = path.read_bytes()
    if len(raw) > MAX_SOURCE_BYTES:
        return
    lines = raw.decode("utf-8", errors="replace").split("\n")
    try:
        tree = ast.parse(raw)
    except SyntaxError as error:
        line = error.lineno or 0
        shown = lines[line - 1] if 0 < line <= len(lines) else ""
        yield Problem(path, "error", error.msg, line=line, column=error.offset or 1, source=shown)
        return
    except ValueError as error:  # NUL bytes
        yield Problem(path, "error", str(error))
        return
    found = next(
        (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == CLASS), None
    )
    if found is None:
        if not _may_bind(tree, CLASS):
            yield Problem(
                path,
                "error",
                f"{path.name} does not define class {CLASS}",
                fix=_class_fix(tree),
            )
    elif not (found.bases or found.keywords or found.decorator_list or _defines(found)):
        yield replace(
            Problem(
                path,
                "error",
                f"Python model {path} does not implement `{METHOD}` method.",
                fix=f"add def {METHOD}(self, requests)",
            ),
            line=found.lineno,
            column=found.col_offset + 1,
            source=lines[found.lineno - 1],
            width=len(f"class {CLASS}"),
        )


def _defines(found: ast.ClassDef) -> bool:
    return any(
        (isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == METHOD)
        or not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Expr | ast.Pass)
        for one in found.body
        if not isinstance(one, ast.Assign | ast.AnnAssign) or METHOD in ast.dump(one)
    )


def _may_bind(tree: ast.Module, name: str) -> bool:
    """Whether anything at all in the file may give the module this name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Constant) and name in {
            getattr(node, "id", None),
            getattr(node, "value", None),
        }:
            return True
        if isinstance(node, ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Import | ast.ImportFrom) and any(
            (alias.asname or alias.name) in {name, "*"} for alias in node.names
        ):
            return True
    return False


def _class_fix(tree: ast.Module) -> str:
    classes = [one.name for one in tree.body if isinstance(one, ast.ClassDef)]
    return f"rename class {classes[0]} to {CLASS}" if len(classes) == 1 else f"add class {CLASS}"
