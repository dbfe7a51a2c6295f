"""Where a model repository lives: the port that every kind of storage implements, and the local
file system as its first implementation.

Owns the spelling of repository locations and the reading of directory trees. It never interprets
what it reads: model names, versions and configurations are the business of `scan`, `versions` and
`pbtxt`. Paths inside a repository are relative, with `/` between their parts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from protocol.status import invalid_arg

if TYPE_CHECKING:  # a server of local repositories never loads it
    from repo.cloud.download_cache import DownloadCache

# Triton reads the same three schemes; everything else is a path.
CLOUD_SCHEMES: Final = ("gs://", "s3://", "as://")
# Room for a few large models; what is in use is copied out, so that less is never wrong.
DEFAULT_DOWNLOAD_BYTES: Final = 20 * 1024**3


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    name: str
    is_directory: bool


class Checkout:
    """A model directory on the local file system, held while anything made from it lives.

    `retain` it once per user and `release` it as often: with the last one, or when nobody refers
    to it any longer, `delete` is called, once. A directory that is local already has none.
    """

    def __init__(self, directory: Path, delete: Callable[[], object] | None = None) -> None:
        self.directory = directory
        self._delete = None if delete is None else weakref.finalize(self, delete)
        self._users = 0

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if self._users <= 0 and self._delete is not None:
            self._delete()


class Storage(Protocol):
    """One repository: list it, look when it changed, read from it, and make a model local.

    All methods block; OSError says that the storage cannot be read.
    """

    @property
    def location(self) -> str:
        """The repository as the operator named it."""

    @property
    def is_local(self) -> bool:
        """Whether checkouts are the repository's own files, and no copies."""

    def entries(self, path: str = "") -> list[Entry]:
        """What stands directly in the directory `path`, sorted by name."""

    def latest_change_ns(self, path: str, *, recursive: bool = True) -> int:
        """The newest change anywhere in the tree at `path` (or of `path` alone), in ns."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory stands at `path`."""

    def read_bytes(self, path: str) -> bytes:
        """The whole file at `path`."""

    def full_path(self, path: str) -> str:
        """`path` as messages print it."""

    def checkout(self, path: str) -> Checkout:
        """The directory `path` as local files, in a directory of the same name."""


class LocalStorage:
    """A repository on the local file system."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._root = Path(location)

    @property
    def location(self) -> str:
        return self._location

    @property
    def is_local(self) -> bool:
        return True

    def entries(self, path: str = "") -> list[Entry]:
        with os.scandir(self._root / path) as found:
            return sorted(
                (Entry(one.name, one.is_dir()) for one in found), key=lambda entry: entry.name
            )

    def latest_change_ns(self, path: str, *, recursive: bool = True) -> int:
        top = self._root / path
        latest = _change_ns(top.stat())
        return max(latest, _latest_below(top)) if recursive and top.is_dir() else latest

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def read_bytes(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def full_path(self, path: str) -> str:
        return str(self._root / path)

    def checkout(self, path: str) -> Checkout:
        return Checkout(self._root / path)


class Downloads:
    """Where what comes out of object storage is kept, for all repositories of a server.

    Without a directory of its own it is a temporary one, and gone with the server.
    """

    def __init__(self, directory: str = "", limit_bytes: int = DEFAULT_DOWNLOAD_BYTES) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes

    @cached_property
    def cache(self) -> DownloadCache:
        """Made when the first repository in object storage is opened."""
        from repo.cloud.download_cache import DownloadCache

        if self._directory:
            return DownloadCache(Path(self._directory), self._limit_bytes)
        directory = tempfile.mkdtemp(prefix="troupe-downloads-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        return DownloadCache(Path(directory), self._limit_bytes)


def open_storage(location: str, downloads: Downloads) -> Storage:
    """The storage at `location`.

    Raises ServerError: INVALID_ARG for what is no directory and for a malformed location, INTERNAL
    for a cloud scheme whose package is not installed.
    """
    if location.startswith(CLOUD_SCHEMES):
        from repo.cloud.storage import CloudStorage

        return CloudStorage(location, downloads.cache)
    if not Path(location).is_dir():
        raise invalid_arg("repository path is not a valid directory")
    return LocalStorage(location)


def tree_bytes(directory: Path) -> int:
    """How much the files below a local directory hold; 0 if it cannot be read."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += tree_bytes(Path(entry.path))
                else:
                    total += entry.stat().st_size
    except OSError:
        return total
    return total


def _change_ns(status: os.stat_result) -> int:
    # A file copied in with its old mtime still has a new ctime.
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _latest_below(directory: Path) -> int:
    """The newest change below a directory; a link counts as what it points to, not its tree."""
    latest = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            latest = max(latest, _change_ns(entry.stat()))
            if entry.is_dir(follow_symlinks=False):
                latest = max(latest, _latest_below(Path(entry.path)))
    return latest
