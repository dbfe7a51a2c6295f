"""How long single calls of a Python model take, and what sets the slow ones apart.

    python bench/slow_calls.py --before FOLDER [--calls 400] [--windows 40]

An identity in a worker process, one call at a time over gRPC, from a client that blocks on its
socket. This checkout and another one run all the time and are called in turn, in windows of some
hundred calls. Printed are percentiles over the quieter half of the windows, those with the least
median, since in the others the machine was busy with something else; and how often a call that is
slower than 99 of 100 comes at the same distance from the one before: a distance that stands out
is something that the server does every so many calls. Counting 128 executions at a time stood out
like that, at 128.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bench.worker_street import ROOT, Load, troupe

MODEL = "identity"
PERCENTILES = (10, 50, 90, 95, 98, 99, 99.9)
SLOW = 99  # percentile from which on a call counts as slow
DISTANCES = 5  # printed

Window = list[float]
"""What each call took, in microseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--calls", type=int, default=400, help="in a window")
    parser.add_argument("--windows", type=int, default=40, help="of each checkout")
    given = parser.parse_args()
    checkouts = {"now": ROOT, "before": given.before.resolve()}
    windows: dict[str, list[Window]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        repository = Path(scratch) / "models"
        shutil.copytree(ROOT / "bench" / "models" / MODEL, repository / MODEL)
        callers = {
            name: Caller(stack.enter_context(troupe(checkout, repository))[1])
            for name, checkout in checkouts.items()
        }
        for caller in callers.values():
            caller.window(given.calls)  # to warm up
        for number in range(given.windows):
            for name in ("now", "before") if number % 2 else ("before", "now"):
                windows[name].append(callers[name].window(given.calls))
    print("percentile " + "".join(f"{each:>8}" for each in PERCENTILES))
    for name, found in windows.items():
        print_row(name, found)


class Caller:
    """One connection with one call at a time."""

    def __init__(self, address: str) -> None:
        (self._peer,) = Load(address, MODEL, 1, 1).peers
        self._peer.socket.setblocking(True)

    def window(self, calls: int) -> Window:
        peer, took = self._peer, []
        for _ in range(calls):
            began = time.perf_counter_ns()
            peer.start(1)
            peer.flush()
            while not peer.receive():
                pass
            took.append((time.perf_counter_ns() - began) / 1e3)
        assert not peer.failed, "a call has failed"
        return took


def print_row(name: str, windows: list[Window]) -> None:
    quiet = sorted(windows, key=lambda window: float(np.median(window)))[: len(windows) // 2]
    figures = np.percentile(np.concatenate(quiet), PERCENTILES)
    limit = float(np.percentile(np.concatenate(quiet), SLOW))
    distances: Counter[int] = Counter()
    for window in quiet:
        slow = [place for place, each in enumerate(window) if each > limit]
        distances.update(np.diff(slow).tolist())
    common = ", ".join(f"{many} x {far}" for far, many in distances.most_common(DISTANCES))
    print(f"{name:11}" + "".join(f"{each:8.0f}" for each in figures) + f" us; apart: {common}")


if __name__ == "__main__":
    main()
