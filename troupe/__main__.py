"""`troupe <command>`: one program, several jobs."""

from __future__ import annotations

import sys

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
    match sys.argv[1:]:
        case ["serve", *arguments]:
            from troupe.serve import serve

            sys.exit(serve(arguments))
        case ["perf", *arguments]:
            from perf_analyzer.main import perf
            from troupe.perf import embedded

            sys.exit(perf(arguments, embed=embedded))
        case ["lint", *arguments]:
            from troupe.lint import lint

            sys.exit(lint(arguments))
        case ["config", *arguments]:
            from troupe.config import config

            sys.exit(config(arguments))
        case ["key", *arguments]:
            from troupe.key import key

            sys.exit(key(arguments))
        case ["top", *arguments]:
            from troupe.top import top

            sys.exit(top(arguments))
        case ["simulate", *arguments]:
            from simulation.__main__ import main as simulate

            sys.exit(simulate(arguments))
        case ["--version"]:
            from troupe.server import VERSION

            print(VERSION)
        case ["--help" | "-h"]:
            print(USAGE)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
