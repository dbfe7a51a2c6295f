"""A configuration's text as a tree that knows where each part of it stands.

Owns the tree that the three forms (text format, JSON, YAML) have in common, and the bounds of its
size. What a field means is the schema's business (`schema`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

# A ModelConfig's own messages nest less than ten deep, and each may stand in a list.
MAX_DEPTH: Final = 32
# An ensemble with thousands of steps has some ten thousand; every node costs a few hundred bytes.
MAX_NODES: Final = 200_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written: line and column from 1, and the characters [start, end)."""

    line: int
    column: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A word, a number or a string; of a string, what it says and not how it is written."""

    place: Place
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    place: Place
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """One field: its name, and what it is said to be."""

    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Fields:
    """A message or a map, its entries in the order of the text; a name may stand twice."""

    place: Place
    entries: list[Entry] = field(default_factory=list)


Node = Scalar | Listing | Fields


Read = Callable[[str], Fields]


class MalformedText(Exception):
    """The text is none of its form; line and column count from 1, 0 where nobody knows."""

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.column = column


class Lines:
    """Turns offsets of a text into lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0]
        at = text.find("\n")
        while at >= 0:
            self._starts.append(at + 1)
            at = text.find("\n", at + 1)

    def place(self, start: int, end: int) -> Place:
        line = bisect_right(self._starts, start)
        return Place(line, start - self._starts[line - 1] + 1, start, end)


def too_many() -> MalformedText:
    return MalformedText(f"more than {MAX_NODES} values, aliases included")


def too_deep(place: Place) -> MalformedText:
    return MalformedText(f"nested more than {MAX_DEPTH} levels deep", place.line, place.column)
