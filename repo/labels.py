"""The label files that turn class indices into words.

Owns their reading and the rule that they stay inside the model's directory. It never decides
when a label is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protocol.status import internal, unsupported
from repo.file_names import leads_inside
from repo.model_config import ModelConfig


def load_labels(config: ModelConfig, model_directory: Path) -> dict[str, tuple[str, ...]]:
    """Output name → its labels, for every output that has a `label_filename`.

    Raises ServerError: UNSUPPORTED for a file outside the model directory, INTERNAL for one that
    cannot be read.
    """
    return {
        output.name: _read_labels(
            label_path(model_directory, output.label_filename, output.name, config.name)
        )
        for output in config.output
        if output.label_filename
    }


def label_path(
    model_directory: Path, label_filename: str, output_name: str, model_name: str
) -> Path:
    """Where a label file is; symbolic links are followed before its place is judged.

    Raises ServerError UNSUPPORTED when that is outside `model_directory`.
    """
    path = model_directory / label_filename
    if not leads_inside(path, model_directory):
        raise unsupported(
            f"label file path '{path}' for output '{output_name}' in model '{model_name}' "
            "is outside model directory"
        )
    return path


def label(labels: Sequence[str], index: int) -> str:
    """The label of a class; an index beyond the file has the empty label."""
    return labels[index] if 0 <= index < len(labels) else ""


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text("utf-8", errors="surrogateescape")
    except OSError as error:
        raise internal(f"failed to open text file for read {path}: {error.strerror}") from error
    # Only "\n" ends a line, as in Triton; a label may hold any other separator.
    lines = text.split("\n")
    return tuple(line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines))
