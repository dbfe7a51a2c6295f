"""Execution environments: another interpreter, and other libraries, for one model's worker.

Owns the archives that have been unpacked for this server: each once, shared by all models, and
removed when the server ends. Runs in the server only; blocking.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.status import internal

MODEL_DIRECTORY: Final = "$$TRITON_MODEL_DIRECTORY"


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter, and the process environment that it is to be started in."""

    interpreter: str
    variables: Mapping[str, str]


def own_environment() -> Environment:
    """The server's own."""
    return Environment(sys.executable, dict(os.environ))


class EnvironmentStore:
    """The unpacked archives; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By archive and its time of change: one per archive that an operator has put there.
        self._unpacked: dict[tuple[Path, int], Path] = {}
        self._root: Path | None = None

    def open(self, location: str, model_directory: Path) -> Environment:
        """The environment at EXECUTION_ENV_PATH: a directory, a packed one, or an interpreter.

        Raises ServerError.
        """
        path = self._resolve(location, model_directory)
        if path.is_dir():
            return _of_directory(path)
        if os.access(path, os.X_OK) and not tarfile.is_tarfile(path):
            return Environment(str(path), dict(os.environ))
        return _of_directory(self._unpack(path))

    def close(self) -> None:
        """Remove what was unpacked."""
        with self._lock:
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)
                self._root = None
            self._unpacked.clear()

    def _resolve(self, location: str, model_directory: Path) -> Path:
        if location.startswith(MODEL_DIRECTORY):
            location = str(model_directory) + location.removeprefix(MODEL_DIRECTORY)
        path = Path(location)
        if not path.exists():
            raise internal(f"Failed to get the canonical path for {location}.")
        # An interpreter is known by its own path: in a virtual environment it is a link.
        return path.absolute() if path.is_file() and path.is_symlink() else path.resolve()

    def _unpack(self, archive: Path) -> Path:
        archive = archive.resolve()
        with self._lock:
            key = (archive, archive.stat().st_mtime_ns)
            known = self._unpacked.get(key)
            if known is not None:
                return known
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="troupe-environments-"))
                atexit.register(self.close)
            target = Path(tempfile.mkdtemp(dir=self._root))
            try:
                with tarfile.open(archive) as packed:
                    # Refuses what would be written, or would point, outside of `target`.
                    packed.extractall(target, filter="data")
            except (tarfile.TarError, OSError, EOFError) as error:
                shutil.rmtree(target, ignore_errors=True)
                raise internal(f"Failed to extract '{archive}': {error}") from error
            self._unpacked[key] = target
            return target


def _of_directory(directory: Path) -> Environment:
    activate = directory / "bin" / "activate"
    if not activate.exists():
        raise internal(
            f"Path {activate} does not exist. The Python environment should contain an 'activate' "
            "script."
        )
    for name in ("python3", "python"):
        interpreter = directory / "bin" / name
        if interpreter.exists():
            break
    else:
        raise internal(f"Path {directory / 'bin'} contains no Python interpreter.")
    variables = dict(os.environ)
    # What its `activate` does, without a shell.
    variables["VIRTUAL_ENV"] = str(directory)
    variables["PATH"] = _prepended(directory / "bin", variables.get("PATH"))
    variables["LD_LIBRARY_PATH"] = _prepended(directory / "lib", variables.get("LD_LIBRARY_PATH"))
    variables.pop("PYTHONHOME", None)
    return Environment(str(interpreter), variables)


def _prepended(directory: Path, value: str | None) -> str:
    return f"{directory}:{value}" if value else str(directory)
