"""What the words of a configuration's text mean: fields by their paths, and unknown words.

Owns the map from a path such as `input[1].dims[0]` to its place in the text, and the findings about
words that the schema does not know. The parsers of protobuf judge in the end; what is found here
says where and why they refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from google.protobuf.descriptor import FieldDescriptor

from protocol.proto import messages
from repo.config_json import AnyDescriptor, AnyField, same_enum_name
from repo.config_text.nodes import Entry, Fields, Listing, Node, Place, Scalar
from repo.pbtxt import MAX_REASON_LENGTH

Syntax = Literal["pbtxt", "json", "yaml"]

# Below this a name is more likely another word than a slip of the finger.
_SIMILAR: Final = 0.72

# Nobody misspells a name at such length, and comparing takes the square of it.
_LONGEST_WORD: Final = 100

INTEGER: Final = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0o[0-7]+|[0-9]+)")
BOOLEANS: Final[dict[Syntax, frozenset[str]]] = {
    "pbtxt": frozenset({"true", "false", "t", "f", "True", "False", "1", "0"}),
    "json": frozenset({"true", "false"}),
    "yaml": frozenset({"true", "false", "True", "False", "TRUE", "FALSE"}),
}
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})

_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A word that means nothing where it stands; `instead` is what was probably meant."""

    place: Place
    text: str
    path: str
    instead: str = ""


