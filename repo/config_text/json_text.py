"""JSON as a tree with places.

Python's parser decides what is JSON; this one reads the same text again and keeps the places.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

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

_TOKEN: Final = re.compile(r"""[{}\[\]:,]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}\[\]:,"]+""")


def read_json(text: str) -> Fields:
    """The tree of a JSON object. Raises MalformedText."""
    lines = Lines(text)
    _check_size(text, lines)  # first, for Python's own parser recurses
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise MalformedText(error.msg, error.lineno, error.colno) from error
    except ValueError as error:
        raise MalformedText(str(error)) from error
    open_nodes: list[Fields | Listing] = []
    key: Scalar | None = None
    root: Node | None = None
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in "}]:,":
            if mark in "}]":
                open_nodes.pop()
            continue
        place = lines.place(token.start(), token.end())
        node: Node
        if mark == "{":
            node = Fields(place)
        elif mark == "[":
            node = Listing(place)
        else:
            quoted = mark.startswith('"')
            node = Scalar(place, json.loads(mark) if quoted else mark, quoted)
        parent = open_nodes[-1] if open_nodes else None
        if isinstance(parent, Fields):
            if key is None:
                assert isinstance(node, Scalar), "it is JSON, so names are strings"
                key = node
                continue
            parent.entries.append(Entry(key, node))
            key = None
        elif isinstance(parent, Listing):
            parent.items.append(node)
        else:
            root = node
        if not isinstance(node, Scalar):
            open_nodes.append(node)
    if not isinstance(root, Fields):
        raise MalformedText("the text is no JSON object", 1, 1)
    return root


def _check_size(text: str, lines: Lines) -> None:
    depth = values = 0
    for token in _TOKEN.finditer(text):
        if token[0] in {"{", "["}:
            depth += 1
            if depth > MAX_DEPTH:
                raise too_deep(lines.place(token.start(), token.end()))
        elif token[0] in {"}", "]"}:
            depth -= 1
        elif token[0] == ",":
            values += 1
            if values > MAX_NODES:
                raise too_many()


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON; write it as a string")
