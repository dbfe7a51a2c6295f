"""The file of API keys: read at the start, and again when the operator says so.

Owns the keyring that every guard looks at. A file that cannot be used stops the server at its
start; later the keys stay as they were.
"""

from __future__ import annotations

import logging
from pathlib import Path

from actors.settings.options import ServerOptions
from protocol.api_keys import ApiKeys, Keyring
from protocol.status import ServerError, invalid_arg

log = logging.getLogger(__name__)


class KeyFile:
    """`keyring` holds what the file said when it was last read; nothing if there is no file."""

    def __init__(self, options: ServerOptions) -> None:
        """Raises INVALID_ARG when the file cannot be used."""
        self._path = options.api_keys
        self.keyring = Keyring(self._read() if self._path else None)

    def reload(self) -> None:
        """Read the file again, if there is one."""
        if not self._path:
            return
        try:
            keys = self._read()
        except ServerError as error:
            log.error("API keys stay as they were: %s", error.message)
            return
        self.keyring.replace(keys)
        log.info("%s API keys hold from now on", len(keys.allowed))

    def _read(self) -> ApiKeys:
        try:
            return ApiKeys.parse(Path(self._path).read_text(encoding="utf-8"))
        except OSError as error:
            raise invalid_arg(
                f"--api-keys '{self._path}' cannot be read: {error.strerror}"
            ) from None
        except ValueError as error:
            raise invalid_arg(f"--api-keys '{self._path}': {error}") from None
