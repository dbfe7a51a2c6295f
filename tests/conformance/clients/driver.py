"""Calls every method of one tritonclient flavour against a running server.

    python driver.py --flavour grpc.aio --address 127.0.0.1:8001 [--skip GROUP ...]

Runs inside the environment of the client release under test (run.py does all of them). The server
must serve the repository that repository.py writes, in explicit control mode with every model
loaded, and must let clients use shared memory. Prints one line and ends with 0 if everything
holds; else prints what failed and ends with 1.
"""

# ruff: noqa: T201  # a command line prints

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version

import check_control  # noqa: F401  # importing registers the checks
import check_data  # noqa: F401
import check_infer  # noqa: F401
import check_shared_memory  # noqa: F401
import check_streams  # noqa: F401
from checks import groups, run_checks
from flavours import NAMES, Flavour


def main() -> int:
    parser = argparse.ArgumentParser(description="check a server with one tritonclient flavour")
    parser.add_argument("--flavour", choices=NAMES, required=True)
    parser.add_argument("--address", required=True, help="host:port of its protocol")
    parser.add_argument("--only", nargs="+", choices=groups(), help="run these groups alone")
    parser.add_argument("--skip", nargs="+", choices=groups(), default=[])
    parser.add_argument("--older", action="store_true", help="the server is Triton 2.51")
    options = parser.parse_args()
    chosen = [each for each in options.only or groups() if each not in options.skip]

    flavour = Flavour(options.flavour, options.address)
    flavour.accept_older = options.older
    passed, failures = run_checks(flavour, chosen)
    flavour.close()
    missed = ", ".join(sorted(flavour.methods() - flavour.called))
    if missed and chosen == groups():
        failures.append(f"{flavour.name}: no check calls {missed}")

    for failure in failures:
        print(failure)
    left_out = f", without {', '.join(options.skip)}" if options.skip else ""
    left_out += f", never called: {missed}" if missed and not options.only else ""
    print(
        f"tritonclient {version('tritonclient')} {flavour.name}: "
        f"{passed} passed, {len(failures)} failed{left_out}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
