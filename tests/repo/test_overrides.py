"""What a load request may bring along, and what it must not touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.overrides import LoadOverrides, override_directory, parse_overrides


def refusal(parameters: dict[str, str | bytes]) -> str:
    with pytest.raises(ServerError) as caught:
        override_directory("m", parse_overrides(parameters).files)
    assert caught.value.status is StatusCode.INVALID_ARG
    return caught.value.message


def test_nothing_is_an_override_of_nothing() -> None:
    assert parse_overrides({}) == LoadOverrides()
    assert parse_overrides({"config": "{}"}) == LoadOverrides("{}")


def test_files_make_a_directory_that_ends_with_its_last_user() -> None:
    files = parse_overrides({"config": "{}", "file:1/model.py": b"a", "file:1/a/b.txt": b"b"}).files
    checkout = override_directory("m", files)

    assert checkout.directory.name == "m"
    assert (checkout.directory / "1" / "model.py").read_bytes() == b"a"
    assert (checkout.directory / "1" / "a" / "b.txt").read_bytes() == b"b"
    checkout.retain()
    checkout.retain()
    checkout.release()
    assert checkout.directory.exists()
    checkout.release()
    assert not checkout.directory.parent.exists()


@pytest.mark.parametrize(
    "name",
    [
        "file:../x",
        "file:/etc/x",
        "file:1/../../x",
        "file:",
        "file:1/" + 256 * "a",
        "file:1/a\0b",
        "file:1\\..\\x",
    ],
)
def test_a_path_out_of_the_directory_is_refused_and_nothing_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    text = refusal({"config": "{}", "file:1/model.py": b"", name: b"x"})

    assert text == (
        f"Invalid file parameter '{name}' with normalized path '{name[5:]}' must stay within "
        "model directory."
    )
    assert not list(tmp_path.iterdir())


def test_a_file_cannot_be_a_directory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    text = refusal({"config": "{}", "file:1": b"", "file:1/model.py": b""})

    assert text == (
        "Invalid file parameter 'file:1/model.py', directory has been created as a file"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"file:1/x": b""}, "Load parameter 'config' must be specified for model file override"),
        ({"config": b"{}"}, "Config parameter 'config' must have string type for its value"),
        ({"file:1/x": "y"}, "File parameter 'file:1/x' must have bytes type for its value"),
        ({"speed": "y"}, "Unrecognized load parameter 'speed' with type 'string'"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, str | bytes], text: str) -> None:
    assert refusal(parameters) == text
