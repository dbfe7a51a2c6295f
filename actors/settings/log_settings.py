"""What the server logs: settings that operators change while it runs.

Owns the settings, published as a snapshot in a Watch. Whoever writes the log is told of every
change through the port it was given; changes come whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.channels import Watch
from actors.settings.options import ServerOptions
from protocol.v2_json_control import LogUpdate


@dataclass(frozen=True, slots=True)
class LogSettings:
    """One consistent set; `style` is "default" or "ISO8601"."""

    file: str = ""
    info: bool = True
    warning: bool = True
    error: bool = True
    verbose_level: int = 0
    style: str = "default"

    @classmethod
    def of(cls, options: ServerOptions) -> LogSettings:
        """What the command line asked for."""
        return cls(
            file=options.log_file,
            info=options.log_info,
            warning=options.log_warning,
            error=options.log_error,
            verbose_level=options.log_verbose,
            style=options.log_format,
        )


FollowLogSettings = Callable[[LogSettings], None]
"""Tells the log's writer what to write from now on."""


class LogControl:
    """The one place where log settings change."""

    def __init__(self, settings: LogSettings, *, follow: FollowLogSettings) -> None:
        self.settings = Watch(settings)
        self._follow = follow

    def update(self, update: LogUpdate) -> LogSettings:
        """Change what `update` names, and return what holds now."""
        current = self.settings.value
        self.settings.value = replace(
            current,
            info=_or(update.info, current.info),
            warning=_or(update.warning, current.warning),
            error=_or(update.error, current.error),
            verbose_level=(
                current.verbose_level if update.verbose_level is None else update.verbose_level
            ),
            style=update.format or current.style,
        )
        self._follow(self.settings.value)
        return self.settings.value


def _or(wanted: bool | None, current: bool) -> bool:
    return current if wanted is None else wanted
