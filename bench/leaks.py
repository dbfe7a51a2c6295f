"""Loads and unloads a model a thousand times, and says what the server then holds more than before.

    python bench/leaks.py [--cycles 1000] [--model add_sub] [--model simple] [--json FILE]

Every cycle loads the model, has one request answered, unloads it, and waits until nothing of it is
left. A few cycles go before, for lazy imports and the zygote; the server is measured after every
tenth of those that count. Fails if there are more processes, descriptors, threads or shared memory
than at the first measurement, or more memory than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import peers
from peer_servers import Endpoint, start_troupe
from processes import ServerFailed, process_tree

SAMPLES = peers.ROOT / "sample_repository"
# One of the Python backend, in a worker process, and one of ONNX Runtime, in a thread.
MODELS = ("add_sub", "simple")
# Growth of the server's resident memory over nine tenths of the cycles. The allocator keeps some
# free memory back, and how much depends on where the last blocks happen to lie.
TOLERANCE_MIB = 8.0
MEASUREMENTS = 10
WARM_UP_CYCLES = 5
SETTLE_SECONDS = 20.0
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Held:
    """What the server and its children hold between two cycles."""

    cycles: int
    rss_mib: float  # of the server itself
    children_mib: float  # of the zygote, once there is one
    processes: int
    descriptors: int
    threads: int
    memory_files: int  # descriptors and mappings of anonymous shared memory
    shm_files: int  # the same of files in /dev/shm

    def more_than(self, first: Held, tolerance_mib: float) -> list[str]:
        """What has grown since `first`."""
        found = [
            name
            for name in ("processes", "descriptors", "threads", "memory_files", "shm_files")
            if getattr(self, name) > getattr(first, name)
        ]
        grown = self.rss_mib - first.rss_mib + self.children_mib - first.children_mib
        return [*found, f"memory by {grown:.1f} MiB"] if grown > tolerance_mib else found


def _status(pid: int, field: str) -> int:
    """A number out of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return 0


def _descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:  # the one that reads this very list
            continue
    return found


def held(pid: int, cycles: int = 0) -> Held:
    """What the process tree of `pid` holds now."""
    tree = list(process_tree(pid))
    descriptors = {each: _descriptors(each) for each in tree}
    places = [target for found in descriptors.values() for target in found]
    for each in tree:
        places += Path(f"/proc/{each}/maps").read_text().splitlines()
    return Held(
        cycles=cycles,
        rss_mib=_status(pid, "VmRSS") / 1024,
        children_mib=sum(_status(each, "VmRSS") for each in tree if each != pid) / 1024,
        processes=len(tree),
        descriptors=sum(map(len, descriptors.values())),
        threads=sum(_status(each, "Threads") for each in tree),
        memory_files=sum("/memfd:" in place for place in places),
        shm_files=sum("/dev/shm/" in place for place in places),
    )


def ask(address: str, path: str, body: object = None) -> object:
    """POST JSON to the server. Raises OSError for anything but success."""
    request = urllib.request.Request(
        f"http://{address}/v2/{path}", json.dumps(body or {}).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=SETTLE_SECONDS) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def request_of(model: str) -> object:
    """A request that the model answers; both take two inputs of sixteen values."""
    datatype = {"add_sub": "FP32", "simple": "INT32"}[model]
    return {
        "inputs": [
            {"name": f"INPUT{n}", "datatype": datatype, "shape": [1, 16], "data": [1] * 16}
            for n in (0, 1)
        ]
    }


def settle(address: str, pid: int, model: str, processes: int) -> None:
    """Wait until the model is unloaded and its processes are gone. Raises TimeoutError."""
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < give_up_at:
        rows = ask(address, "repository/index")
        assert isinstance(rows, list), "the index is a list"
        state = next(row.get("state") for row in rows if row["name"] == model)
        if state == "UNAVAILABLE" and len(process_tree(pid)) <= processes:
            return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"'{model}' was not unloaded within {SETTLE_SECONDS} s")


def cycle(address: str, pid: int, model: str, processes: int) -> None:
    """Load, infer, unload, and wait for the end of it."""
    ask(address, f"repository/models/{model}/load")
    ask(address, f"models/{model}/infer", request_of(model))
    ask(address, f"repository/models/{model}/unload")
    settle(address, pid, model, processes)


def run(endpoint: Endpoint, model: str, cycles: int, say: Callable[[Held], None]) -> list[Held]:
    """All cycles of one model; `say` hears of each measurement."""
    pid = endpoint.server.pid
    # The server, and the zygote that comes with the second worker.
    processes = 2 if model == "add_sub" else len(process_tree(pid))
    for _ in range(WARM_UP_CYCLES):
        cycle(endpoint.http, pid, model, processes)
    found: list[Held] = []
    for number in range(1, cycles + 1):
        cycle(endpoint.http, pid, model, processes)
        if number % max(1, cycles // MEASUREMENTS) == 0:
            found.append(held(pid, number))
            say(found[-1])
    return found


def print_row(row: Held) -> None:
    print(
        f"| {row.cycles} | {row.rss_mib:.1f} | {row.children_mib:.1f} | {row.processes} "
        f"| {row.descriptors} | {row.threads} | {row.memory_files} | {row.shm_files} |",
        flush=True,
    )


def measure(model: str, cycles: int, tolerance_mib: float, logs: Path) -> tuple[list[Held], bool]:
    """One model in a server of its own; the measurements, and whether nothing has grown."""
    flags = ("--model-control-mode=explicit",)
    with start_troupe(SAMPLES, log=logs / f"{model}.log", flags=flags) as endpoint:
        print(f"\n{model}, {cycles} cycles\n")
        print(
            "| cycles | server RSS MiB | zygote RSS MiB | processes | descriptors | threads "
            "| shared memory | /dev/shm |"
        )
        print("|--:|--:|--:|--:|--:|--:|--:|--:|")
        began = time.monotonic()
        found = run(endpoint, model, cycles, print_row)
        seconds = time.monotonic() - began
    grown = found[-1].more_than(found[0], tolerance_mib)
    verdict = f"has grown: {', '.join(grown)}" if grown else "nothing has grown"
    print(f"\n{verdict}; {seconds / cycles * 1e3:.0f} ms per cycle")
    return found, not grown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="what a thousand loads leave behind")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--tolerance-mib", type=float, default=TOLERANCE_MIB)
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    options = parser.parse_args(arguments)
    results: dict[str, list[Held]] = {}
    clean = True
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.model or MODELS:
            try:
                results[model], good = measure(
                    model, options.cycles, options.tolerance_mib, Path(scratch)
                )
            except (ServerFailed, TimeoutError, urllib.error.URLError) as failed:
                print(failed, file=sys.stderr)
                return 1
            clean = clean and good
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.json:
        rows = {model: [asdict(row) for row in found] for model, found in results.items()}
        options.json.write_text(json.dumps(rows, indent=1))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
