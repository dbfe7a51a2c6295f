"""Objects are downloaded once, whole, and within the budget."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from repo.cloud.download_cache import DownloadCache
from repo.cloud.listing import RemoteFile


class Shop:
    """Serves contents by key and counts."""

    def __init__(self, **contents: bytes) -> None:
        self.contents = contents
        self.served: list[str] = []

    def file(self, key: str, *, md5: str = "") -> RemoteFile:
        content = self.contents[key]
        return RemoteFile(key, len(content), hashlib.sha256(content).hexdigest(), 0, md5)

    def download(self, file: RemoteFile, to: Path) -> None:
        self.served.append(file.key)
        to.write_bytes(self.contents[file.key])


@pytest.fixture
def cache(tmp_path: Path) -> DownloadCache:
    return DownloadCache(tmp_path / "cache", 1 << 20)


def test_an_object_is_downloaded_once(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha", b=b"")

    for target in (tmp_path / "first", tmp_path / "second"):
        cache.fill(target, {"1/a": shop.file("a"), "b": shop.file("b")}, shop.download)
        assert (target / "1" / "a").read_bytes() == b"alpha"
        assert (target / "b").read_bytes() == b""

    assert sorted(shop.served) == ["a", "b"]


def test_a_cache_outlives_its_process(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha")
    cache.fill(tmp_path / "first", {"a": shop.file("a")}, shop.download)

    DownloadCache(tmp_path / "cache", 100).fill(
        tmp_path / "second", {"a": shop.file("a")}, shop.download
    )

    assert shop.served == ["a"]


def test_other_content_is_another_object(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha")
    cache.fill(tmp_path / "first", {"a": shop.file("a")}, shop.download)
    shop.contents["a"] = b"other"

    cache.fill(tmp_path / "second", {"a": shop.file("a")}, shop.download)

    assert (tmp_path / "second" / "a").read_bytes() == b"other"
    assert shop.served == ["a", "a"]


def test_a_copy_may_be_written_to(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha")
    cache.fill(tmp_path / "first", {"a": shop.file("a")}, shop.download)
    (tmp_path / "first" / "a").write_bytes(b"scribble")

    cache.fill(tmp_path / "second", {"a": shop.file("a")}, shop.download)

    assert (tmp_path / "second" / "a").read_bytes() == b"alpha"
    assert shop.served == ["a"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"alphA"), id="changed"),
        pytest.param(lambda path: path.write_bytes(b"al"), id="cut"),
        pytest.param(lambda path: path.with_suffix(".sha256").unlink(), id="no checksum"),
    ],
)
def test_a_damaged_entry_is_downloaded_anew(
    tmp_path: Path, cache: DownloadCache, damage: Callable[[Path], object]
) -> None:
    shop = Shop(a=b"alpha")
    cache.fill(tmp_path / "first", {"a": shop.file("a")}, shop.download)
    (entry,) = (path for path in (tmp_path / "cache").glob("??/*") if not path.suffix)
    damage(entry)

    cache.fill(tmp_path / "second", {"a": shop.file("a")}, shop.download)

    assert (tmp_path / "second" / "a").read_bytes() == b"alpha"
    assert shop.served == ["a", "a"]


def test_an_object_that_was_replaced_meanwhile_is_not_taken(
    tmp_path: Path, cache: DownloadCache
) -> None:
    shop = Shop(a=b"alpha")
    listed = shop.file("a", md5=hashlib.md5(b"alpha").hexdigest())
    for content in (b"longer than before", b"other"):
        shop.contents["a"] = content
        with pytest.raises(OSError, match="may have been replaced meanwhile"):
            cache.fill(tmp_path / "target", {"a": listed}, shop.download)

    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_failed_download_leaves_nothing(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha")

    def fail(_file: RemoteFile, to: Path) -> None:
        to.write_bytes(b"al")
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="the line went dead"):
        cache.fill(tmp_path / "target", {"a": shop.file("a")}, fail)

    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_two_who_want_the_same_share_one_download(tmp_path: Path, cache: DownloadCache) -> None:
    shop = Shop(a=b"alpha")
    begun, may_end = threading.Event(), threading.Event()

    def slowly(file: RemoteFile, to: Path) -> None:
        begun.set()
        may_end.wait(10)
        shop.download(file, to)

    def fill(name: str) -> threading.Thread:
        arguments = (tmp_path / name, {"a": shop.file("a")}, slowly)
        thread = threading.Thread(target=cache.fill, args=arguments)
        thread.start()
        return thread

    first = fill("first")
    assert begun.wait(10)
    second = fill("second")
    may_end.set()
    first.join(10)
    second.join(10)

    assert shop.served == ["a"]
    assert (tmp_path / "second" / "a").read_bytes() == b"alpha"


def test_the_longest_unused_leaves_first(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path / "cache", 10)
    shop = Shop(a=b"aaaa", b=b"bbbb", c=b"cccc")
    for age, key in enumerate("ab"):
        cache.fill(tmp_path / key, {key: shop.file(key)}, shop.download)
        for path in (tmp_path / "cache").glob("??/*"):
            if path.read_bytes() == shop.contents[key]:
                os.utime(path, ns=(age, age))

    cache.fill(tmp_path / "c", {"c": shop.file("c")}, shop.download)
    cache.fill(tmp_path / "again", {key: shop.file(key) for key in "cb"}, shop.download)
    assert shop.served == ["a", "b", "c"]

    cache.fill(tmp_path / "again", {"a": shop.file("a")}, shop.download)
    assert shop.served == ["a", "b", "c", "a"]
