"""`troupe config convert`: prints a model's configuration in another form.

Owns the command line; exit status 0 is done, 1 a file that is no configuration, 2 a command that
makes no sense. Nothing that a configuration says is lost, but comments are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from protocol.status import ServerError
from repo.config_files import SUFFIXES, read_config, write_config


def config(arguments: Sequence[str]) -> int:
    """Convert the file that the arguments name; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="troupe config")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="print a configuration in another form")
    convert.add_argument("file", metavar="FILE", help="config.pbtxt, config.json or config.yaml")
    convert.add_argument("--to", choices=tuple(SUFFIXES.values()), required=True)
    try:
        asked = parser.parse_args(arguments)
    except SystemExit as ended:  # argparse has printed why, or the help
        return 2 if ended.code else 0
    try:
        print(write_config(read_config(Path(asked.file)), asked.to), end="")
    except ServerError as error:
        print(f"troupe config: {error.message}", file=sys.stderr)
        return 1
    return 0
