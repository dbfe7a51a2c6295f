"""`pb_utils.Logger`: lines for the server's log."""

from __future__ import annotations

import enum

from . import host, wire
from .errors import expect


class LogLevel(enum.IntEnum):
    """Triton's levels; the numbers are this wire's."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


LogLevelT = LogLevel  # inside Logger its name means the attribute


class Logger:
    """Static: a model has one log, the server's."""

    LogLevel = LogLevel
    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: LogLevelT = LogLevel.INFO) -> None:
        """Write one line. Raises TypeError for anything but a str and a level."""
        expect(message, str, "message")
        expect(level, LogLevel, "level")
        host.current().send(wire.Log(int(level), message))

    @staticmethod
    def log_info(message: str) -> None:
        Logger.log(message, LogLevel.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        Logger.log(message, LogLevel.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        Logger.log(message, LogLevel.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        Logger.log(message, LogLevel.VERBOSE)
