"""`troupe <command>`: one program, several jobs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USAGE = """\
usage: troupe <command> [options]

commands:
  serve     serve a model repository (also: tritonserver)
  perf      measure a server under load (also: perf_analyzer)
  lint      check a model repository without serving it
  config    print a model's configuration in another form
  key       make an API key for --api-keys
  top       watch a server in the terminal, by its admin port
  simulate  run random worlds in virtual time, or see the one of a seed

`troupe <command> --help` lists the options of a command."""


def main() -> None:
    """Run the command that the first argument names."""
    if sys.argv[1:2] == ["serve"]:
        from troupe.serve import serve

        sys.exit(serve(sys.argv[2:]))
    with _whoever_reads_may_leave():
        status = _run(sys.argv[1:])
    sys.exit(status)


def _run(words: list[str]) -> int:
    """A command that ends by itself; its exit status."""
    match words:
        case ["perf", *arguments]:
            from perf_analyzer.main import perf
            from troupe.perf import embedded

            return perf(arguments, embed=embedded)
        case ["lint", *arguments]:
            from troupe.lint import lint

            return lint(arguments)
        case ["config", *arguments]:
            from troupe.config import config

            return config(arguments)
        case ["key", *arguments]:
            from troupe.key import key

            return key(arguments)
        case ["top", *arguments]:
            from troupe.top import top

            return top(arguments)
        case ["simulate", *arguments]:
            from simulation.__main__ import main as simulate

            return simulate(arguments)
        case ["--version"]:
            from troupe.server import VERSION

            print(VERSION)
            return 0
        case ["--help" | "-h"]:
            print(USAGE)
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return 2


@contextmanager
def _whoever_reads_may_leave() -> Iterator[None]:
    """`troupe lint models | head` ends as other commands do, with no word about a broken pipe."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer is written at exit: to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
