"""Objects that have been downloaded, kept by their checksums.

Owns one directory of files named after what they hold: an object's key, tag and size. An object is
downloaded once however many models, versions and threads ask for it, and again only when its tag
has changed. A copy is read through its SHA-256 as it is handed out; one that has been damaged is
downloaded anew. Copies are never linked: a model may write into its own directory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading  # noqa: TID251  # downloads run beside each other
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from repo.cloud.listing import RemoteFile

DOWNLOADS_AT_ONCE: Final = 8  # enough to fill a line with small files
CHUNK_BYTES: Final = 1 << 20

Download = Callable[[RemoteFile, Path], None]


class DownloadCache:
    """At most `limit_bytes` in `directory`, the longest unused leave first."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()

    def fill(self, target: Path, files: Mapping[str, RemoteFile], download: Download) -> None:
        """Put `files` (path below `target` → object) in place. Raises OSError.

        `download` brings an object to a path; it is called from several threads.
        """
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE, "download") as pool:
            placed = [
                pool.submit(self._place, target / path, file, download)
                for path, file in files.items()
            ]
            for each in placed:
                each.result()
        self._shrink()

    def _place(self, target: Path, file: RemoteFile, download: Download) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        identity = f"{file.key}\0{file.tag}\0{file.size}"
        name = hashlib.sha256(identity.encode()).hexdigest()
        entry = self._directory / name[:2] / name
        with self._alone(name):
            if not _copy_intact(entry, target):
                self._download(file, entry, download)
                if not _copy_intact(entry, target):
                    raise OSError(f"the copy of '{file.key}' in '{self._directory}' is damaged")

    def _download(self, file: RemoteFile, entry: Path, download: Download) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=entry.parent, suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            download(file, part)
            size, sha256, md5 = _digests(part)
            if size != file.size or (file.md5 and md5 != file.md5):
                raise OSError(
                    f"'{file.key}' arrived with {size} bytes and MD5 {md5}, expected {file.size} "
                    f"bytes and MD5 {file.md5 or 'unknown'}; it may have been replaced meanwhile"
                )
            _checksum_path(entry).write_text(sha256)
            part.replace(entry)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One thread per entry; locks live while someone wants them."""
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(name)
                if users > 1:
                    self._locks[name] = (lock, users - 1)

    def _shrink(self) -> None:
        entries = []
        for path in self._directory.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process shrinks the same directory
                continue
            if not path.suffix:
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            _checksum_path(path).unlink(missing_ok=True)
            total -= size


def _checksum_path(entry: Path) -> Path:
    return entry.with_suffix(".sha256")


def _copy_intact(entry: Path, target: Path) -> bool:
    """Copy an entry; False if there is none or it is not what was downloaded."""
    try:
        expected = _checksum_path(entry).read_text()
        digest = hashlib.sha256()
        with entry.open("rb") as source, target.open("wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
    except FileNotFoundError:
        return False
    if digest.hexdigest() != expected:
        return False
    os.utime(entry)  # it was used just now
    return True


def _digests(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5 of a file, in hexadecimal."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            sha256.update(chunk)
            md5.update(chunk)
    return size, sha256.hexdigest(), md5.hexdigest()
