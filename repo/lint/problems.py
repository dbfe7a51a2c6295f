"""What is wrong with a repository, as one value, and the documents it is shown in.

Owns the form of a problem and of a text that knows where its fields are. It finds nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from protocol.status import ServerError
from repo.config_files import READERS, SUFFIXES, parse_file
from repo.config_text.nodes import MalformedText, Place
from repo.config_text.schema import Finding, Survey, Syntax, survey
from repo.model_config import ModelConfig
from repo.pbtxt import MAX_CONFIG_BYTES
from repo.refusals import ConfigRefusal

Severity = Literal["error", "warning", "note"]
"""An error keeps a model from loading, or from answering; a warning is legal, a note only tells."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that cannot make anything worse: characters [start, end) of a file, replaced."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to say. Without a line it is about the file or directory as a whole."""

    path: Path
    severity: Severity
    text: str
    line: int = 0
    column: int = 0
    width: int = 1  # of what the column points at, in characters
    source: str = ""  # the line itself
    model: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file as it was read; `root` of the survey is empty where it made no sense."""

    path: Path
    text: str
    syntax: Syntax
    survey: Survey = field(default_factory=Survey)

    @classmethod
    def of(cls, path: Path, raw: bytes) -> Document:
        syntax = SUFFIXES.get(path.suffix, "pbtxt")
        if len(raw) > MAX_CONFIG_BYTES:
            return cls(path, "", syntax)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return cls(path, "", syntax)
        try:
            return cls(path, text, syntax, survey(READERS[syntax](text), syntax))
        except MalformedText:
            return cls(path, text, syntax)

    def problem(
        self, text: str, path: str, *, severity: Severity = "error", fix: str = ""
    ) -> Problem:
        """A problem of the field at `path`, or of the nearest one around it that is written."""
        return self._shown(Problem(self.path, severity, text, fix=fix), self.place(path))

    def refused(self, refusal: ServerError, field_path: str = "", fix: str = "") -> Problem:
        """A rule's refusal, where it belongs."""
        path = refusal.field if isinstance(refusal, ConfigRefusal) else field_path
        problem = self.problem(refusal.message, path, fix=fix)
        if isinstance(refusal, ConfigRefusal) and refusal.expected is not None:
            return replace(problem, expected=str(refusal.expected), found=str(refusal.found))
        return problem

    def place(self, path: str) -> Place | None:
        while path:
            found = self.survey.places.get(path)
            if found is not None:
                return found
            path = _around(path)
        return None

    def at(self, line: int, column: int, text: str) -> Problem:
        """A problem at a line and column that a parser told."""
        problem = Problem(self.path, "error", text, line=line, column=max(column, 1))
        return replace(problem, source=self._line(line))

    def unknown_word(self, finding: Finding) -> Problem:
        """A word that the schema does not know, with the one that was meant."""
        place, instead = finding.place, finding.instead
        problem = self._shown(Problem(self.path, "error", finding.text), place)
        if not instead:
            return problem
        written = self.text[place.start : place.end]
        quotes = written[0] if written[:1] in {'"', "'"} and instead[0] != '"' else ""
        asked = "" if instead[0] == '"' else f"; did you mean {instead}?"
        return replace(
            problem,
            text=f"{finding.text}{asked}",
            fix=f"write {instead}",
            edit=Edit(place.start, place.end, f"{quotes}{instead}{quotes}"),
        )

    def _shown(self, problem: Problem, place: Place | None) -> Problem:
        if place is None:
            return problem
        source = self._line(place.line)
        room = max(len(source) - place.column + 1, 1)
        width = min(max(place.end - place.start, 1), room)
        return replace(problem, line=place.line, column=place.column, width=width, source=source)

    def _line(self, number: int) -> str:
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


def _around(path: str) -> str:
    """The path of what holds the field: `input[1].dims[0]` → `input[1].dims` → `input[1]`."""
    if path.endswith('"]'):
        return path[: path.rindex('["')]
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path.rpartition(".")[0]


_TOLD = re.compile(r".*?:(\d+):(\d+): (.*)", re.DOTALL)


def read(document: Document, raw: bytes) -> ModelConfig | list[Problem]:
    """The configuration, or why there is none. The server's own reader decides that."""
    try:
        return parse_file(raw, document.path)
    except ServerError as error:
        return list(_why(document, error))


def _why(document: Document, error: ServerError) -> Iterator[Problem]:
    findings = document.survey.findings
    yield from map(document.unknown_word, findings)
    rest = error.message.partition(str(document.path))[2]
    told = _TOLD.fullmatch(rest) if re.match(r":\d+:\d+: ", rest) else None
    if told is None:
        if not findings:
            yield Problem(document.path, "error", rest.removeprefix(": ") or error.message)
    elif int(told[1]) not in {finding.place.line for finding in findings}:
        yield document.at(int(told[1]), int(told[2]), told[3])
