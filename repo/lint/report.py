"""Problems as text for people and as JSON for programs, and what fixing them would change.

Owns the look of a report: like a compiler's, with the line, a caret and a proposal. It prints
nothing itself.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from repo.lint.problems import Edit, Problem, Severity
from repo.lint.repository import Report

_COLOURS: Final[dict[Severity, str]] = {"error": "31", "warning": "33", "note": "36"}
_BOLD: Final = "1"
_DIM: Final = "2"

# A line of a configuration that is longer than this was not written by hand.
MAX_SOURCE: Final = 120


class Painter:
    """Colours for a terminal, or none."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def as_text(report: Report, paint: Painter) -> str:
    """Every problem with its line, and a summary."""
    parts = ["\n".join(_shown(problem, paint)) for problem in report.problems]
    parts.append(summary(report))
    return "\n\n".join(parts) + "\n"


def _shown(problem: Problem, paint: Painter) -> Iterator[str]:
    place = str(problem.path)
    if problem.line:
        place += f":{problem.line}:{problem.column}"
    severity = paint(f"{problem.severity}:", f"{_BOLD};{_COLOURS[problem.severity]}")
    yield f"{paint(place, _BOLD)}: {severity} {_plain(problem.text)}"
    margin = len(str(problem.line)) + 2
    blank = " " * margin
    if problem.source:
        line, start = _plain(problem.source), problem.column - 1
        cut = max(0, start - MAX_SOURCE // 2)
        line, start = line[cut : cut + MAX_SOURCE], start - cut
        caret = "^" + "~" * (min(problem.width, len(line) - start) - 1)
        pointing = " " * start + paint(caret, _COLOURS[problem.severity])
        yield f"{paint(f'{problem.line:>{margin}} |', _DIM)} {line}"
        yield f"{paint(f'{blank} |', _DIM)} {pointing}"
    lead = paint(f"{blank} =", _DIM)
    if problem.expected:
        yield f"{lead} expected {problem.expected}"
        yield f"{lead}    found {problem.found}"
    if problem.fix:
        yield f"{lead} fix: {_plain(problem.fix)}"


def _plain(text: str) -> str:
    """One line, a character wide each, whatever a file holds: a caret must stand under its word."""
    return "".join(
        char if char.isprintable() else " " if char in "\t\n\r" else "?" for char in text
    )


def summary(report: Report) -> str:
    counted = [
        _counted(report.count(severity), severity) for severity in ("error", "warning", "note")
    ]
    said = ", ".join(text for text in counted if text) or "no problems"
    return f"{said} in {report.models} model{'s' * (report.models != 1)}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}" if count else ""


def as_json(report: Report) -> str:
    """One object: `problems` in the order of the text, and counts."""
    problems = [
        {
            "path": str(one.path),
            "line": one.line,
            "column": one.column,
            "severity": one.severity,
            "message": one.text,
            "model": one.model,
            "expected": one.expected,
            "found": one.found,
            "fix": one.fix,
            "fixable": one.edit is not None,
        }
        for one in report.problems
    ]
    counts = {f"{each}s": report.count(each) for each in ("error", "warning", "note")}
    return json.dumps({"problems": problems, **counts, "models": report.models}, indent=2) + "\n"


def fixed_texts(report: Report) -> dict[Path, tuple[str, str]]:
    """File → its text before and after the edits that are safe."""
    texts = {document.path: document.text for document in report.documents}
    edits: dict[Path, list[Edit]] = {}
    for problem in report.problems:
        if problem.edit is not None:
            edits.setdefault(problem.path, []).append(problem.edit)
    return {path: (texts[path], _apply(texts[path], each)) for path, each in edits.items()}


def _apply(text: str, edits: list[Edit]) -> str:
    end = len(text)
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        if edit.end <= end:  # of two that overlap, the later one
            text = text[: edit.start] + edit.text + text[edit.end :]
            end = edit.start
    return text


def as_diff(fixed: Mapping[Path, tuple[str, str]]) -> str:
    """What would change, as a unified diff."""
    parts: list[str] = []
    for path, (before, after) in fixed.items():
        lines = difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            str(path),
            str(path),
        )
        parts += [line if line.endswith("\n") else f"{line}\n" for line in lines]
    return "".join(parts)
