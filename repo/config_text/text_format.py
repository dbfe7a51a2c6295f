"""protobuf's text format as a tree with places.

protobuf's own parser decides what is well-formed (`repo.pbtxt`) but forgets where it read it. This
one keeps that and is lenient: it is only ever asked about text that the other one has seen, and it
gives up where it does not understand.
"""

from __future__ import annotations

import re
from typing import Final

from repo.config_text.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    Entry,
    Fields,
    Lines,
    Listing,
    MalformedText,
    Node,
    Scalar,
    too_deep,
    too_many,
)

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*')"""
    r"""|(?P<word>[-+]?[A-Za-z0-9_.][A-Za-z0-9_.+\-]*)|(?P<mark>[{}<>\[\]:,;\-])"""
)
# A name, a colon, a value and a separator are four.
MAX_TOKENS: Final = 4 * MAX_NODES

_CLOSING: Final = {"{": "}", "<": ">", "[": "]"}


def read_text_format(text: str) -> Fields:
    """The tree of a whole file. Raises MalformedText."""
    scanner = _Scanner(text)
    entries = scanner.entries("", 0)
    return Fields(scanner.lines.place(0, len(text)), entries)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines = Lines(text)
        self._tokens: list[re.Match[str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._failure(at, f"unexpected character {text[at]!r}")
            at = found.end()
            if found["skip"] is None:
                self._tokens.append(found)
                if len(self._tokens) > MAX_TOKENS:
                    raise too_many()
        self._end = len(text)
        self._next = 0

    def entries(self, closing: str, depth: int) -> list[Entry]:
        """Fields up to the mark that closes the message; "" is the end of the text."""
        entries: list[Entry] = []
        while True:
            mark = self._peek()
            if mark == closing:
                self._next += 1
                return entries
            key = self._scalar()
            if key.quoted or not (key.text[0].isalpha() or key.text[0] == "_"):
                raise MalformedText("expected a field name", key.place.line, key.place.column)
            self._skip(":")
            entries.append(Entry(key, self._value(depth + 1)))
            self._skip(",", ";")

    def _value(self, depth: int) -> Node:
        mark = self._peek()
        if mark not in _CLOSING:
            return self._scalar()
        opening = self._tokens[self._next]
        place = self.lines.place(opening.start(), opening.end())
        if depth > MAX_DEPTH:
            raise too_deep(place)
        self._next += 1
        if mark != "[":
            return Fields(place, self.entries(_CLOSING[mark], depth))
        items: list[Node] = []
        while self._peek() != "]":
            items.append(self._value(depth + 1))
            self._skip(",")
        self._next += 1
        return Listing(place, items)

    def _scalar(self) -> Scalar:
        """A word, a number with its sign, or the strings that stand side by side."""
        if self._next >= len(self._tokens):
            raise self._failure(self._end, "unexpected end of the text")
        first = last = self._tokens[self._next]
        self._next += 1
        if first["string"] is None:
            if first[0] == "-" and self._peek() not in {"", "-"}:
                last = self._tokens[self._next]
                self._next += 1
            elif first["mark"] is not None:
                raise self._failure(first.start(), f"unexpected '{first[0]}'")
            text = first[0] if last is first else first[0] + last[0]
            return Scalar(self.lines.place(first.start(), last.end()), text)
        parts = [_unquoted(first[0])]
        while self._next < len(self._tokens) and self._tokens[self._next]["string"] is not None:
            last = self._tokens[self._next]
            parts.append(_unquoted(last[0]))
            self._next += 1
        return Scalar(self.lines.place(first.start(), last.end()), "".join(parts), quoted=True)

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _skip(self, *marks: str) -> None:
        if self._peek() in marks:
            self._next += 1

    def _failure(self, at: int, reason: str) -> MalformedText:
        place = self.lines.place(at, at)
        return MalformedText(reason, place.line, place.column)


def _unquoted(literal: str) -> str:
    inside = literal[1:-1]
    if "\\" not in inside:
        return inside
    # Close enough to protobuf's escapes for what this tree is for: names in paths.
    return re.sub(r"\\(.)", r"\1", inside)
