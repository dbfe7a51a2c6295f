"""`troupe lint` and `troupe config`: arguments, exit statuses, forms of the report, fixes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from troupe.config import config
from troupe.lint import lint

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"

TENSORS = (
    'input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
    'output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
)


def make(repository: Path, name: str, text: str, file: str = "config.pbtxt") -> Path:
    directory = repository / name
    (directory / "1").mkdir(parents=True)
    (directory / file).write_text(text)
    return directory / file


def test_the_samples_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint([str(ROOT / "sample_repository"), "--strict"]) == 0
    assert "no problems" in capsys.readouterr().out


@pytest.mark.parametrize(("case", "arguments", "status"), [
    ("clean", [], 0),
    ("clean", ["--strict"], 0),
    ("zero-dim", [], 1),
    ("swap-file", [], 0),
    ("swap-file", ["--strict"], 1),
    ("note-delay", ["--strict"], 0),
    ("no-gpu", [], 0),  # there may be one where it will be served
    ("no-gpu", ["--gpus=0"], 1),
    ("no-gpu", ["--gpus=1"], 0),
    ("clean", ["--gpus=-1"], 2),
    ("clean", ["--write"], 2),
    ("clean", ["--colour"], 2),
    ("clean", ["--help"], 0),
    ("nowhere", [], 2),
])  # fmt: skip
def test_the_exit_status(case: str, arguments: list[str], status: int) -> None:
    assert lint([str(GOLDEN / case / "repository"), *arguments]) == status


def test_no_path_is_a_mistake() -> None:
    assert lint([]) == 2


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint([str(GOLDEN / "onnx-dims" / "repository"), "--format=json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["errors"], report["warnings"], report["notes"], report["models"]) == (2, 0, 0, 1)
    first = report["problems"][0]
    assert (first["line"], first["column"], first["severity"]) == (7, 5, "error")
    assert (first["expected"], first["found"]) == ("[ batch | 16 ]", "[ batch | 8 ]")
    assert (first["fix"], first["fixable"]) == ("write dims: [ 16 ]", False)


def test_a_fix_is_shown_and_only_written_when_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(GOLDEN / "all-slips-at-once" / "repository", tmp_path / "r")
    file = tmp_path / "r" / "m" / "config.pbtxt"
    before = file.read_text()

    assert lint([str(tmp_path / "r"), "--fix"]) == 1
    shown = capsys.readouterr().out
    assert "-max_batchsize: 8\n" in shown
    assert "+max_batch_size: 8\n" in shown
    assert file.read_text() == before

    assert lint([str(tmp_path / "r"), "--fix", "--write"]) == 1
    assert lint([str(tmp_path / "r"), "--strict"]) == 0


def test_the_fix_of_a_name_keeps_the_rest(tmp_path: Path) -> None:
    file = make(tmp_path, "right", f"# é\nname: 'wrong' backend: \"identity\"\n{TENSORS}")
    assert lint([str(tmp_path), "--fix", "--write"]) == 1
    assert file.read_text() == f'# é\nname: "right" backend: "identity"\n{TENSORS}'
    assert lint([str(tmp_path)]) == 0


def test_fixes_of_yaml_and_json(tmp_path: Path) -> None:
    text = (
        "backend: identity\ninput: [{name: INPUT0, datatype: fp32, dims: [4]}]\n"
        "output: [{name: OUTPUT0, data_type: 'TYPE_FP23', dims: [4]}]\n"
    )
    made = make(tmp_path, "y", text, "config.yaml")
    made_json = make(tmp_path, "j", '{"backend": "identity", "max_batchsize": 0}', "config.json")
    assert lint([str(tmp_path), "--fix", "--write"]) == 1
    assert "data_type: TYPE_FP32" in made.read_text()
    assert "'TYPE_FP32'" in made.read_text()
    assert made_json.read_text() == '{"backend": "identity", "max_batch_size": 0}'


def test_two_repositories_with_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, "m", f'backend: "identity"\n{TENSORS}')
    assert lint([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "model 'm' appears in two or more repositories" in capsys.readouterr().out


def test_a_model_is_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "m", f'backend: "identity"\n{TENSORS}')
    assert lint([str(tmp_path / "m")]) == 1
    assert f"check {tmp_path} instead" in capsys.readouterr().out


def test_an_empty_repository_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint([str(tmp_path)]) == 0
    assert "the repository holds no model" in capsys.readouterr().out


def test_another_configuration_by_name(tmp_path: Path) -> None:
    make(tmp_path, "m", f'backend: "identity"\n{TENSORS}')
    (tmp_path / "m" / "configs").mkdir()
    (tmp_path / "m" / "configs" / "bad.pbtxt").write_text("nonsense")
    assert lint([str(tmp_path)]) == 0
    assert lint([str(tmp_path), "--model-config-name=bad"]) == 1


def test_colours_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(GOLDEN / "zero-dim" / "repository")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lint([path])
    assert "\x1b[" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lint([path])
    assert "\x1b[1;31merror:\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    lint([path])
    assert "\x1b[" not in capsys.readouterr().out


def test_a_file_cannot_paint_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "m", 'backend: "\x1b[31mx"\tnonsense: 1')
    assert lint([str(tmp_path)]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["pbtxt", "json", "yaml"])
def test_a_configuration_is_printed_in_another_form(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ROOT / "sample_repository" / "digits_pipeline" / "config.pbtxt"
    assert config(["convert", str(file), "--to", form]) == 0
    text = capsys.readouterr().out
    written = tmp_path / f"config.{form}"
    written.write_text(text)
    assert config(["convert", str(written), "--to", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ensemble_scheduling"]["step"][0]["input_map"] == {
        "IMAGE": "IMAGE"
    }


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make(tmp_path, "m", "dimz: 1")
    assert config(["convert", str(file), "--to", "yaml"]) == 1
    assert f"failed to read text proto from {file}:1:1" in capsys.readouterr().err
    assert config(["convert", str(file)]) == 2
    assert config(["--help"]) == 0


def test_whoever_reads_may_leave() -> None:
    """As in `troupe lint sample_repository | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "troupe", "lint", "sample_repository"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")
