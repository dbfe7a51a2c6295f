"""What a load request brings along: a configuration in place of the file, or the files themselves.

Files go into a fresh directory that only this model sees and that ends with it; a path that would
leave it is refused before anything is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from protocol.status import internal, invalid_arg
from repo.storage import Checkout

CONFIG: Final = "config"
FILE_PREFIX: Final = "file:"
# What file systems allow; a longer name fails while writing, which is too late.
MAX_COMPONENT_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class LoadOverrides:
    """The parameters of a load request, sorted."""

    config: str | None = None  # JSON
    files: Mapping[str, bytes] = field(default_factory=dict)  # parameter name → content


def parse_overrides(parameters: Mapping[str, str | bytes]) -> LoadOverrides:
    """Raises ServerError INVALID_ARG for a parameter that is unknown or of the wrong type."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, value in parameters.items():
        if name == CONFIG:
            if not isinstance(value, str):
                raise invalid_arg("Config parameter 'config' must have string type for its value")
            config = value
        elif name.startswith(FILE_PREFIX):
            if not isinstance(value, bytes):
                raise invalid_arg(f"File parameter '{name}' must have bytes type for its value")
            files[name] = value
        else:
            kind = "bytes" if isinstance(value, bytes) else "string"
            raise invalid_arg(f"Unrecognized load parameter '{name}' with type '{kind}'")
    if files and config is None:
        raise invalid_arg("Load parameter 'config' must be specified for model file override")
    return LoadOverrides(config, files)


def override_directory(model_name: str, files: Mapping[str, bytes]) -> Checkout:
    """The model directory `<fresh directory>/<model name>` made of a request's files.

    Raises ServerError: INVALID_ARG for a path that may not be, INTERNAL if it cannot be written.
    """
    places = {name: _place(name) for name in files}
    root = Path(tempfile.mkdtemp(prefix="troupe-model-"))
    checkout = Checkout(root / model_name, partial(shutil.rmtree, root, ignore_errors=True))
    for name, content in files.items():
        path = checkout.directory / places[name]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            checkout.release()
            raise invalid_arg(
                f"Invalid file parameter '{name}', directory has been created as a file"
            ) from None
        except OSError as error:
            checkout.release()
            raise internal(f"failed to write file parameter '{name}': {error}") from None
    return checkout


def _place(name: str) -> PurePosixPath:
    """Where a file goes, relative to the model directory. Raises INVALID_ARG."""
    path = PurePosixPath(name.removeprefix(FILE_PREFIX))
    fits = all(0 < len(part.encode()) <= MAX_COMPONENT_BYTES for part in path.parts)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or not fits
        or any(character in name for character in "\0\\")
    ):
        shown = name.removeprefix(FILE_PREFIX)
        raise invalid_arg(
            f"Invalid file parameter '{name}' with normalized path '{shown}' must stay within "
            "model directory."
        )
    return path
