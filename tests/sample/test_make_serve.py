"""What `make serve` starts: the samples that this environment can serve."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TORCH = "--model-repository sample_repository_torch"
HINT = "pip install -e '.[torch]'"


def recipe(venv: Path, *, finds_torch: bool) -> list[str]:
    """The lines that `make serve` would run in an environment that stands ready in `venv`."""
    programs = venv / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f"#!/bin/sh\necho {'yes' if finds_torch else ''}\n")
    python.chmod(0o755)
    (programs / "pip").touch()
    (venv / ".serve").touch()
    shown = subprocess.run(
        ["make", "--dry-run", "serve", f"VENV={venv}", "ARGS=--http-port=9000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in shown.stdout.splitlines() if "make[" not in line]


def test_what_needs_pytorch_is_served_where_there_is_pytorch(tmp_path: Path) -> None:
    (started,) = recipe(tmp_path, finds_torch=True)
    assert started == (
        f"{tmp_path}/bin/troupe serve --model-repository sample_repository {TORCH} "
        "--admin-port=8003 --http-port=9000"
    )


def test_without_pytorch_one_line_says_how_to_get_the_rest(tmp_path: Path) -> None:
    said, started = recipe(tmp_path, finds_torch=False)
    assert said.startswith("echo ")
    assert HINT in said
    assert started == (
        f"{tmp_path}/bin/troupe serve --model-repository sample_repository "
        "--admin-port=8003 --http-port=9000"
    )


@pytest.mark.parametrize("name", ["README.md", "sample_repository_torch/README.md"])
def test_readers_are_told_the_same_command(name: str) -> None:
    assert HINT in (ROOT / name).read_text()
