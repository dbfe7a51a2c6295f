"""A repository in object storage, against a stand-in for the file systems of fsspec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from protocol.status import ServerError, StatusCode
from repo.cloud.download_cache import DownloadCache
from repo.cloud.storage import CloudStorage
from repo.scan import ModelIdentity, Repository, diff, scan
from repo.storage import Entry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_NS = 1767268800 * 10**9


class NoCredentialsError(Exception):
    """Raised by botocore, which is not installed everywhere."""


@dataclass
class Bucket:
    """Objects by key, and who may read them."""

    objects: dict[str, bytes] = field(default_factory=dict)
    key: str | None = None  # the only one that opens it
    is_public: bool = False
    opened: list[Mapping[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, protocol: str, given: Mapping[str, Any]) -> BucketFiles:
        assert protocol == "s3"
        self.opened.append(given)
        return BucketFiles(self, given)


@dataclass
class BucketFiles:
    """What the storage uses of fsspec's interface."""

    bucket: Bucket
    given: Mapping[str, Any]

    def _enter(self, what: str) -> None:
        self.bucket.asked.append(what)
        if self.bucket.is_public:
            if not self.given.get("anon"):
                raise NoCredentialsError("Unable to locate credentials")
        elif self.bucket.key is not None and self.given.get("key") != self.bucket.key:
            raise PermissionError("Access Denied")

    def find(self, root: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        assert detail
        self._enter(f"find {root}")
        return {
            key: {
                "size": len(content),
                "ETag": f'"{hash(content)}"',
                "LastModified": NOON,
                "type": "file",
            }
            for key, content in self.bucket.objects.items()
            if key.startswith(f"{root}/")
        }

    def cat_file(self, key: str) -> bytes:
        self._enter(f"cat {key}")
        if key not in self.bucket.objects:
            raise FileNotFoundError(key)
        return self.bucket.objects[key]

    def get_file(self, key: str, to: str) -> None:
        self._enter(f"get {key}")
        Path(to).write_bytes(self.bucket.objects[key])


CONFIG = b'backend: "identity"'


def _bucket(**settings: Any) -> Bucket:
    objects = {
        "models/repo/m/config.pbtxt": CONFIG,
        "models/repo/m/1/model.bin": b"weights",
        "models/repo/ensemble/config.pbtxt": b"",
        "models/repo/ensemble/1/": b"",
        "models/repository/other/config.pbtxt": b"",
    }
    return Bucket(objects, **settings)


def _storage(tmp_path: Path, bucket: Bucket, **environment: str) -> CloudStorage:
    return CloudStorage(
        "s3://models/repo/",
        DownloadCache(tmp_path / "cache", 1 << 20),
        environment={"TRITON_AWS_MOUNT_DIRECTORY": str(tmp_path / "copies"), **environment},
        open_with=bucket.open,
    )


def test_a_tree_is_seen_by_one_question(tmp_path: Path) -> None:
    bucket = _bucket()
    storage = _storage(tmp_path, bucket)

    assert storage.entries() == [Entry("ensemble", True), Entry("m", True)]
    assert storage.entries("m") == [Entry("1", True), Entry("config.pbtxt", False)]
    assert storage.entries("ensemble/1") == []
    assert storage.exists("m/1")
    assert storage.exists("m/config.pbtxt")
    assert not storage.exists("m/2")
    assert storage.latest_change_ns("m") == NOON_NS
    assert storage.latest_change_ns("m", recursive=False) == 0  # directories have no date
    assert bucket.asked == ["find models/repo"]
    assert storage.read_bytes("m/config.pbtxt") == CONFIG
    assert storage.full_path("m") == "s3://models/repo/m"
    assert not storage.is_local


@pytest.mark.parametrize("path", ["nothing", "m/config.pbtxt"])
def test_what_is_no_directory_has_no_entries(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        _storage(tmp_path, _bucket()).entries(path)


def test_a_checkout_is_a_copy_that_ends_with_its_users(tmp_path: Path) -> None:
    bucket = _bucket()
    checkout = _storage(tmp_path, bucket).checkout("m")
    checkout.retain()

    assert checkout.directory.name == "m"
    assert checkout.directory.is_relative_to(tmp_path / "copies")
    assert (checkout.directory / "1" / "model.bin").read_bytes() == b"weights"
    checkout.release()
    assert not list((tmp_path / "copies").iterdir())


def test_an_empty_version_directory_is_copied(tmp_path: Path) -> None:
    checkout = _storage(tmp_path, _bucket()).checkout("ensemble")

    assert (checkout.directory / "1").is_dir()


def test_a_model_that_is_not_there_cannot_be_checked_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="s3://models/repo/gone"):
        _storage(tmp_path, _bucket()).checkout("gone")

    assert not list((tmp_path / "copies").glob("*"))


def test_a_key_that_would_leave_its_model_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    bucket = _bucket()
    bucket.objects["models/repo/m/../../../evil"] = b"evil"
    storage = _storage(tmp_path, bucket)

    with pytest.raises(OSError, match="would leave the directory of its model"):
        storage.checkout("m")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert storage.checkout("ensemble").directory.is_dir()


def test_a_change_is_noticed_even_within_the_same_second(tmp_path: Path) -> None:
    bucket = _bucket()
    repositories = [Repository(_storage(tmp_path, bucket))]
    listings = [scan(repositories), scan(repositories)]
    bucket.objects["models/repo/m/config.pbtxt"] = b'backend: "repeat"'
    listings.append(scan(repositories))
    del bucket.objects["models/repo/m/1/model.bin"]
    listings.append(scan(repositories))

    modified = [diff(old, new).modified for old, new in pairwise(listings)]
    m = ModelIdentity("", "m")
    assert modified == [(), (m,), (m,)]


def test_credentials_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    bucket = _bucket(key="old")
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({"s3": {"": {"key_id": "old", "secret_key": "s"}}}))
    storage = _storage(tmp_path, bucket, TRITON_CLOUD_CREDENTIAL_PATH=str(file))
    assert storage.entries()
    bucket.key = "new"

    with pytest.raises(OSError, match="cannot read 's3://models/repo/': Access Denied"):
        storage.entries()
    file.write_text(json.dumps({"s3": {"": {"key_id": "new", "secret_key": "s"}}}))

    assert storage.entries()
    assert [given.get("key") for given in bucket.opened] == ["old", "old", "new"]


def test_without_credentials_a_public_bucket_is_read_as_nobody(tmp_path: Path) -> None:
    bucket = _bucket(is_public=True)

    assert _storage(tmp_path, bucket).entries()
    assert [given.get("anon") for given in bucket.opened] == [None, True]


def test_wrong_credentials_of_the_environment_are_not_tried_twice(tmp_path: Path) -> None:
    bucket = _bucket(key="right")
    storage = _storage(tmp_path, bucket)

    with pytest.raises(OSError, match="Access Denied"):
        storage.entries()

    assert len(bucket.asked) == 1


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    def without_package(_protocol: str, _given: Mapping[str, Any]) -> object:
        raise ImportError("No module named 's3fs'", name="s3fs")

    with pytest.raises(ServerError) as failure:
        CloudStorage(
            "s3://models", DownloadCache(tmp_path, 1), environment={}, open_with=without_package
        )

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == (
        "s3:// file-system not supported. It needs the package 's3fs': pip install 'troupe[cloud]'"
    )
