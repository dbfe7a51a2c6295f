"""Log settings change whole, and whoever writes the log hears of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from actors.settings.log_settings import LogControl, LogSettings
from actors.settings.options import ServerOptions
from protocol.v2_json_control import LogUpdate
from troupe import logs


def test_an_update_changes_what_it_names() -> None:
    heard: list[LogSettings] = []
    control = LogControl(LogSettings(file="x"), follow=heard.append)

    now = control.update(LogUpdate(info=False, verbose_level=2))
    assert now == LogSettings(file="x", info=False, verbose_level=2)
    later = control.update(LogUpdate(warning=False, error=False, format="ISO8601", info=True))
    assert later == LogSettings("x", True, False, False, 2, "ISO8601")
    assert control.update(LogUpdate()) == later
    assert heard == [now, later, later]
    assert control.settings.value == later


def test_the_command_line_is_where_it_starts() -> None:
    options = ServerOptions(
        log_verbose=3, log_info=False, log_error=False, log_format="ISO8601", log_file="f"
    )

    assert LogSettings.of(options) == LogSettings("f", False, True, False, 3, "ISO8601")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The process's own log, put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.follow(LogSettings())


def test_the_log_follows(root: logging.Logger) -> None:
    logs.configure(ServerOptions())
    for handler in root.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(io.StringIO())
    out = root.handlers[0].stream  # type: ignore[attr-defined]  # a StreamHandler, as above
    log = logging.getLogger("test")

    def written(message: str) -> str:
        before = len(out.getvalue())
        log.info(message)
        log.debug(message)
        return str(out.getvalue()[before:])

    assert written("one").startswith("I")
    logs.follow(LogSettings(style="ISO8601"))
    assert written("two")[4] == "-"
    logs.follow(LogSettings(info=False))
    assert written("three") == ""
    logs.follow(LogSettings(verbose_level=1))
    assert written("four").count("four") == 2
    logs.follow(LogSettings())
    assert written("five").count("five") == 1


def test_a_program_that_embeds_the_server_keeps_its_own_log(root: logging.Logger) -> None:
    root.setLevel(logging.ERROR)

    logs.follow(LogSettings(verbose_level=5))

    assert root.level == logging.ERROR
