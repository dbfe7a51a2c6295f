"""Objects seen as directories, and when those have changed."""

from __future__ import annotations

import pytest

from repo.cloud.listing import ChangeClock, Listing, RemoteFile

FILE = RemoteFile("bucket/key", 1, "tag", 5)


def test_directories_are_read_out_of_keys_and_markers() -> None:
    listing = Listing()
    for path in ("m/config.pbtxt", "m/1/model.py", "ensemble/1/", "README", ""):
        listing.add(path, FILE)

    assert listing.directories == {
        "": {"m": True, "ensemble": True, "README": False},
        "m": {"config.pbtxt": False, "1": True},
        "m/1": {"model.py": False},
        "ensemble": {"1": True},
        "ensemble/1": {},
    }
    assert sorted(listing.files) == ["README", "m/1/model.py", "m/config.pbtxt"]
    assert sorted(listing.below("m")) == ["m/1/model.py", "m/config.pbtxt"]
    assert sorted(listing.below("m/config.pbtxt")) == ["m/config.pbtxt"]
    assert not listing.below("mm")


def test_a_marker_beside_its_files_stays_a_directory() -> None:
    listing = Listing()
    for path in ("m/1/", "m/1/model.py", "m/1/"):
        listing.add(path, FILE)

    assert listing.directories["m"] == {"1": True}
    assert listing.directories["m/1"] == {"model.py": False}


@pytest.mark.parametrize(
    "path", ["m/../../evil", "m//file", "m/./file", "..", "m/a\\b", "m/a\0b", "../m/file"]
)
def test_a_key_that_could_leave_its_directory_is_no_path(path: str) -> None:
    listing = Listing()
    listing.add(path, FILE)

    assert listing.hostile == {path.split("/", maxsplit=1)[0]: "bucket/key"}
    assert not listing.files
    assert listing.directories == {"": {}}


def test_what_is_dated_later_has_changed_then() -> None:
    clock = ChangeClock()

    assert clock.changed_ns("m", ["a 1"], 10) == 10
    assert clock.changed_ns("m", ["a 1"], 10) == 10
    assert clock.changed_ns("m", ["a 2"], 20) == 20


def test_what_looks_different_without_a_later_date_is_the_newest_of_all() -> None:
    clock = ChangeClock()
    clock.changed_ns("m", ["a 1", "b 1"], 10)
    clock.changed_ns("other", ["c 1"], 50)

    assert clock.changed_ns("m", ["a 1", "b 2"], 10) == 51  # written twice within a second
    assert clock.changed_ns("m", ["a 1"], 9) == 52  # one was taken away
    assert clock.changed_ns("m", ["a 1"], 9) == 52
