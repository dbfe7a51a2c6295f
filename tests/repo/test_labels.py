"""Label files: read line by line, and only from inside the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.labels import label, load_labels
from repo.pbtxt import parse_config


def _config(label_filename: str) -> str:
    return f'name: "m" output {{ name: "O" label_filename: "{label_filename}" }} output {{ }}'


def test_one_label_per_line(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("cat\r\n\ndog; big\u2028dog\n".encode())

    labels = load_labels(parse_config(_config("labels.txt"), "x"), tmp_path)

    assert labels == {"O": ("cat", "", "dog; big\u2028dog")}


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog")

    assert load_labels(parse_config(_config("labels.txt"), "x"), tmp_path)["O"] == ("cat", "dog")


def test_an_index_beyond_the_file_has_no_label() -> None:
    assert label(("cat",), 0) == "cat"
    assert label(("cat",), 1) == ""
    assert label(("cat",), -1) == ""


@pytest.mark.parametrize("name", ["../labels.txt", "/etc/hostname", "1/../../x", "link"])
def test_a_file_outside_the_model_is_refused(tmp_path: Path, name: str) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (tmp_path / "labels.txt").write_text("secret")
    (model / "link").symlink_to(tmp_path / "labels.txt")

    with pytest.raises(ServerError) as failure:
        load_labels(parse_config(_config(name), "x"), model)

    assert failure.value.status is StatusCode.UNSUPPORTED
    assert failure.value.message == (
        f"label file path '{model / name}' for output 'O' in model 'm' is outside model directory"
    )


def test_a_link_inside_the_model_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("cat\n")
    (tmp_path / "labels.txt").symlink_to("real.txt")

    assert load_labels(parse_config(_config("labels.txt"), "x"), tmp_path)["O"] == ("cat",)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as failure:
        load_labels(parse_config(_config("labels.txt"), "x"), tmp_path)

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == (
        f"failed to open text file for read {tmp_path / 'labels.txt'}: No such file or directory"
    )
