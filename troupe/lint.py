"""`troupe lint`: checks a model repository without serving it.

Owns the command line, the choice of colours and the exit status: 0 for a clean repository, 1 for
one with problems, 2 for a command that makes no sense. What is checked stands in `repo.lint`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from repo.backends.registry import DEFAULT_DIRECTORY
from repo.instance_groups import NO_GPU, DeviceTable, GpuDevice
from repo.lint.models import LintOptions
from repo.lint.report import Painter, as_diff, as_json, as_text, fixed_texts
from repo.lint.repository import check_repositories

CLEAN: Final = 0
PROBLEMS: Final = 1
USAGE: Final = 2

MAX_GPUS: Final = 1024  # more than any machine has


def lint(arguments: Sequence[str]) -> int:
    """Check what the arguments name; the result is the exit status."""
    parser = _parser()
    try:
        asked = parser.parse_args(arguments)
        if asked.write and not asked.fix:
            parser.error("--write goes with --fix")
        if asked.gpus is not None and not 0 <= asked.gpus <= MAX_GPUS:
            parser.error(f"--gpus must be from 0 to {MAX_GPUS}")
    except SystemExit as ended:  # argparse has printed why, or the help
        return USAGE if ended.code else CLEAN
    options = LintOptions(
        devices=_devices(asked.gpus),
        backend_directory=asked.backend_directory,
        config_name=asked.model_config_name,
    )
    paths = [Path(path) for path in asked.paths]
    wrong = next((path for path in paths if not path.is_dir()), None)
    if wrong is not None:
        print(f"troupe lint: {wrong} is not a directory", file=sys.stderr)
        return USAGE
    try:
        with _silent_log():
            report = check_repositories(paths, options)
    except OSError as error:
        print(f"troupe lint: {error}", file=sys.stderr)
        return USAGE
    if asked.format == "json":
        print(as_json(report), end="")
    else:
        print(as_text(report, Painter(colours=_wants_colours())), end="")
    if asked.fix:
        fixed = fixed_texts(report)
        print(as_diff(fixed), end="", file=sys.stderr if asked.format == "json" else sys.stdout)
        if asked.write:
            for path, (_, after) in fixed.items():
                path.write_bytes(after.encode())
    failing = report.count("error") + (report.count("warning") if asked.strict else 0)
    return PROBLEMS if failing else CLEAN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="troupe lint", description="Check model repositories without serving them."
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a model repository")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--strict", action="store_true", help="warnings fail, too")
    parser.add_argument("--fix", action="store_true", help="show, as a diff, what is safe to fix")
    parser.add_argument("--write", action="store_true", help="with --fix: change the files")
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="COUNT",
        help="how many GPUs the server has; without it, those that configurations name",
    )
    parser.add_argument(
        "--backend-directory",
        default=DEFAULT_DIRECTORY,
        metavar="PATH",
        help=f"where Python-based backends stand (default: {DEFAULT_DIRECTORY})",
    )
    parser.add_argument(
        "--model-config-name",
        default="",
        metavar="NAME",
        help="check configs/NAME.pbtxt where there is one, as the server's flag does",
    )
    return parser


def _devices(count: int | None) -> DeviceTable | None:
    if count is None:
        return None
    return DeviceTable(tuple(GpuDevice(number) for number in range(count))) if count else NO_GPU


def _wants_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


@contextmanager
def _silent_log() -> Iterator[None]:
    """What the rules would log is in the report."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
