"""What object storage holds at one moment, seen as directories; and when that has changed.

Objects have no directories: those are read out of their keys, and out of the empty objects whose
key ends in a slash, by which tools keep an empty directory. A key that could leave its directory
once it is a path marks its model as unreadable.
"""

from __future__ import annotations

import hashlib
import threading  # noqa: TID251  # storages are read from worker threads
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_NOT_A_NAME: Final = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object. `tag` changes with its content; `md5` is its hash if the service tells it."""

    key: str  # with the bucket
    size: int
    tag: str
    changed_ns: int
    md5: str = ""


@dataclass(slots=True)
class Listing:
    """Objects below one root by their relative paths, and the directories that these make."""

    files: dict[str, RemoteFile] = field(default_factory=dict)
    directories: dict[str, dict[str, bool]] = field(default_factory=lambda: {"": {}})
    hostile: dict[str, str] = field(default_factory=dict)  # first path element → the key

    def add(self, path: str, file: RemoteFile) -> None:
        """Enter an object by its path below the root, "" for the root's own marker."""
        is_marker = path.endswith("/") or not path
        parts = path.rstrip("/").split("/") if path.rstrip("/") else []
        if any(part in _NOT_A_NAME or "\\" in part or "\0" in part for part in parts):
            self.hostile.setdefault(parts[0], file.key)
            return
        parent = ""
        for depth, part in enumerate(parts):
            is_directory = is_marker or depth < len(parts) - 1
            children = self.directories.setdefault(parent, {})
            children[part] = children.get(part, False) or is_directory
            parent = f"{parent}/{part}" if parent else part
            if is_directory:
                self.directories.setdefault(parent, {})
        if parts and not is_marker:
            self.files[path] = file

    def below(self, path: str) -> Mapping[str, RemoteFile]:
        """The objects at and below `path`, by their paths below the root."""
        start = f"{path}/" if path else ""
        return {
            name: file
            for name, file in self.files.items()
            if name == path or name.startswith(start)
        }


class ChangeClock:
    """Turns what is listed into instants that grow whenever something has changed.

    The services date objects to the second, and date no directory, so that an object written twice
    within a second, or taken away, would pass unseen. Whatever looks different without being newer
    counts as the newest of all. Used from several threads.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[bytes, int]] = {}
        self._newest = 0
        self._lock = threading.Lock()

    def changed_ns(self, subject: str, looks: Iterable[str], dated_ns: int) -> int:
        """When `subject` changed last, in ns: as it is dated, unless it changed without a date."""
        digest = hashlib.sha256("\n".join(looks).encode()).digest()
        with self._lock:
            known = self._seen.get(subject)
            if known is not None and known[0] == digest:
                return known[1]
            if known is not None and dated_ns <= known[1]:
                dated_ns = self._newest + 1
            self._newest = max(self._newest, dated_ns)
            self._seen[subject] = (digest, dated_ns)
            return dated_ns
