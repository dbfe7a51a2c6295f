"""Names of files in a configuration: each stays where the model's files are.

Owns the rule for names that a backend opens below a version's directory. It is about the text
alone: what the operator has put there, a symbolic link included, is the operator's matter. Labels
and warm-up data, which the server itself reads, are also followed to where they lead
(`repo.labels`, `repo.warmup`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from repo.model_config import ModelConfig
from repo.refusals import ConfigRefusal


def file_name_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    """One for each name that would lead out of a version's directory."""
    names = {"default_model_filename": config.default_model_filename}
    for capability, name in config.cc_model_filenames.items():
        names[f"cc_model_filenames['{capability}']"] = name
    for setting, name in names.items():
        if not stays_inside(name):
            yield ConfigRefusal(
                f"{setting} '{name}' of model '{config.name}' is outside the version directory",
                setting.replace("'", '"'),
            )


def stays_inside(name: str) -> bool:
    """Whether a relative name, as it is written, can only lead further down."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\0" in name)


def leads_inside(path: Path, directory: Path) -> bool:
    """Whether a file, followed to where its links lead, is somewhere below a directory."""
    if "\0" in str(path):
        return False  # no file has such a name
    return path.resolve().is_relative_to(directory.resolve())
