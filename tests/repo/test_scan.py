"""Listings of repositories, their differences, and the storage beneath them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.scan import (
    ModelIdentity,
    ModelTimestamps,
    Repository,
    RepositoryListing,
    diff,
    scan,
    version_files_changed,
)
from repo.storage import Downloads, Entry, LocalStorage, open_storage


def _model(repository: Path, name: str, *files: str) -> Path:
    directory = repository / name
    for file in ("1/model.onnx", *files):
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return directory


def _listing(*repositories: Path, namespacing: bool = False) -> RepositoryListing:
    return scan(
        [Repository(open_storage(str(path), Downloads())) for path in repositories],
        namespacing=namespacing,
    )


def _touch(path: Path, ns: int) -> None:
    """Give `path` an mtime far in the future, which no other change can reach."""
    os.utime(path, ns=(ns, ns))


FUTURE_NS = 4_000_000_000 * 10**9
M = ModelIdentity("", "m")


def test_every_directory_is_a_model(tmp_path: Path) -> None:
    _model(tmp_path, "a", "config.pbtxt", "10/model.onnx", "labels.txt")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README").write_text("")

    models = _listing(tmp_path).models

    assert set(models) == {ModelIdentity("", "a"), ModelIdentity("", ".git")}
    entry = models[ModelIdentity("", "a")]
    assert entry.name == "a"
    assert entry.path == str(tmp_path / "a")
    assert entry.subdirectories == ("1", "10")
    assert entry.versions() == (1, 10)
    assert set(entry.timestamps.entries_ns) == {"1", "10", "config.pbtxt", "labels.txt"}


def test_the_chosen_configuration_falls_back_to_the_common_one(tmp_path: Path) -> None:
    _model(tmp_path, "a", "config.pbtxt", "configs/h100.pbtxt")
    _model(tmp_path, "b", "config.pbtxt")
    _model(tmp_path, "c")
    a, b, c = (_listing(tmp_path).models[ModelIdentity("", name)] for name in "abc")

    assert a.config_path() == "a/config.pbtxt"
    assert a.config_path("h100") == "a/configs/h100.pbtxt"
    assert b.config_path("h100") == "b/config.pbtxt"
    assert c.config_path("h100") is None


def test_the_same_name_twice_is_a_duplicate_without_namespaces(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _model(one, "m")
    _model(two, "m")
    _model(two, "n")

    listing = _listing(one, two)

    assert set(listing.models) == {ModelIdentity("", "n")}
    assert listing.duplicates == {M}


def test_with_namespaces_both_are_models(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _model(one, "m")
    _model(two, "m")

    listing = _listing(one, two, namespacing=True)

    assert set(listing.models) == {ModelIdentity(str(one), "m"), ModelIdentity(str(two), "m")}
    assert not listing.duplicates
    assert str(ModelIdentity(str(one), "m")) == f"{one}::m"
    assert str(M) == "m"


def test_a_mapped_directory_is_seen_under_its_mapped_name_only(tmp_path: Path) -> None:
    _model(tmp_path, "dir")
    _model(tmp_path, "other")
    repository = Repository(LocalStorage(str(tmp_path)), {"m": "dir", "ghost": "nowhere"})

    models = scan([repository]).models

    assert set(models) == {M, ModelIdentity("", "other")}
    assert models[M].path == str(tmp_path / "dir")


def test_a_listing_without_change_has_no_difference(tmp_path: Path) -> None:
    _model(tmp_path, "m")
    changes = diff(_listing(tmp_path), _listing(tmp_path))

    assert changes.unmodified == (M,)
    assert changes.added == changes.removed == changes.modified == ()


def test_models_come_and_go(tmp_path: Path) -> None:
    directory = _model(tmp_path, "m")
    before = _listing(tmp_path)
    directory.rename(tmp_path / "n")
    changes = diff(before, _listing(tmp_path))

    assert changes.added == (ModelIdentity("", "n"),)
    assert changes.removed == (M,)


@pytest.mark.parametrize("changed", ["", "1", "1/model.onnx", "config.pbtxt", "1/deep/weights"])
def test_a_newer_file_anywhere_modifies_the_model(tmp_path: Path, changed: str) -> None:
    directory = _model(tmp_path, "m", "config.pbtxt", "1/deep/weights")
    before = _listing(tmp_path)
    _touch(directory / changed, FUTURE_NS)

    assert diff(before, _listing(tmp_path)).modified == (M,)


def test_an_older_file_than_the_newest_does_not_modify_the_model(tmp_path: Path) -> None:
    directory = _model(tmp_path, "m", "config.pbtxt")
    _touch(directory / "config.pbtxt", FUTURE_NS)
    before = _listing(tmp_path)
    (directory / "1" / "model.onnx").write_text("changed now, which is before the future")

    assert diff(before, _listing(tmp_path)).unmodified == (M,)


def test_a_model_that_moved_to_another_repository_is_modified(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _model(one, "m")
    two.mkdir()
    before = _listing(one, two)
    _model(two, "m")
    _touch(one / "m", 0)
    (one / "m").rename(tmp_path / "gone")

    assert diff(before, _listing(one, two)).modified == (M,)


def test_an_unreadable_part_makes_all_timestamps_zero(tmp_path: Path) -> None:
    directory = _model(tmp_path, "m")
    (directory / "1" / "dangling").symlink_to(tmp_path / "nowhere")

    entry = _listing(tmp_path).models[M]

    assert entry.timestamps == ModelTimestamps()
    assert entry.timestamps.latest_ns == 0


@pytest.mark.parametrize(
    ("changed", "reload"),
    [
        ("1/model.onnx", True),
        ("labels.txt", True),
        (".config.pbtxt.swp", True),
        ("2/model.onnx", False),
        ("config.pbtxt", False),
        ("configs/a.pbtxt", False),
    ],
)
def test_only_files_that_a_version_reads_reload_it(
    tmp_path: Path, changed: str, reload: bool
) -> None:
    directory = _model(tmp_path, "m", "2/model.onnx", "labels.txt", "config.pbtxt")
    before = _listing(tmp_path).models[M]
    path = directory / changed
    path.parent.mkdir(exist_ok=True)
    path.write_text("new")
    _touch(path, FUTURE_NS)

    after = _listing(tmp_path).models[M]
    assert version_files_changed(before.timestamps, after.timestamps, 1) is reload


def test_storage_reads_a_tree(tmp_path: Path) -> None:
    _model(tmp_path, "m", "config.pbtxt")
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"')
    storage = open_storage(str(tmp_path), Downloads())

    assert storage.location == str(tmp_path)
    assert storage.entries("m") == [Entry("1", True), Entry("config.pbtxt", False)]
    assert storage.read_bytes("m/config.pbtxt") == b'name: "m"'
    assert storage.exists("m/1")
    assert not storage.exists("m/2")
    checkout = storage.checkout("m")
    assert checkout.directory == tmp_path / "m"
    checkout.release()
    assert checkout.directory.is_dir()


def test_the_newest_change_counts_metadata_too(tmp_path: Path) -> None:
    directory = _model(tmp_path, "m")
    _touch(directory, 0)  # as if copied in with its old mtime
    storage = open_storage(str(tmp_path), Downloads())

    assert storage.latest_change_ns("m", recursive=False) == (directory.stat().st_ctime_ns)


def test_a_repository_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as failure:
        open_storage(str(tmp_path / "missing"), Downloads())

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == "repository path is not a valid directory"