@dataclass(slots=True)
class Survey:
    """Where each field is written, and what is not understood."""

    places: dict[str, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def survey(root: Fields, syntax: Syntax) -> Survey:
    """Walk the tree of a model's configuration."""
    made = _Surveyor(syntax)
    made.message(root, messages.ModelConfig.DESCRIPTOR, "")
    return made.survey


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that a word was probably meant to be; "" if none is near."""
    import difflib  # for mistakes only

    if len(word) > _LONGEST_WORD:
        return ""
    names = list(known)
    folded = {name.upper().replace("-", "_"): name for name in names}
    wanted = word.upper().replace("-", "_")
    if wanted in folded:
        return folded[wanted]
    endings = [name for name in names if name.upper().endswith(f"_{wanted}")]
    if len(endings) == 1:
        return endings[0]
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=_SIMILAR)
    return folded[close[0]] if close else ""


class _Surveyor:
    def __init__(self, syntax: Syntax) -> None:
        self._syntax = syntax
        self.survey = Survey()

    def message(self, node: Fields, descriptor: AnyDescriptor, path: str) -> None:
        names = field_names(descriptor, self._syntax)
        counts: dict[str, int] = {}
        chosen: dict[str, str] = {}
        for entry in node.entries:
            one = names.get(entry.key.text) or self._guess(entry.key, descriptor, path)
            if one is None:
                continue
            here = f"{path}.{one.name}" if path else str(one.name)
            self._check_repetition(entry, one, counts, chosen, here)
            self.survey.places.setdefault(here, _shown(entry))
            if one.message_type is not None and one.message_type.GetOptions().map_entry:
                self._map(entry, one, here)
            elif one.is_repeated:
                items = entry.value.items if isinstance(entry.value, Listing) else [entry.value]
                for item in items:
                    at = f"{here}[{counts.get(one.name, 0)}]"
                    counts[one.name] = counts.get(one.name, 0) + 1
                    # Of a list of one, the name is the better place to look at.
                    is_own = isinstance(entry.value, Listing) or isinstance(item, Scalar)
                    self.survey.places[at] = item.place if is_own else entry.key.place
                    self._value(item, one, at)
            else:
                self._value(entry.value, one, here)

    def _guess(self, key: Scalar, descriptor: AnyDescriptor, path: str) -> AnyField | None:
        """The field that an unknown name was meant to be, so that what it holds is looked at."""
        text = f'Message type "{descriptor.full_name}" has no field named "{key.text}"'
        near = nearest(key.text, descriptor.fields_by_name)
        self._find(key.place, text, path, near)
        return descriptor.fields_by_name[near] if near else None

    def _check_repetition(
        self,
        entry: Entry,
        one: AnyField,
        counts: dict[str, int],
        chosen: dict[str, str],
        path: str,
    ) -> None:
        oneof = one.containing_oneof
        if oneof is not None:
            other = chosen.setdefault(oneof.name, one.name)
            if other != one.name:
                self._find(
                    entry.key.place,
                    f'Field "{one.name}" is specified along with field "{other}", another member '
                    f'of oneof "{oneof.name}"',
                    path,
                )
        if self._syntax == "pbtxt" and one.is_repeated:
            return
        if not one.is_repeated:
            counts[one.name] = counts.get(one.name, 0) + 1
        if counts.get(one.name, 0) > 1:
            self._find(entry.key.place, f'"{one.name}" is given twice', path)

    def _map(self, entry: Entry, one: AnyField, path: str) -> None:
        assert one.message_type is not None, "a map is made of entry messages"
        value_field = one.message_type.fields_by_name["value"]
        for key, value in self._map_entries(entry.value):
            here = f'{path}["{key.text}"]'
            self.survey.places[here] = key.place
            if value is not None:
                self._value(value, value_field, here)

    def _map_entries(self, node: Node) -> Iterator[tuple[Scalar, Node | None]]:
        if self._syntax != "pbtxt":
            if isinstance(node, Fields):
                yield from ((entry.key, entry.value) for entry in node.entries)
            return
        for item in node.items if isinstance(node, Listing) else [node]:
            if isinstance(item, Fields):
                parts = {entry.key.text: entry.value for entry in item.entries}
                key = parts.get("key")
                if isinstance(key, Scalar):
                    yield key, parts.get("value")

    def _value(self, node: Node, one: AnyField, path: str) -> None:
        if one.message_type is not None:
            if isinstance(node, Fields):
                self.message(node, one.message_type, path)
            elif not self._is_null(node):
                self._find(node.place, f'"{one.name}" is a message: expected "{{"', path)
        elif not isinstance(node, Scalar):
            what = "a list" if isinstance(node, Listing) else "a message"
            self._find(node.place, f'"{one.name}" is no {what.removeprefix("a ")}', path)
        elif not self._is_null(node):
            self._scalar(node, one, path)

    def _scalar(self, node: Scalar, one: AnyField, path: str) -> None:
        text, syntax = node.text, self._syntax
        if one.enum_type is not None:
            names = list(one.enum_type.values_by_name)
            known = text in names if syntax == "pbtxt" else _spelled(text, names) is not None
            if not (known and (syntax != "pbtxt" or not node.quoted)) and not _is_integer(node):
                self._find(
                    node.place,
                    f'Enum type "{one.enum_type.full_name}" has no value named {text}',
                    path,
                    nearest(text, names),
                )
        elif one.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if node.quoted or text not in BOOLEANS[syntax]:
                meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}
                near = meant.get(text.lower(), nearest(text, ("true", "false")))
                self._find(node.place, f'"{one.name}" is a bool, not {text}', path, near)
        elif one.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if syntax != "yaml" and not node.quoted:
                quoted = json.dumps(text, ensure_ascii=False)
                self._find(node.place, f'"{one.name}" is a string: quote it', path, quoted)
        elif one.cpp_type in _RANGES:
            low, high = _RANGES[one.cpp_type]
            if not _is_integer(node, quoted=syntax != "pbtxt"):
                self._find(node.place, f'"{one.name}" is an integer, not {text}', path)
            elif not low <= integer_of(text) <= high:
                self._find(node.place, f'"{one.name}" must be in [{low}, {high}], not {text}', path)

    def _is_null(self, node: Node) -> bool:
        if self._syntax == "pbtxt" or not isinstance(node, Scalar) or node.quoted:
            return False
        return node.text in NULLS if self._syntax == "yaml" else node.text == "null"

    def _find(self, place: Place, text: str, path: str, instead: str = "") -> None:
        self.survey.findings.append(Finding(place, text[:MAX_REASON_LENGTH], path, instead))


def field_names(descriptor: AnyDescriptor, syntax: Syntax) -> dict[str, AnyField]:
    """The fields of a message by every name that a form has for them."""
    names: dict[str, AnyField] = {one.name: one for one in descriptor.fields}
    if syntax != "pbtxt":
        names |= {str(one.json_name): one for one in descriptor.fields}
    return names


def _shown(entry: Entry) -> Place:
    """Of a field whose value is a word, the word is what people look for."""
    return entry.value.place if isinstance(entry.value, Scalar) else entry.key.place


def _spelled(text: str, names: Iterable[str]) -> str | None:
    return next((name for name in names if same_enum_name(name, text)), None)


def _is_integer(node: Scalar, *, quoted: bool = False) -> bool:
    return (quoted or not node.quoted) and INTEGER.fullmatch(
        node.text.replace("- ", "-")
    ) is not None


def integer_of(text: str) -> int:
    """The value of what `INTEGER` matches."""
    digits = text.lstrip("+-")
    base = 16 if digits[:2] in {"0x", "0X"} else 8 if digits[:2] == "0o" else 10
    # Longer ones are out of any range, and slow to read.
    value = int(digits[:40], base)
    return -value if text.startswith("-") else value
