"""The program: arguments in, exit status out.

Owns standard output and standard error, and the progress line that a terminal gets. Nothing is
printed there that a pipe could not read.
"""

from __future__ import annotations

import gc
import sys
import time  # noqa: TID251  # the export carries the time of day
from collections.abc import Sequence
from importlib import metadata
from typing import Final

import trio

from perf_analyzer.command_line import HELP, VERSION, parse, scan, usage
from perf_analyzer.in_process import Embed
from perf_analyzer.model import SetupError
from perf_analyzer.options import BadOption, Options
from perf_analyzer.profiler import EXIT_ERROR, EXIT_OK
from perf_analyzer.session import Ports, Session

ERASE_LINE: Final = "\r\x1b[K"
# The hot path makes no cycles; what else does is rare.
GARBAGE_THRESHOLD: Final = 100_000
# A progress line must not wrap: it could not be erased.
MAX_PROGRESS: Final = 100


class Terminal:
    """Says things on the two streams; progress only where somebody watches."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._progressing = False

    def _clear(self) -> None:
        if self._progressing:
            sys.stderr.write(ERASE_LINE)
            self._progressing = False

    def out(self, line: str) -> None:
        self._clear()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def error(self, line: str) -> None:
        self._clear()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def progress(self, text: str) -> None:
        if not self._watched:
            return
        self._clear()
        if text:
            sys.stderr.write(text[:MAX_PROGRESS])
            self._progressing = True
        sys.stderr.flush()


def perf(arguments: Sequence[str], *, embed: Embed | None = None) -> int:
    """Run the load generator; the result is the exit status.

    `embed` starts a server in this process, for --service-kind triton_c_api.
    """
    terminal = Terminal()
    try:
        special = scan(arguments)
        if HELP in special:
            terminal.out(usage())
            return EXIT_OK
        if VERSION in special:
            terminal.error(f"Perf Analyzer of Troupe {metadata.version('troupe')}")
            return EXIT_OK
        options = parse(arguments)
    except BadOption as error:
        terminal.error(f"Error: {error}\nUse --help for the list of options.")
        return EXIT_ERROR
    for warning in options.warnings:
        terminal.error(warning)
    status = EXIT_OK
    try:
        status = trio.run(_run, options, embed, terminal)
    except* SetupError as group:
        terminal.error(f"error: {group.exceptions[0]}")
        status = EXIT_ERROR
    except* KeyboardInterrupt:
        """Ctrl-C before the run had begun or after it had ended: leave at once."""
    return status


async def _run(options: Options, embed: Embed | None, terminal: Terminal) -> int:
    gc.collect()
    gc.freeze()  # what is loaded by now lives on; the collector need not look at it again
    gc.set_threshold(GARBAGE_THRESHOLD)  # every look at it is a latency of some request
    session = Session(options, Ports(wall_ns=time.time_ns, embed=embed), terminal)
    return await session.run()
