"""`python -m simulation`: see the world of one seed, or judge those of many."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from simulation.report import judge, story, summary
from simulation.sweep import available_processes, sweep


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status is 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="troupe simulate", description="Run random worlds in virtual time."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="tell what happens in the world of this seed")
    which.add_argument("--sweep", type=int, metavar="COUNT", help="judge so many worlds")
    parser.add_argument("--first", type=int, default=0, help="the sweep's first seed (0)")
    parser.add_argument(
        "--processes",
        type=int,
        default=available_processes(),
        help="how many processes sweep (one for each core)",
    )
    parser.add_argument("--digest", action="store_true", help="print the trace's digest only")
    options = parser.parse_args(arguments)
    # What the server logs is part of the verdict, and of nothing that is printed.
    logging.getLogger().addHandler(logging.NullHandler())
    if options.sweep is not None:
        return 0 if sweep(options.first, options.sweep, max(1, options.processes)) else 1
    verdict = judge(options.seed)
    if options.digest:
        print(verdict.digest)  # noqa: T201  # this is a command
        return 0
    for line in story(verdict):
        print(line)  # noqa: T201  # as above
    print(summary(verdict))  # noqa: T201  # as above
    return 1 if verdict.problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
