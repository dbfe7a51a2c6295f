"""How long Troupe and Triton take to be ready with one Python model, and what they hold then.

    python bench/start_up.py [--rounds N]

Each server starts alone, in turns, on a repository of nothing but `bench/models/identity`. Ready is
the first 200 of `/v2/health/ready`. Memory is that of the whole process tree: PSS counts a page
that several processes share once in all, RSS once for each, and the server's own RSS leaves the
model's process out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from peer_servers import start_triton, start_troupe
from processes import ServerFailed, memory

HERE = Path(__file__).parent
MODEL = "identity"
STARTS = {"troupe": start_troupe, "triton": start_triton}


def own_rss(pid: int) -> float:
    """MiB of the server's process alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        shutil.copytree(HERE / "models" / MODEL, repository / MODEL)
        for _ in range(options.rounds):
            for name, start in STARTS.items():
                try:
                    with start(repository, log=Path(folder) / f"{name}.log") as endpoint:
                        server = endpoint.server
                        held = memory(server.pid)
                        found[name].append(
                            (server.ready_seconds, own_rss(server.pid), held.pss, held.rss)
                        )
                except ServerFailed as failed:
                    print(f"{name} is left out: {failed}")
    print("| server | ready after s | its own RSS MiB | PSS of all MiB | RSS of all MiB |")
    print("|---|--:|--:|--:|--:|")
    for name, runs in found.items():
        if not runs:
            continue
        seconds, *memories = zip(*runs, strict=True)
        cells = [
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
            *(f"{statistics.median(values):.0f}" for values in memories),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
