"""A model repository in object storage, through fsspec.

Owns the file system, the last listing and the local copies. Listing the root looks at the whole
repository by one request per thousand objects; every other question about names and times is
answered from that. A model is copied as it is at that moment. All of it blocks, and every failure
of a service comes out as OSError.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import threading  # noqa: TID251  # storages are read from worker threads
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.status import internal
from repo.cloud.credentials import CREDENTIAL_FILE, Arguments, arguments
from repo.cloud.download_cache import DownloadCache
from repo.cloud.listing import ChangeClock, Listing, RemoteFile
from repo.cloud.locations import CloudLocation, parse_location
from repo.storage import Checkout, Entry

T = TypeVar("T")

FileSystem = Any  # fsspec has no types
OpenFileSystem = Callable[[str, Arguments], FileSystem]

# fsspec's name of each protocol, and where local copies go if the environment says so.
_PROTOCOL: Final = {"s3": "s3", "gs": "gcs", "as": "abfs"}
_NO_CREDENTIALS: Final = "NoCredentialsError"  # botocore's
_COPIES: Final = {
    "s3": "TRITON_AWS_MOUNT_DIRECTORY",
    "gs": "TRITON_GCS_MOUNT_DIRECTORY",
    "as": "TRITON_AZURE_MOUNT_DIRECTORY",
}


def open_file_system(protocol: str, given: Arguments) -> FileSystem:
    """The file system of a service. Raises ImportError where its package is missing."""
    # Zonal buckets, whose gRPC calls no emulator answers, cost a minute before each first look.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **given)


class CloudStorage:
    """One repository at a location of the three schemes."""

    def __init__(
        self,
        location: str,
        cache: DownloadCache,
        *,
        environment: Mapping[str, str] = os.environ,
        open_with: OpenFileSystem = open_file_system,
    ) -> None:
        """Raises ServerError where the location is malformed or its package is not installed."""
        self._place: CloudLocation = parse_location(location)
        self._cache = cache
        self._environment = environment
        self._open_with = open_with
        self._clock = ChangeClock()
        self._listing: Listing | None = None
        self._opening = threading.Lock()
        self._file_system = self._open()

    @property
    def location(self) -> str:
        return self._place.text

    @property
    def is_local(self) -> bool:
        return False

    def entries(self, path: str = "") -> list[Entry]:
        listing = self._look() if not path else self._known()
        children = listing.directories.get(path)
        if children is None:
            raise FileNotFoundError(f"no such directory: '{self.full_path(path)}'")
        return [Entry(name, children[name]) for name in sorted(children)]

    def latest_change_ns(self, path: str, *, recursive: bool = True) -> int:
        listing = self._known()
        children = listing.directories.get(path)
        if children is not None and not recursive:
            return self._clock.changed_ns(f"{path}/", sorted(children), 0)
        files = listing.below(path)
        looks = (f"{name} {file.tag}" for name, file in sorted(files.items()))
        newest = max((file.changed_ns for file in files.values()), default=0)
        return self._clock.changed_ns(path, looks, newest)

    def exists(self, path: str) -> bool:
        listing = self._known()
        return path in listing.files or path in listing.directories

    def read_bytes(self, path: str) -> bytes:
        content: bytes = self._ask(lambda files: files.cat_file(f"{self._place.root}/{path}"))
        return content

    def full_path(self, path: str) -> str:
        return f"{self._place.text.rstrip('/')}/{path}".rstrip("/")

    def checkout(self, path: str) -> Checkout:
        listing = self._list(path)
        for key in listing.hostile.values():
            raise OSError(f"object '{key}' would leave the directory of its model")
        if not listing.files and len(listing.directories) == 1:
            raise FileNotFoundError(f"no such directory: '{self.full_path(path)}'")
        copies = self._environment.get(_COPIES[self._place.scheme]) or None
        if copies is not None:
            Path(copies).mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="troupe-model-", dir=copies))
        remove = partial(shutil.rmtree, root, ignore_errors=True)
        target = root / path.rpartition("/")[2]
        try:
            for directory in listing.directories:
                (target / directory).mkdir(parents=True, exist_ok=True)
            self._cache.fill(target, listing.files, self._download)
        except BaseException:
            remove()
            raise
        return Checkout(target, remove)

    def _download(self, file: RemoteFile, to: Path) -> None:
        self._ask(lambda files: files.get_file(file.key, str(to)))

    def _known(self) -> Listing:
        return self._look() if self._listing is None else self._listing

    def _look(self) -> Listing:
        self._listing = self._list("")
        return self._listing

    def _list(self, path: str) -> Listing:
        root = f"{self._place.root}/{path}" if path else self._place.root
        found = self._ask(lambda files: files.find(root, detail=True))
        listing = Listing()
        for name, details in found.items():
            is_directory = details.get("type") == "directory" and not name.endswith("/")
            listing.add(
                name.removeprefix(root).removeprefix("/") + ("/" if is_directory else ""),
                _remote_file(name, details),
            )
        return listing

    def _open(self, *, as_nobody: bool = False) -> FileSystem:
        given = arguments(self._place, self._environment)
        if as_nobody:
            given["anon"] = True
        try:
            return self._open_with(_PROTOCOL[self._place.scheme], given)
        except ImportError as error:
            raise internal(
                f"{self._place.scheme}:// file-system not supported. It needs the package "
                f"'{error.name}': pip install 'troupe[cloud]'"
            ) from None

    def _ask(self, question: Callable[[FileSystem], T]) -> T:
        """Ask the service; before it fails, once more: with what the credential file says now, or
        as nobody if there are no credentials at all, which a public bucket does not mind.

        The clients raise what their own makers thought of; here it all becomes OSError.
        """
        files = self._file_system
        try:
            return question(files)
        except FileNotFoundError:
            raise
        except Exception as error:
            nobody = type(error).__name__ == _NO_CREDENTIALS
            if not nobody and not self._environment.get(CREDENTIAL_FILE):
                raise _told(error, self._place) from error
        with self._opening:
            if files is self._file_system:
                self._file_system = self._open(as_nobody=nobody)
        try:
            return question(self._file_system)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _told(error, self._place) from error


def _told(error: Exception, place: CloudLocation) -> OSError:
    return OSError(f"cannot read '{place.text}': {error or type(error).__name__}")


def _remote_file(name: str, details: Mapping[str, Any]) -> RemoteFile:
    """An object by the details of any of the three services."""
    tag = str(details.get("ETag") or details.get("etag") or details.get("generation") or "")
    return RemoteFile(
        key=name,
        size=int(details.get("size") or 0),
        tag=tag.strip('"'),
        changed_ns=_changed_ns(details),
        md5=_md5(details),
    )


def _changed_ns(details: Mapping[str, Any]) -> int:
    for field in ("LastModified", "last_modified", "mtime", "updated"):
        match details.get(field):
            case datetime() as instant:
                return int(instant.timestamp() * 1_000_000) * 1000
            case str(text) if text:
                return int(datetime.fromisoformat(text).timestamp() * 1_000_000) * 1000
    return 0


def _md5(details: Mapping[str, Any]) -> str:
    """The hash in hexadecimal; "" where none is told. S3's tag need not be one."""
    settings = details.get("content_settings") or {}
    given = details.get("md5Hash") or settings.get("content_md5")
    if isinstance(given, str):
        return base64.b64decode(given).hex()
    if given:
        return bytes(given).hex()
    return ""
