"""The server's log, in Triton's two formats, by settings that may change at any time.

Every message is written as a JSON string, so that no request can forge a line. Information goes to
standard output, warnings and errors to standard error; a log file takes all of it, and can be moved
away and opened anew while the server runs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Final

from actors.channels import Watch
from actors.settings.log_settings import LogSettings
from actors.settings.options import ServerOptions
from protocol.status import invalid_arg

log = logging.getLogger(__name__)

_LETTERS = {logging.ERROR: "E", logging.CRITICAL: "E", logging.WARNING: "W"}


class TritonFormatter(logging.Formatter):
    """`I1124 00:49:40.123456 4242 file.py:123] "message"`, or the ISO8601 form of it; UTC."""

    def __init__(self, *, escape: bool) -> None:
        super().__init__()
        self._escape = escape

    def format(self, record: logging.LogRecord) -> str:
        letter = _LETTERS.get(record.levelno, "I")
        moment = time.gmtime(record.created)
        place = f"{record.process} {record.filename}:{record.lineno}]"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        if self._escape:
            message = _escaped(message)
        if _current.value.style == "ISO8601":
            return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)} {letter} {place} {message}"
        micros = int(record.created % 1 * 1e6)
        return f"{letter}{time.strftime('%m%d %H:%M:%S', moment)}.{micros:06d} {place} {message}"


# What ends a line or commands a terminal, and JSON leaves as it is.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escaped(message: str) -> str:
    """A JSON string literal of printable characters only."""
    return _UNSAFE.sub(
        lambda found: f"\\u{ord(found[0]):04x}", json.dumps(message, ensure_ascii=False)
    )


class _Below(logging.Filter):
    """Lets through what is less severe than a warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING


class _Wanted(logging.Filter):
    """Lets through the severities that operators left switched on."""

    def filter(self, record: logging.LogRecord) -> bool:
        settings = _current.value
        if record.levelno >= logging.ERROR:
            return settings.error
        if record.levelno >= logging.WARNING:
            return settings.warning
        if record.levelno >= logging.INFO:
            return settings.info
        return settings.verbose_level > 0


# A process has one log, and so one set of settings for it.
_current: Final = Watch(LogSettings())


def configure(options: ServerOptions) -> None:
    """Direct every logger of the process to where the operator wants it.

    Raises ServerError INVALID_ARG when the log file cannot be written.
    """
    escape = os.environ.get("TRITON_SERVER_ESCAPE_LOG_MESSAGES", "1") != "0"
    formatter = TritonFormatter(escape=escape)
    handlers: list[logging.Handler]
    if options.log_file:
        try:
            handlers = [logging.FileHandler(options.log_file, encoding="utf-8")]
        except OSError as error:
            raise invalid_arg(
                f"--log-file '{options.log_file}' cannot be written: {error.strerror}"
            ) from None
    else:
        out = logging.StreamHandler(sys.stdout)
        out.addFilter(_Below())
        err = logging.StreamHandler(sys.stderr)
        err.setLevel(logging.WARNING)
        handlers = [out, err]
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_Wanted())
        root.addHandler(handler)
    follow(LogSettings.of(options))


def reopen() -> None:
    """Open the log file anew, for whoever has moved it away; keep the old one if that fails."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            continue
        try:
            stream = Path(handler.baseFilename).open("a", encoding="utf-8")  # noqa: SIM115  # the handler closes it
        except OSError as error:
            log.error(
                "the log file '%s' cannot be opened again: %s",
                handler.baseFilename,
                error.strerror,
            )
            continue
        old = handler.setStream(stream)
        if old is not None:
            old.close()


def follow(settings: LogSettings) -> None:
    """Write what `settings` ask for from now on, if this is the process's log at all."""
    _current.value = settings
    root = logging.getLogger()
    if any(isinstance(each, _Wanted) for handler in root.handlers for each in handler.filters):
        root.setLevel(logging.DEBUG if settings.verbose_level else logging.INFO)
