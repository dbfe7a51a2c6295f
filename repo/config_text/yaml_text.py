"""YAML as a tree with places.

PyYAML tells what stands in the text, event by event, so that nothing recurses and no object is ever
made from a tag. Which words are numbers is left to the schema: a string field takes `no` and `1.0`
as they are written. Aliases count as what they stand for, so that a few lines cannot be a million.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from repo.config_json import Json
from repo.config_text.nodes import (
    MAX_DEPTH,
    MAX_NODES,
    Entry,
    Fields,
    Listing,
    MalformedText,
    Node,
    Place,
    Scalar,
    too_deep,
    too_many,
)

# Without PyYAML's C library a MiB takes a minute. The largest real configurations stay far below.
MAX_YAML_CHARACTERS: Final = 1024 * 1024

# Folding long strings over lines is one more way to write them, and nobody asked for it.
_ONE_LINE: Final = 1_000_000

_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff]")


def read_yaml(text: str) -> Fields:
    """The tree of a YAML mapping. Raises MalformedText."""
    import yaml  # by most servers never needed

    if len(text) > MAX_YAML_CHARACTERS:
        raise MalformedText(f"text exceeds the maximum of {MAX_YAML_CHARACTERS} characters")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        reason = error.problem or "the text is no YAML"
        if mark is None:
            raise MalformedText(reason) from error
        raise MalformedText(reason, mark.line + 1, mark.column + 1) from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise MalformedText(str(error).splitlines()[0]) from error
    if not isinstance(builder.root, Fields):
        raise MalformedText("the text is no YAML mapping", 1, 1)
    return builder.root


class _Builder:
    """Makes the tree; an anchored node is counted as often as it is referred to."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Fields | Listing] = []
        self._keys: list[Scalar | None] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}  # node, nodes in it, levels below it
        self._pending: list[tuple[str, int]] = []  # anchor and count so far of each open node
        self._count = 0
        self._documents = 0
        self._heights: list[int] = []

    def take(self, event: Any) -> None:
        match type(event).__name__:
            case "DocumentStartEvent":
                self._documents += 1
                if self._documents > 1:
                    raise MalformedText("a second document", *_start(event))
            case "ScalarEvent":
                self._check_tag(event)
                word = Scalar(_place(event), event.value, quoted=bool(event.style))
                self._add(word, 1, 0)
                self._anchor(event.anchor, word, 1, 0)
            case "MappingStartEvent" | "SequenceStartEvent":
                self._check_tag(event)
                is_mapping = type(event).__name__ == "MappingStartEvent"
                self._begin(Fields(_place(event)) if is_mapping else Listing(_place(event)), event)
            case "MappingEndEvent" | "SequenceEndEvent":
                self._end()
            case "AliasEvent":
                found = self._anchors.get(event.anchor)
                if found is None:
                    text = f"alias '{event.anchor}' of nothing that is complete"
                    raise MalformedText(text, *_start(event))
                node, count, height = found
                if len(self._open) + height > MAX_DEPTH:
                    raise too_deep(_place(event))
                self._add(node, count, height)
            case _:
                pass  # the ends of the stream and of the document

    def _begin(self, node: Fields | Listing, event: Any) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise too_deep(node.place)
        self._add(node, 1, 0)
        self._open.append(node)
        self._keys.append(None)
        self._heights.append(0)
        self._pending.append((event.anchor or "", self._count))

    def _end(self) -> None:
        node = self._open.pop()
        key = self._keys.pop()
        assert key is None, "the parser pairs names and values"
        anchor, before = self._pending.pop()
        height = self._heights.pop() + 1
        if self._heights:
            self._heights[-1] = max(self._heights[-1], height)
        self._anchor(anchor, node, self._count - before + 1, height)

    def _anchor(self, name: str | None, node: Node, count: int, height: int) -> None:
        if name:
            self._anchors[name] = (node, count, height)

    def _add(self, node: Node, count: int, height: int) -> None:
        self._count += count
        if self._count > MAX_NODES:
            raise too_many()
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        self._heights[-1] = max(self._heights[-1], height)
        if isinstance(parent, Listing):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is not None:
            parent.entries.append(Entry(key, node))
            self._keys[-1] = None
        elif isinstance(node, Scalar):
            self._keys[-1] = node
        else:
            raise MalformedText("a name must be a word", node.place.line, node.place.column)

    @staticmethod
    def _check_tag(event: Any) -> None:
        if event.tag is not None:
            raise MalformedText(f"tag '{event.tag}' means nothing here", *_start(event))


def _start(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _place(event: Any) -> Place:
    start, end = event.start_mark, event.end_mark
    return Place(start.line + 1, start.column + 1, start.index, end.index)


def write_yaml(fields: Mapping[str, Json]) -> str:
    """The text of a mapping, its entries in their order."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
        pass

    def text(dumper: Any, value: str) -> Any:
        # PyYAML writes some line breaks into simple strings as they are, and reads them as others.
        style = '"' if _BREAKS.search(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    dumped: str = yaml.dump(
        dict(fields), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=_ONE_LINE
    )
    return dumped
