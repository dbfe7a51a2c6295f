"""The `checksum` repository agent: a model is loaded only if its files are what they should be.

Each parameter is `MD5:<file, relative to the model directory>` → the digest in lower-case hex.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from protocol.status import internal, invalid_arg, unsupported
from repo.agents import AgentModel, RepositoryAgent

_ALGORITHMS: Final = {"MD5": "md5"}
_CHUNK_BYTES: Final = 1 << 20  # read at a time: a model file may be larger than memory


class ChecksumAgent(RepositoryAgent):
    """Compares digests; see the module's docstring."""

    def load(self, model: AgentModel) -> None:
        if not model.is_local:
            raise unsupported(
                "checksum agent does not support models of remote repositories, got model "
                f"'{model.name}'"
            )
        for key, expected in self.parameters.items():
            algorithm, colon, file = key.partition(":")
            if not colon:
                raise invalid_arg(f"failed to parse key: {key}")
            name = _ALGORITHMS.get(algorithm.upper())
            if name is None:
                raise unsupported(f"Unsupported checksum algorithm: {algorithm}")
            found = _digest(name, model.directory / file)
            if found != expected:
                raise invalid_arg(
                    f"Mismatched {algorithm.upper()} hash for file {file}, expect: {expected}, "
                    f"got: {found}"
                )


def _digest(algorithm: str, path: Path) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise internal(f"failed to open text file for read {path}: {error.strerror}") from error
    return digest.hexdigest()
